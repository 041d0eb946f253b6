"""Uncertainty in dense prediction: how sure, per pixel, and why not.

A **method** draws the outputs of a network; a **likelihood** says what an output means; a **prediction** holds the
meaning, split into aleatoric and epistemic; everything after it speaks only of predictions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.likelihoods import (
        L1,
        Categorical,
        Dirichlet,
        DistilledClasses,
        DistilledValues,
        Gaussian,
        Joint,
        Laplace,
        LogitNormal,
        NormalInverseGamma,
        Tempered,
        weighting,
    )
    from sfumato.methods import (
        SWAG,
        BatchEnsemble,
        ConditionalVAE,
        DeepEnsemble,
        Deterministic,
        FeatureDensity,
        Heads,
        LastLayerLaplace,
        LatentDraws,
        MCDropout,
        MultiHead,
        Output,
        SWAGState,
        TestTimeAugmentation,
        VariancePropagation,
        Variational,
        cyclic_rate,
        dropout_rates,
        inject_concrete_dropout,
        inject_dropout,
        kl_divergence,
        make_batch_ensemble,
        make_multi_head,
        make_variational,
        refresh_batch_norm,
    )
    from sfumato.metrics import (
        ClassScores,
        FidelityScores,
        InstanceScores,
        OODScores,
        PanopticScores,
        SetScores,
        ValueScores,
    )
    from sfumato.predictions import (
        ClassPrediction,
        Instances,
        JointPrediction,
        PredictionInterval,
        PredictionSet,
        ValuePrediction,
        find_instances,
        predict,
        predict_streamed,
        predict_tiled,
        read_window,
    )

__version__ = "0.1.0"

_ROOMS = {
    "likelihoods": (
        "L1",
        "Categorical",
        "Dirichlet",
        "DistilledClasses",
        "DistilledValues",
        "Gaussian",
        "Joint",
        "Laplace",
        "LogitNormal",
        "NormalInverseGamma",
        "Tempered",
        "weighting",
    ),
    "methods": (
        "SWAG",
        "BatchEnsemble",
        "ConditionalVAE",
        "DeepEnsemble",
        "Deterministic",
        "FeatureDensity",
        "Heads",
        "LastLayerLaplace",
        "LatentDraws",
        "MCDropout",
        "MultiHead",
        "Output",
        "TestTimeAugmentation",
        "SWAGState",
        "VariancePropagation",
        "Variational",
        "cyclic_rate",
        "dropout_rates",
        "inject_concrete_dropout",
        "inject_dropout",
        "kl_divergence",
        "make_batch_ensemble",
        "make_multi_head",
        "make_variational",
        "refresh_batch_norm",
    ),
    "metrics": (
        "ClassScores",
        "FidelityScores",
        "InstanceScores",
        "OODScores",
        "PanopticScores",
        "SetScores",
        "ValueScores",
    ),
    "predictions": (
        "ClassPrediction",
        "Instances",
        "JointPrediction",
        "PredictionInterval",
        "PredictionSet",
        "ValuePrediction",
        "find_instances",
        "predict",
        "predict_streamed",
        "predict_tiled",
        "read_window",
    ),
}
_HOME = {name: f"sfumato.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = [
    "L1",
    "SWAG",
    "BatchEnsemble",
    "Categorical",
    "ClassPrediction",
    "ClassScores",
    "ConditionalVAE",
    "DeepEnsemble",
    "Deterministic",
    "Dirichlet",
    "DistilledClasses",
    "DistilledValues",
    "FeatureDensity",
    "FidelityScores",
    "Gaussian",
    "Heads",
    "InstanceScores",
    "Instances",
    "Joint",
    "JointPrediction",
    "Laplace",
    "LastLayerLaplace",
    "LatentDraws",
    "LogitNormal",
    "MCDropout",
    "MultiHead",
    "NormalInverseGamma",
    "OODScores",
    "Output",
    "PanopticScores",
    "PredictionInterval",
    "PredictionSet",
    "SWAGState",
    "SetScores",
    "Tempered",
    "TestTimeAugmentation",
    "ValuePrediction",
    "ValueScores",
    "VariancePropagation",
    "Variational",
    "__version__",
    "cyclic_rate",
    "dropout_rates",
    "find_instances",
    "inject_concrete_dropout",
    "inject_dropout",
    "kl_divergence",
    "make_batch_ensemble",
    "make_multi_head",
    "make_variational",
    "predict",
    "predict_streamed",
    "predict_tiled",
    "read_window",
    "refresh_batch_norm",
    "weighting",
]


def __getattr__(name: str) -> Any:
    # Looked up when asked for, because torchmetrics, which the scores stand on, loads matplotlib where there is one.
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
