"""Decisions from predictions: abstain, choose actions by cost, flag unusual images, watch a stream for changes."""

from sfumato.decisions.abstention import UNITS, Abstention
from sfumato.decisions.costs import Costs, LogLoss, Look, Looking, LookMoments, Loss
from sfumato.decisions.drift import Drift
from sfumato.decisions.outliers import (
    MEASURES,
    OutlierFlag,
    benjamini_hochberg,
    exceedances,
    image_scores,
    local_means,
)
from sfumato.decisions.stored import Decisions
from sfumato.metrics.regions import boxes, label_regions

__all__ = [
    "MEASURES",
    "UNITS",
    "Abstention",
    "Costs",
    "Decisions",
    "Drift",
    "LogLoss",
    "Look",
    "LookMoments",
    "Looking",
    "Loss",
    "OutlierFlag",
    "benjamini_hochberg",
    "boxes",
    "exceedances",
    "image_scores",
    "label_regions",
    "local_means",
]
