"""Methods: which networks are plausible. Each draws outputs of networks and knows only modules and tensors."""

from sfumato.methods.base import BaseMethod
from sfumato.methods.batch_ensemble import BatchEnsemble, make_batch_ensemble
from sfumato.methods.batch_norm import refresh_batch_norm
from sfumato.methods.concrete_dropout import dropout_rates, inject_concrete_dropout
from sfumato.methods.conversion import Conversion
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.ensemble import DeepEnsemble, cyclic_rate
from sfumato.methods.feature_density import FeatureDensity
from sfumato.methods.features import last_layer
from sfumato.methods.injection import inject_dropout
from sfumato.methods.laplace import LastLayerLaplace
from sfumato.methods.latent import LatentDraws, latent_elbo, make_latent
from sfumato.methods.mc_dropout import MCDropout
from sfumato.methods.multi_head import MultiHead, make_multi_head
from sfumato.methods.output import Heads, Output
from sfumato.methods.posterior import kl_divergence
from sfumato.methods.prior import add_prior
from sfumato.methods.propagation import VariancePropagation
from sfumato.methods.swag import SWAG
from sfumato.methods.swag_state import SWAGState
from sfumato.methods.test_time_augmentation import TestTimeAugmentation
from sfumato.methods.training import MethodTraining
from sfumato.methods.variational import Variational, make_variational

__all__ = [
    "SWAG",
    "BaseMethod",
    "BatchEnsemble",
    "Conversion",
    "DeepEnsemble",
    "Deterministic",
    "FeatureDensity",
    "Heads",
    "LastLayerLaplace",
    "LatentDraws",
    "MCDropout",
    "MethodTraining",
    "MultiHead",
    "Output",
    "SWAGState",
    "TestTimeAugmentation",
    "VariancePropagation",
    "Variational",
    "add_prior",
    "cyclic_rate",
    "dropout_rates",
    "inject_concrete_dropout",
    "inject_dropout",
    "kl_divergence",
    "last_layer",
    "latent_elbo",
    "make_batch_ensemble",
    "make_latent",
    "make_multi_head",
    "make_variational",
    "refresh_batch_norm",
]
