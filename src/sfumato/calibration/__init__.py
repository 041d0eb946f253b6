"""What is put right after training, on held-out images: a prediction in, a prediction out, or a set with a promise."""

from sfumato.calibration.conformal import ConformalIntervals, ConformalSets, images_needed
from sfumato.calibration.isotonic import Isotonic
from sfumato.calibration.local import LocalTemperature
from sfumato.calibration.scaling import ClassTemperature, Temperature, VectorScaling
from sfumato.calibration.values import QuantileMap, VarianceScaling

__all__ = [
    "ClassTemperature",
    "ConformalIntervals",
    "ConformalSets",
    "Isotonic",
    "LocalTemperature",
    "QuantileMap",
    "Temperature",
    "VarianceScaling",
    "VectorScaling",
    "images_needed",
]
