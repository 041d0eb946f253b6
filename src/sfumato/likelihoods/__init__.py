"""p(y | f): what a network's output means."""

from sfumato.likelihoods.categorical import Categorical
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.laplace import Laplace
from sfumato.likelihoods.logit_normal import LogitNormal

__all__ = ["Categorical", "Gaussian", "Laplace", "LogitNormal"]
