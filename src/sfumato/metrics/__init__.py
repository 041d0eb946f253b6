"""Scores: mergeable statistics to numbers, all pixels, masked, in one pass."""

from sfumato.metrics.box_scores import BoxScores
from sfumato.metrics.by_class import DiceScore, PrAuc, PrecisionScore, RocAuc, Sensitivity, Specificity
from sfumato.metrics.class_scores import ClassScores
from sfumato.metrics.components import ComponentScores
from sfumato.metrics.disparity_scores import DisparityScores
from sfumato.metrics.fidelity import FidelityScores
from sfumato.metrics.instance_scores import InstanceScores
from sfumato.metrics.ood_scores import OODScores
from sfumato.metrics.panoptic_scores import PanopticScores
from sfumato.metrics.pose_scores import PoseScores
from sfumato.metrics.set_scores import SetScores
from sfumato.metrics.surface_distance import SurfaceDistance
from sfumato.metrics.temporal_scores import TemporalScores
from sfumato.metrics.truth_scores import TruthScores
from sfumato.metrics.value_scores import ValueScores
from sfumato.metrics.vector_scores import VectorScores

__all__ = [
    "BoxScores",
    "ClassScores",
    "ComponentScores",
    "DiceScore",
    "DisparityScores",
    "FidelityScores",
    "InstanceScores",
    "OODScores",
    "PanopticScores",
    "PoseScores",
    "PrAuc",
    "PrecisionScore",
    "RocAuc",
    "Sensitivity",
    "SetScores",
    "Specificity",
    "SurfaceDistance",
    "TemporalScores",
    "TruthScores",
    "ValueScores",
    "VectorScores",
]
