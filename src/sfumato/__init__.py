"""Uncertainty in dense prediction: how sure, per pixel, and why not.

A **method** draws the outputs of a network; a **likelihood** says what an output means; a **prediction** holds the
meaning, split into aleatoric and epistemic; everything after it speaks only of predictions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.likelihoods import Categorical, Gaussian, Laplace, LogitNormal
    from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
    from sfumato.metrics import ClassScores, OODScores, ValueScores
    from sfumato.predictions import ClassPrediction, ValuePrediction, predict

__version__ = "0.1.0"

_ROOMS = {
    "likelihoods": ("Categorical", "Gaussian", "Laplace", "LogitNormal"),
    "methods": ("DeepEnsemble", "Deterministic", "MCDropout"),
    "metrics": ("ClassScores", "OODScores", "ValueScores"),
    "predictions": ("ClassPrediction", "ValuePrediction", "predict"),
}
_HOME = {name: f"sfumato.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Categorical",
    "ClassPrediction",
    "ClassScores",
    "DeepEnsemble",
    "Deterministic",
    "Gaussian",
    "Laplace",
    "LogitNormal",
    "MCDropout",
    "OODScores",
    "ValuePrediction",
    "ValueScores",
    "__version__",
    "predict",
]


def __getattr__(name: str) -> Any:
    # Looked up when asked for, because torchmetrics, which the scores stand on, loads matplotlib where there is one.
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
