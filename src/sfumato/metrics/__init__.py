"""Scores: mergeable statistics to numbers, all pixels, masked, in one pass."""

from sfumato.metrics.class_scores import ClassScores
from sfumato.metrics.ood_scores import OODScores
from sfumato.metrics.set_scores import SetScores
from sfumato.metrics.value_scores import ValueScores

__all__ = ["ClassScores", "OODScores", "SetScores", "ValueScores"]
