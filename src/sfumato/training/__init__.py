"""One LightningModule for all tasks, plans, runs and their evaluation."""

from sfumato.training.calibrating import calibrate, forget, promise
from sfumato.training.distillation import Taught, Teacher, distil, teacher_of
from sfumato.training.evaluation import Evaluation, evaluate, evaluate_each, predict_image, predicted, predictions
from sfumato.training.plan import Plan, derive, fast_precision, working_size
from sfumato.training.questions import asked, objective, question, scaled
from sfumato.training.recipes import METHODS, Recipe
from sfumato.training.run import Run, fit, generator_for, learnt, say

__all__ = [
    "METHODS",
    "Evaluation",
    "Plan",
    "Recipe",
    "Run",
    "Taught",
    "Teacher",
    "asked",
    "calibrate",
    "derive",
    "distil",
    "evaluate",
    "evaluate_each",
    "fast_precision",
    "fit",
    "forget",
    "generator_for",
    "learnt",
    "objective",
    "predict_image",
    "predicted",
    "predictions",
    "promise",
    "question",
    "say",
    "scaled",
    "teacher_of",
    "working_size",
]
