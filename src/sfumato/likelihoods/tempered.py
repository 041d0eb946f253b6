"""Classes: a softmax whose temperature is the noise of the task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.likelihoods.categorical import Categorical
from sfumato.predictions import ClassMoments


@dataclass(frozen=True)
class Tempered(Categorical):
    """``p(y | f) = softmax(f e^{−s})_y``, exactly, where :class:`Categorical` in a :class:`Joint` approximates.

    Alone, with s = 0, it is :class:`Categorical`. Arguments and errors are the same.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", eq. 8.
    Pitfall: the network can scale f itself, so s and f share one number: s is a temperature that is learned with the
    network, and as a weight it is bounded where ``e^{−s} CE + s/2`` is not.
    """

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log softmax(f e^{−s})_y`` (B, H, W) in nats, 0 where not valid."""
        return self.nll(self._cooled(output, log_variance), target, valid)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ClassMoments:
        """The tempered softmax and its entropy."""
        return self.moments(self._cooled(output, log_variance))

    def _cooled(self, output: Tensor, log_variance: Tensor) -> Tensor:
        return output * (-(log_variance[:, None] if log_variance.ndim == 3 else log_variance)).exp()
