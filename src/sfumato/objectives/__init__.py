"""What training minimizes: a network and a batch to losses."""

from sfumato.objectives.base import BaseObjective, NothingToLearnError, TrainingPlan
from sfumato.objectives.build import build_objective, objective_class
from sfumato.objectives.energy import EnergyScore
from sfumato.objectives.loss_sum import Dice, Focal, LossSum, WeightedNLL
from sfumato.objectives.matching import Matching
from sfumato.objectives.nll import NLL, MultiTaskNLL
from sfumato.objectives.pose_losses import PoseNetGeometric, PoseNetLearned, PoseNetLoss
from sfumato.objectives.reprojection import Reprojection
from sfumato.objectives.temporal import TemporalConsistency
from sfumato.objectives.weightings import WEIGHTINGS, Weighting, weighting

__all__ = [
    "NLL",
    "WEIGHTINGS",
    "BaseObjective",
    "Dice",
    "EnergyScore",
    "Focal",
    "LossSum",
    "Matching",
    "MultiTaskNLL",
    "NothingToLearnError",
    "PoseNetGeometric",
    "PoseNetLearned",
    "PoseNetLoss",
    "Reprojection",
    "TemporalConsistency",
    "TrainingPlan",
    "WeightedNLL",
    "Weighting",
    "build_objective",
    "objective_class",
    "weighting",
]
