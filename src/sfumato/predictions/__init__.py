"""Predictions of classes, of values and of several tasks, and how they are computed from the draws of a method."""

from sfumato.predictions.aggregate import predict
from sfumato.predictions.classes import ClassMoments, ClassPrediction, entropy
from sfumato.predictions.event import over_channels, resize_maps, with_channels
from sfumato.predictions.joint import AnyPrediction, JointMoments, JointPrediction, TaskPrediction
from sfumato.predictions.masks import check_mask, select
from sfumato.predictions.mixture import mixed
from sfumato.predictions.poses import PoseMoments, PosePrediction
from sfumato.predictions.sets import PredictionInterval, PredictionSet
from sfumato.predictions.stream import predict_streamed, read_window
from sfumato.predictions.temporal import TemporalAggregation
from sfumato.predictions.tiles import predict_tiled
from sfumato.predictions.uncertainties import UNCERTAINTIES, uncertainties
from sfumato.predictions.values import ValueMoments, ValuePrediction

__all__ = [
    "UNCERTAINTIES",
    "AnyPrediction",
    "ClassMoments",
    "ClassPrediction",
    "JointMoments",
    "JointPrediction",
    "PoseMoments",
    "PosePrediction",
    "PredictionInterval",
    "PredictionSet",
    "TaskPrediction",
    "TemporalAggregation",
    "ValueMoments",
    "ValuePrediction",
    "check_mask",
    "entropy",
    "mixed",
    "over_channels",
    "predict",
    "predict_streamed",
    "predict_tiled",
    "read_window",
    "resize_maps",
    "select",
    "uncertainties",
    "with_channels",
]
