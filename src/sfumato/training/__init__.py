"""One LightningModule for all tasks, plans, runs and their evaluation."""

from sfumato.training.calibrating import calibrate, forget, promise
from sfumato.training.distillation import Taught, Teacher, distil, teacher_of
from sfumato.training.evaluation import Evaluation, evaluate, predict_image, predicted, predictions
from sfumato.training.plan import Plan, derive, fast_precision, working_size
from sfumato.training.recipes import METHODS, Recipe
from sfumato.training.run import Run, fit, generator_for, learnt, question, say

__all__ = [
    "METHODS",
    "Evaluation",
    "Plan",
    "Recipe",
    "Run",
    "Taught",
    "Teacher",
    "calibrate",
    "derive",
    "distil",
    "evaluate",
    "fast_precision",
    "fit",
    "forget",
    "generator_for",
    "learnt",
    "predict_image",
    "predicted",
    "predictions",
    "promise",
    "question",
    "say",
    "teacher_of",
    "working_size",
]
