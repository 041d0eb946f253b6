"""One LightningModule for all tasks, plans, runs and their evaluation."""

from sfumato.training.evaluation import Evaluation, evaluate, generator_for, predict_image, predicted, predictions
from sfumato.training.plan import Plan, derive, fast_precision, working_size
from sfumato.training.run import METHODS, Run, fit, learnt, question, say

__all__ = [
    "METHODS",
    "Evaluation",
    "Plan",
    "Run",
    "derive",
    "evaluate",
    "fast_precision",
    "fit",
    "generator_for",
    "learnt",
    "predict_image",
    "predicted",
    "predictions",
    "question",
    "say",
    "working_size",
]
