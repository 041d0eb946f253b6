"""What comes out: predictions of classes, of values and of several tasks, the fold that builds one, and instances."""

from sfumato.predictions.aggregate import predict
from sfumato.predictions.classes import ClassMoments, ClassPrediction, entropy
from sfumato.predictions.instances import Instances, find_instances
from sfumato.predictions.joint import JointMoments, JointPrediction
from sfumato.predictions.sets import PredictionInterval, PredictionSet
from sfumato.predictions.stream import predict_streamed, read_window
from sfumato.predictions.tiles import predict_tiled
from sfumato.predictions.values import ValueMoments, ValuePrediction

__all__ = [
    "ClassMoments",
    "ClassPrediction",
    "Instances",
    "JointMoments",
    "JointPrediction",
    "PredictionInterval",
    "PredictionSet",
    "ValueMoments",
    "ValuePrediction",
    "entropy",
    "find_instances",
    "predict",
    "predict_streamed",
    "predict_tiled",
    "read_window",
]
