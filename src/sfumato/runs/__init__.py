"""Runs: what training leaves, and what predicts. Opening a run needs no trainer."""

from sfumato.runs.boxes import BoxFinder
from sfumato.runs.config import Config, Facts
from sfumato.runs.device import DEVICES, resolve_device
from sfumato.runs.network import Normalized, build_network, load_weights, save_weights, weights_path
from sfumato.runs.plan import Plan
from sfumato.runs.predictor import Backend, Predicted, Predictor, RunBackend, part_of, predict_seen
from sfumato.runs.probe import probe_network
from sfumato.runs.resolve import (
    calibrator_classes,
    likelihood_names,
    resolve_tasks,
    task_and_likelihood,
    task_arguments,
)
from sfumato.runs.run import Run, generator_for, image_key
from sfumato.runs.state import folder_state, prediction_state, run_state
from sfumato.runs.temporal import TemporalBackend

__all__ = [
    "DEVICES",
    "Backend",
    "BoxFinder",
    "Config",
    "Facts",
    "Normalized",
    "Plan",
    "Predicted",
    "Predictor",
    "Run",
    "RunBackend",
    "TemporalBackend",
    "build_network",
    "calibrator_classes",
    "folder_state",
    "generator_for",
    "image_key",
    "likelihood_names",
    "load_weights",
    "part_of",
    "predict_seen",
    "prediction_state",
    "probe_network",
    "resolve_device",
    "resolve_tasks",
    "run_state",
    "save_weights",
    "task_and_likelihood",
    "task_arguments",
    "weights_path",
]
