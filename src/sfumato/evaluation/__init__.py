"""Score runs, calibrate them on held-out images, and compare them."""

from sfumato.evaluation.calibrate import CalibrationReport, calibrate, class_index, fit_conformal, reset
from sfumato.evaluation.calibrate_boxes import calibrate_boxes, fit_box_bounds
from sfumato.evaluation.compare import by_seed, compare
from sfumato.evaluation.comparison import ComparedCurve, ComparedScore, Comparison
from sfumato.evaluation.data import dataset_for, evaluated_data, ood_dataset, unlabeled_dataset
from sfumato.evaluation.evaluate import evaluate
from sfumato.evaluation.one import predict_sample
from sfumato.evaluation.results import (
    FILE,
    Evaluation,
    OODComparison,
    OODHistogram,
    ScoreTable,
    TaskEvaluation,
    Value,
)
from sfumato.runs import run_state

__all__ = [
    "FILE",
    "CalibrationReport",
    "ComparedCurve",
    "ComparedScore",
    "Comparison",
    "Evaluation",
    "OODComparison",
    "OODHistogram",
    "ScoreTable",
    "TaskEvaluation",
    "Value",
    "by_seed",
    "calibrate",
    "calibrate_boxes",
    "class_index",
    "compare",
    "dataset_for",
    "evaluate",
    "evaluated_data",
    "fit_box_bounds",
    "fit_conformal",
    "ood_dataset",
    "predict_sample",
    "reset",
    "run_state",
    "unlabeled_dataset",
]
