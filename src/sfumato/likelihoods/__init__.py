"""p(y | f): what a network's output means."""

from sfumato.likelihoods.categorical import Categorical

__all__ = ["Categorical"]
