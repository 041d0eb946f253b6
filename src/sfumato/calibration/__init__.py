"""Corrections that are fitted on held-out images: calibrators of predictions, and conformal sets and intervals."""

from sfumato.calibration.conformal import Conformal, ConformalIntervals, ConformalSets, conformal_for, risk_statement
from sfumato.calibration.held import Held, HeldValues
from sfumato.calibration.isotonic import Isotonic
from sfumato.calibration.local import LocalTemperature
from sfumato.calibration.risk import images_needed
from sfumato.calibration.scaling import ClassTemperature, Temperature, VectorScaling
from sfumato.calibration.values import QuantileMap, VarianceScaling

__all__ = [
    "ClassTemperature",
    "Conformal",
    "ConformalIntervals",
    "ConformalSets",
    "Held",
    "HeldValues",
    "Isotonic",
    "LocalTemperature",
    "QuantileMap",
    "Temperature",
    "VarianceScaling",
    "VectorScaling",
    "conformal_for",
    "images_needed",
    "risk_statement",
]
