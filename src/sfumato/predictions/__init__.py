"""What comes out: predictions of classes and of values, and the fold that builds one from draws."""

from sfumato.predictions.classes import ClassMoments, ClassPrediction, entropy
from sfumato.predictions.fold import predict
from sfumato.predictions.sets import PredictionInterval, PredictionSet
from sfumato.predictions.tiles import predict_tiled
from sfumato.predictions.values import ValueMoments, ValuePrediction

__all__ = [
    "ClassMoments",
    "ClassPrediction",
    "PredictionInterval",
    "PredictionSet",
    "ValueMoments",
    "ValuePrediction",
    "entropy",
    "predict",
    "predict_tiled",
]
