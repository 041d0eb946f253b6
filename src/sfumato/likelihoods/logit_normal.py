"""Classes: the softmax of noisy logits, whose noise the network predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from sfumato.likelihoods.for_task import ClassTarget
from sfumato.likelihoods.mean_softmax import mean_softmax
from sfumato.predictions import ClassMoments

# Logits (samples × classes × pixels) worked on at once: few enough for the cache of a CPU, enough to fill a GPU.
_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 26}
_LOG2_E = 1 / math.log(2)  # in base 2, because torch's exp is slow where it meets subnormals, exp2 is not


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
    target: ClassVar[str] = "class"

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples is {self.samples}, expected an even number: they are drawn in antithetic pairs")

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes)

    @property
    def channels(self) -> int:
        """2K."""
        return 2 * self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log mean_s softmax(f ± σε_s)_target`` (B, H, W) in nats, 0 where not valid.

        The noise comes from torch's global generator, so two calls differ; memory does not grow with S.
        """
        return _SampledNLL.apply(output, target.where(valid, 0), valid, self.samples)  # pyright: ignore

    def moments(self, output: Tensor) -> ClassMoments:
        """``E softmax(x)`` and its entropy by :func:`mean_softmax`, which draws no random numbers."""
        wide = output.detach().to(torch.promote_types(output.dtype, torch.float32)).flatten(2)
        batch, _, size = wide.shape
        probs, uncertainty = wide.new_empty(batch, self.classes, size), wide.new_empty(batch, size)
        # By blocks of pixels in the same memory. A compiler plans the memory itself.
        each = size if torch.compiler.is_compiling() else min(size, _pixels(4 * batch * self.classes, output.device))
        room = wide.new_empty(7, batch, self.classes, each)
        for start in range(0, size, each):
            logits, raw = wide[..., start : start + each].split(self.classes, 1)
            _distribution(logits, raw, room, probs[..., start : start + each], uncertainty[..., start : start + each])
        event = output.shape[2:]
        return ClassMoments(1, probs.view(batch, self.classes, *event), uncertainty.view(batch, *event))


def _distribution(logits: Tensor, raw: Tensor, room: Tensor, probs: Tensor, uncertainty: Tensor) -> None:
    """Write the probabilities (B, K, n) of a block and their entropy (B, n)."""
    # log(1 + e^raw), at most 87, within 10⁻⁷: torch's softplus is slower.
    scales = raw.mul(_LOG2_E).clamp_max_(126).exp2_().add_(1).log2_().mul_(math.log(2))
    mean_softmax(logits, scales, room[..., : logits.shape[-1]], out=probs)
    bits = torch.clamp_min(probs, torch.finfo(probs.dtype).tiny, out=scales).log2_().mul_(probs)
    torch.sum(bits, 1, out=uncertainty).mul_(-math.log(2))


def _pixels(each: int, device: torch.device) -> int:
    """How many pixels of ``each`` logits make a block: the more samples, the fewer, so memory stays the same."""
    return max(1, _BLOCK["cpu" if device.type == "cpu" else "cuda"] // each)


def _two_rows(output: Tensor) -> Tensor:
    """A copy (B, 2, K, H·W) of an output (B, 2K, H, W) in float32 or wider, whatever its memory format."""
    wide = torch.empty(output.shape, dtype=torch.promote_types(output.dtype, torch.float32), device=output.device)
    return wide.copy_(output.detach()).view(len(output), 2, output.shape[1] // 2, -1)


class _SampledNLL(torch.autograd.Function):
    """The loss and, in the same sweep over blocks of pixels, its gradient: no sample outlives its block."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, valid: Tensor, samples: int) -> Tensor:
        # In each image, logits and scales give way to their gradient: one tensor of the output's size is all we keep.
        work = _two_rows(output)
        nll = work.new_empty(len(work), work.shape[-1])
        sampler = _Sampler(work, samples)
        places = target.flatten(1) * work.shape[-1] + torch.arange(work.shape[-1], device=work.device)
        for image, place, losses in zip(work, places, nll, strict=True):
            _swap(image, place)
            image[1] = softplus(image[1])
            image *= _LOG2_E
            for rows, loss in zip(image.split(sampler.pixels, -1), losses.split(sampler.pixels), strict=True):
                _block(rows, *sampler.draw(len(loss)), loss)
            _swap(image, place)
        ctx.save_for_backward(work.view(output.shape), valid)
        return nll.mul_(-math.log(2)).add_(math.log(samples)).view(target.shape).where(valid, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, valid = ctx.saved_tensors
        return gradient * grads[0].where(valid, 0.0)[:, None], None, None, None


class _Sampler:
    """The noise of a block of pixels, and room for its samples; the same memory for every block.

    Normals cost more than all else, so each block takes a window at random from one pool. Within a window, so within
    a pixel and between its neighbors, they are independent; only pixels of different blocks share some, and then
    mostly at unrelated samples and classes. So every pixel's loss and gradient keep their law, and their mean over
    an image its expectation.
    """

    def __init__(self, work: Tensor, samples: int) -> None:
        self.pairs, self.classes, pixels = samples // 2, *work.shape[2:]
        self.pixels = min(pixels, _pixels(samples * self.classes, work.device))
        size = samples * self.classes * self.pixels
        self.pool = torch.randn(2 * size, dtype=work.dtype, device=work.device)
        self.room = work.new_empty(size)

    def draw(self, pixels: int) -> tuple[Tensor, Tensor]:
        """Noise (S/2, K, n) and room (2, S/2, K, n) for n pixels."""
        count = self.pairs * self.classes * pixels
        start = int(torch.randint(len(self.pool) - count + 1, ()))
        noise = self.pool[start : start + count].view(self.pairs, self.classes, pixels)
        return noise, self.room[: 2 * count].view(2, *noise.shape)


def _swap(rows: Tensor, place: Tensor) -> None:
    """Exchange class 0 with the target's class in every pixel of (2, K, N), so that no sample has to look it up.

    ``place`` (N,) is where the target's entry lies among the K · N of a row.
    """
    flat, first, index = rows.flatten(1), rows[:, 0].clone(), place.expand(2, -1)
    own = flat.gather(1, index)
    flat.scatter_(1, index, first)
    rows[:, 0] = own


def _block(rows: Tensor, noise: Tensor, x: Tensor, log_sum: Tensor) -> None:
    """One block of n pixels whose target is class 0; logarithms to base 2.

    Args:
        rows: (2, K, n) logits and scales; receives the gradient of the loss in nats.
        noise: (S/2, K, n) standard normals.
        x: (2, S/2, K, n) room to work in.
        log_sum: (n,) receives ``log2 Σ_s p_s``.
    """
    logits, scales = rows
    torch.addcmul(logits, scales, noise, out=x[0])
    torch.addcmul(logits, scales, noise, value=-1, out=x[1])
    x -= x.amax(2, keepdim=True)
    weights = x[:, :, :1].clone()
    sums = x.exp2_().sum(2, keepdim=True)
    # p_s = 2^(x_y) / sums, relative to the largest so that they cannot all vanish; then its share of Σ_s p_s.
    largest = weights.amax((0, 1))
    weights.sub_(largest).exp2_().div_(sums)
    total = weights.sum((0, 1))
    torch.add(largest[0], total[0].log2(), out=log_sum)
    weights /= total
    x *= sums.reciprocal_().mul_(weights)
    x[:, :, :1] -= weights  # now the share times (p − 1[class = target])
    torch.sum(x, (0, 1), out=logits)
    slope = x[0].sub_(x[1]).mul_(noise).sum(0)
    # dσ/draw = sigmoid(raw) = 1 − e^(−softplus(raw)), and the scale in bits is softplus(raw) / ln 2.
    scales.neg_().exp2_().neg_().add_(1).mul_(slope)
