"""Runs: what training leaves, and what predicts. Opening a run needs no trainer."""

from sfumato.runs.device import DEVICES, resolve_device
from sfumato.runs.network import Normalized, build_network, load_weights, save_weights, weights_path
from sfumato.runs.plan import Config, Facts, Plan
from sfumato.runs.resolve import (
    calibrator_classes,
    likelihood_names,
    resolve_tasks,
    task_and_likelihood,
    task_arguments,
)
from sfumato.runs.run import Run, generator_for, image_key

__all__ = [
    "DEVICES",
    "Config",
    "Facts",
    "Normalized",
    "Plan",
    "Run",
    "build_network",
    "calibrator_classes",
    "generator_for",
    "image_key",
    "likelihood_names",
    "load_weights",
    "resolve_device",
    "resolve_tasks",
    "save_weights",
    "task_and_likelihood",
    "task_arguments",
    "weights_path",
]
