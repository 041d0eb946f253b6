"""p(y | f): what a network's output means."""

from sfumato.likelihoods.categorical import Categorical
from sfumato.likelihoods.dirichlet import Dirichlet
from sfumato.likelihoods.distilled import DistilledClasses, DistilledValues
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.laplace import Laplace
from sfumato.likelihoods.logit_normal import LogitNormal
from sfumato.likelihoods.normal_inverse_gamma import NormalInverseGamma

__all__ = [
    "Categorical",
    "Dirichlet",
    "DistilledClasses",
    "DistilledValues",
    "Gaussian",
    "Laplace",
    "LogitNormal",
    "NormalInverseGamma",
]
