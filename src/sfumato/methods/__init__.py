"""Which networks are plausible: each method draws outputs, and knows modules and tensors only."""

from sfumato.methods.attachment import Attachment, kl_divergence
from sfumato.methods.batch_ensemble import BatchEnsemble, make_batch_ensemble
from sfumato.methods.batch_norm import refresh_batch_norm
from sfumato.methods.concrete_dropout import dropout_rates, inject_concrete_dropout
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.ensemble import DeepEnsemble, cyclic_rate
from sfumato.methods.feature_density import FeatureDensity
from sfumato.methods.injection import InjectedDropout, inject_dropout
from sfumato.methods.laplace import LastLayerLaplace
from sfumato.methods.latent import ConditionalVAE, LatentDraws
from sfumato.methods.mc_dropout import MCDropout
from sfumato.methods.multi_head import MultiHead, make_multi_head
from sfumato.methods.output import Heads, Output
from sfumato.methods.propagation import VariancePropagation
from sfumato.methods.swag import SWAG
from sfumato.methods.swag_state import SWAGState
from sfumato.methods.test_time_augmentation import TestTimeAugmentation
from sfumato.methods.variational import Variational, make_variational

__all__ = [
    "SWAG",
    "Attachment",
    "BatchEnsemble",
    "ConditionalVAE",
    "DeepEnsemble",
    "Deterministic",
    "FeatureDensity",
    "Heads",
    "InjectedDropout",
    "LastLayerLaplace",
    "LatentDraws",
    "MCDropout",
    "MultiHead",
    "Output",
    "SWAGState",
    "TestTimeAugmentation",
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
]
