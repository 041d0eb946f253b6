"""One LightningModule for all tasks, plans, runs and their evaluation."""

from sfumato.training.evaluation import evaluate, predictions
from sfumato.training.plan import Plan, derive, fast_precision, working_size
from sfumato.training.run import METHODS, Run, fit, learnt, question

__all__ = [
    "METHODS",
    "Plan",
    "Run",
    "derive",
    "evaluate",
    "fast_precision",
    "fit",
    "learnt",
    "predictions",
    "question",
    "working_size",
]
