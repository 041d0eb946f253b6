"""Classes: the softmax of the output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.likelihoods.class_likelihood import ClassLikelihood, class_nll
from sfumato.predictions import ClassMoments


@dataclass(frozen=True)
class Categorical(ClassLikelihood):
    """The categorical distribution ``p(y | f) = softmax(f)_y``.

    Args:
        classes: Number K ≥ 2 of classes and of output channels.

    Raises:
        ConfigError: If ``classes`` is less than 2.

    Pitfall: The aleatoric part is the entropy of the softmax, which is too small if the network is overconfident.
    Calibration corrects its size. :class:`LogitNormal` also learns how ambiguous a pixel is.

    >>> import torch
    >>> Categorical(2).moments(torch.zeros(1, 2)).prediction().total  # log 2
    tensor([0.6931])
    """

    @property
    def channels(self) -> int:
        """K."""
        return self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log softmax(output)_target`` (B, *event) in nats, 0 where not valid."""
        return class_nll(output, target, valid)

    def probabilities(self, output: Tensor) -> Tensor:
        """The softmax (B, K, *event), with a gradient."""
        return output.softmax(1)

    def moments(self, output: Tensor) -> ClassMoments:
        """The softmax and its entropy."""
        return ClassMoments.of(output.softmax(1))

    def loss(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The cross-entropy (B, *event) in nats, 0 where not valid: the same as :meth:`nll`."""
        return Categorical.nll(self, output, target, valid)

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``e^{−s} CE + s/2`` (B, *event) with ``s = log_variance``, 0 where not valid.

        It approximates the loss of ``softmax(f e^{−s})``: it takes ``Σ_c e^{f_c / σ²} ≈ σ (Σ_c e^{f_c})^{1/σ²}`` with
        ``s = log σ²``. This is exact at σ = 1.

        Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", eq. 10.
        Pitfall: It has no lower bound as the cross-entropy goes to 0. :class:`Tempered` has one.
        """
        return ((-log_variance).exp() * self.loss(output, target, valid) + log_variance / 2).where(valid, 0.0)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ClassMoments:
        """The softmax and its entropy. ``log_variance`` only weights the loss, so it does not change them."""
        return self.moments(output)
