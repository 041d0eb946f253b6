"""One LightningModule for all tasks, plans, runs and their evaluation."""

from sfumato.training.calibrating import calibrate, fit_conformal, forget
from sfumato.training.distillation import Taught, Teacher, distil, teacher_of
from sfumato.training.evaluation import Evaluation, evaluate, evaluate_each, predict_image, predicted, predictions
from sfumato.training.plan import Plan, derive, fast_precision, working_size
from sfumato.training.questions import objective, question, resolve_tasks, with_target_statistics
from sfumato.training.recipes import METHODS, MethodTraining
from sfumato.training.run import Run, fit, generator_for, print_rank_zero, subset

__all__ = [
    "METHODS",
    "Evaluation",
    "MethodTraining",
    "Plan",
    "Run",
    "Taught",
    "Teacher",
    "calibrate",
    "derive",
    "distil",
    "evaluate",
    "evaluate_each",
    "fast_precision",
    "fit",
    "fit_conformal",
    "forget",
    "generator_for",
    "objective",
    "predict_image",
    "predicted",
    "predictions",
    "print_rank_zero",
    "question",
    "resolve_tasks",
    "subset",
    "teacher_of",
    "with_target_statistics",
    "working_size",
]
