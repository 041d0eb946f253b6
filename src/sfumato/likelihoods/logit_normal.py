"""Classes: the softmax of noisy logits, whose noise the network predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from sfumato.predictions import ClassMoments, entropy

# Logits (samples × classes × pixels) worked on at once: 1 MiB of float32, which stays in a core's cache.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class LogitNormal:
    """``p(y | f, σ) = E_x softmax(x)_y`` with ``x ~ N(f, diag σ²)``; output channels are K logits f, then K raw scales.

    Args:
        classes: K ≥ 2.
        samples: S, even: how many logits a training step draws per pixel, in antithetic pairs f ± σε.

    Raises:
        ValueError: for fewer than 2 classes, or an odd or non-positive number of samples.

    Source: Kendall and Gal (2017), "What uncertainties do we need", eq. 12 (printed without its minus sign).
    Pitfall: the scale is ``σ = softplus(raw)``; probabilities are averaged before the logarithm, the mean of
    cross-entropies is another loss.
    """

    classes: int
    samples: int = 10

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples is {self.samples}, expected an even number: they are drawn in antithetic pairs")

    @property
    def channels(self) -> int:
        """2K."""
        return 2 * self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log mean_s softmax(f ± σε_s)_target`` (B, H, W) in nats, 0 where not valid.

        The noise comes from torch's global generator.
        """
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return _SampledNLL.apply(output, target.where(valid, 0), valid, self.samples)  # pyright: ignore

    def moments(self, output: Tensor) -> ClassMoments:
        """The law averaged over a fixed set of noises that all pixels share, and its entropy."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        logits, scales = output[:, : self.classes], softplus(output[:, self.classes :])
        probs = torch.zeros_like(logits)
        noises = _fixed_noise(self.classes).to(output)
        for noise in noises:
            probs += torch.addcmul(logits, scales, noise[:, None, None]).softmax(1)
        probs /= len(noises)
        return ClassMoments(1, probs, entropy(probs))


def _fixed_noise(classes: int, pairs: int = 32) -> Tensor:
    """Antithetic normals (2 · pairs, K) of unit variance in each class, always the same."""
    noise = torch.randn(pairs, classes, generator=torch.Generator().manual_seed(0))
    noise /= noise.square().mean(0).sqrt()
    return torch.cat([noise, -noise])


class _SampledNLL(torch.autograd.Function):
    """The loss and, in the same sweep over blocks of pixels, its gradient: no sample outlives its block."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, valid: Tensor, samples: int) -> Tensor:
        classes = output.shape[1] // 2
        nll, gradient = output.new_empty(target.shape), torch.empty_like(output)
        flat = output.flatten(2), target.flatten(1), nll.view(len(nll), -1), gradient.flatten(2)
        pixels = max(1, _BLOCK // (samples * classes))
        for image, labels, losses, slopes in zip(*flat, strict=True):
            blocks = (image.split(pixels, 1), labels.split(pixels), losses.split(pixels), slopes.split(pixels, 1))
            for x, y, loss, slope in zip(*blocks, strict=True):
                noise = torch.randn(samples // 2, classes, len(y), dtype=x.dtype, device=x.device)
                _block(x[:classes], x[classes:], y, noise, loss, slope)
        ctx.save_for_backward(gradient, valid)
        return nll.where(valid, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient, valid = ctx.saved_tensors
        return (gradient * grads[0][:, None]).where(valid[:, None], 0.0), None, None, None


def _block(logits: Tensor, raw: Tensor, target: Tensor, noise: Tensor, nll: Tensor, gradient: Tensor) -> None:
    """Write the loss (n,) and its gradient (2K, n) for logits and raw scales (K, n) under noise (S/2, K, n)."""
    pairs, classes, _ = noise.shape
    scales = softplus(raw)
    x = torch.stack([torch.addcmul(logits, scales, noise), torch.addcmul(logits, scales, noise, value=-1)])
    log_probs = x.log_softmax(2)
    index = target.expand(2, pairs, 1, -1)
    log_py = log_probs.gather(2, index)
    total = log_py.logsumexp((0, 1))
    torch.sub(math.log(2 * pairs), total[0], out=nll)
    weights = (log_py - total).exp()
    pull = log_probs.exp_().mul_(weights).scatter_add_(2, index, -weights)
    gradient[:classes] = pull.sum((0, 1))
    gradient[classes:] = ((pull[0] - pull[1]) * noise).sum(0) * raw.sigmoid()
