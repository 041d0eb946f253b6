"""Which networks are plausible: each method draws outputs, and knows modules and tensors only."""

from sfumato.methods.deterministic import Deterministic
from sfumato.methods.ensemble import DeepEnsemble
from sfumato.methods.feature_density import FeatureDensity
from sfumato.methods.injection import InjectedDropout, inject_dropout
from sfumato.methods.laplace import LastLayerLaplace
from sfumato.methods.mc_dropout import MCDropout
from sfumato.methods.output import Output
from sfumato.methods.test_time_augmentation import TestTimeAugmentation

__all__ = [
    "DeepEnsemble",
    "Deterministic",
    "FeatureDensity",
    "InjectedDropout",
    "LastLayerLaplace",
    "MCDropout",
    "Output",
    "TestTimeAugmentation",
    "inject_dropout",
]
