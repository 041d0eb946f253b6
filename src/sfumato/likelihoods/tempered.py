"""Classes: a softmax with a learned temperature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.likelihoods.categorical import Categorical
from sfumato.predictions import ClassMoments


@dataclass(frozen=True)
class Tempered(Categorical):
    """``p(y | f) = softmax(f e^{−s})_y``, exactly, where :class:`Categorical` in a :class:`Joint` approximates it.

    Alone, s is 0 and it is the same as :class:`Categorical`. Arguments and errors are the same.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", eq. 8.
    Pitfall: The network can scale f itself, so the data do not determine s alone. Unlike the loss of
    :class:`Categorical`, its loss has a lower bound.
    """

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log softmax(f e^{−s})_y`` (B, *event) in nats with ``s = log_variance``, 0 where not valid."""
        return self.nll(_scaled(output, log_variance), target, valid)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ClassMoments:
        """The softmax of ``f e^{−s}`` and its entropy."""
        return self.moments(_scaled(output, log_variance))


def _scaled(output: Tensor, log_variance: Tensor) -> Tensor:
    return output * (-(log_variance.unsqueeze(1) if log_variance.ndim else log_variance)).exp()
