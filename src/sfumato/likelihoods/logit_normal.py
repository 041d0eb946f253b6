"""Classes: the softmax of noisy logits, whose noise the network predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.errors import ConfigError
from sfumato.likelihoods.class_likelihood import ClassLikelihood
from sfumato.likelihoods.logit_normal_nll import LOG2_E, block_pixels, sampled_nll
from sfumato.likelihoods.mean_softmax import mean_softmax
from sfumato.predictions import ClassMoments


@dataclass(frozen=True)
class LogitNormal(ClassLikelihood):
    """``p(y | f, σ) = E softmax(x)_y`` with ``x ~ N(f, diag σ²)``: the softmax of noisy logits.

    The output channels are K logits f, then K raw scales; ``σ = softplus(raw)``.

    Args:
        classes: Number K ≥ 2 of classes.
        samples: Even number S of noisy logits per pixel in a training step, in antithetic pairs f ± σε. Default 10.

    Raises:
        ConfigError: If ``classes`` is less than 2, or ``samples`` is odd or not positive.

    Source: Kendall and Gal (2017), "What uncertainties do we need", eq. 12 (printed without its minus sign).
    Pitfall: Probabilities are averaged before the logarithm. The mean of cross-entropies is another loss.

    >>> LogitNormal(2).moments(torch.zeros(1, 4)).prediction().probs
    tensor([[0.5000, 0.5000]])
    """

    samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or self.samples % 2:
            raise ConfigError(f"samples is {self.samples}, expected an even number: they are drawn in antithetic pairs")

    @property
    def channels(self) -> int:
        """2K."""
        return 2 * self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log mean_s softmax(f ± σε_s)_target`` (B, *event) in nats, 0 where not valid.

        The noise comes from torch's global generator, so two calls differ. The memory does not grow with S.
        """
        return sampled_nll(output, target, valid, self.samples)

    def probabilities(self, output: Tensor) -> Tensor:
        """``mean_s softmax(f ± σε_s)`` (B, K, *event), with a gradient.

        The noise comes from torch's global generator. For the gradient, S times K numbers are kept per pixel.
        """
        logits, raw = output.split(self.classes, 1)
        scales, total = softplus(raw), torch.zeros_like(logits)
        for _ in range(self.samples // 2):
            noise = scales * torch.randn_like(logits)
            total = total + (logits + noise).softmax(1) + (logits - noise).softmax(1)
        return total / self.samples

    def moments(self, output: Tensor) -> ClassMoments:
        """``E softmax(x)`` and its entropy by :func:`mean_softmax`, which draws no random numbers."""
        kind = torch.promote_types(output.dtype, torch.float32)
        wide = output.detach().to(kind).contiguous().view(*output.shape[:2], -1)
        batch, _, size = wide.shape
        probs, entropies = wide.new_empty(batch, self.classes, size), wide.new_empty(batch, size)
        # In blocks of pixels that use the same memory. A compiler plans the memory itself.
        each = min(size, block_pixels(4 * batch * self.classes, output.device))
        each = size if torch.compiler.is_compiling() else each
        room = wide.new_empty(8, batch, self.classes, each)
        for start in range(0, size, each):
            logits, raw = wide[..., start : start + each].split(self.classes, 1)
            _distribution(logits, raw, room, probs[..., start : start + each], entropies[..., start : start + each])
        event = output.shape[2:]
        return ClassMoments(1, probs.view(batch, self.classes, *event), entropies.view(batch, *event))


def _distribution(logits: Tensor, raw: Tensor, room: Tensor, probs: Tensor, entropies: Tensor) -> None:
    """Write the probabilities (B, K, n) of a block and their entropies (B, n)."""
    # log(1 + e^raw) with an error below 10⁻⁶ and at most 87: torch's softplus is slower.
    scales = raw.mul(LOG2_E).clamp_max_(126).exp2_().add_(1).log2_().mul_(math.log(2))
    mean_softmax(logits, scales, room[..., : logits.shape[-1]], out=probs)
    logs = torch.clamp_min(probs, torch.finfo(probs.dtype).tiny, out=scales).log_()
    torch.sum(logs.mul_(probs), 1, out=entropies).neg_()
