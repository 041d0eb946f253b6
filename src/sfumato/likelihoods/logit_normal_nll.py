"""The training loss of :class:`LogitNormal`: noisy logits, in memory that does not grow with their number."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import softplus

BLOCK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Logits (samples × classes × pixels) that are computed together: few enough for the cache, enough for a GPU."""

LOG2_E = 1 / math.log(2)  # The kernels use base 2, because torch's exp is slow for subnormal results and exp2 is not.


def sampled_nll(output: Tensor, target: Tensor, valid: Tensor, samples: int) -> Tensor:
    """``−log mean_s softmax(f ± σε_s)_target`` (B, *event) in nats, 0 where not valid.

    Args:
        output: K logits f, then K raw scales (B, 2K, *event).
        target: Classes (B, *event), int64.
        valid: Mask (B, *event).
        samples: Even number S of noisy logits.
    """
    # apply is untyped in torch.
    return cast(Tensor, _SampledNLL.apply(output, target.where(valid, 0), valid, samples))


def block_pixels(each: int, device: torch.device) -> int:
    """The number of pixels in a block, if a pixel needs ``each`` numbers. The memory of a block is always the same."""
    return max(1, BLOCK["cpu" if device.type == "cpu" else "cuda"] // each)


def _two_rows(output: Tensor) -> Tensor:
    """A contiguous copy (B, 2, K, N) of an output (B, 2K, *event) in float32 or wider."""
    wide = torch.empty(output.shape, dtype=torch.promote_types(output.dtype, torch.float32), device=output.device)
    return wide.copy_(output.detach()).view(len(output), 2, output.shape[1] // 2, -1)


class _SampledNLL(Function):
    """The loss and its gradient, computed together in blocks of pixels. The samples of a block are not kept."""

    @staticmethod
    def forward(ctx: Function, output: Tensor, target: Tensor, valid: Tensor, samples: int) -> Tensor:
        # The gradient is written over the logits and scales: one tensor of the output's size is kept.
        work = _two_rows(output)
        nll = work.new_empty(len(work), work.shape[-1])
        sampler = _Sampler(work, samples)
        places = target.reshape(len(work), -1) * work.shape[-1] + torch.arange(work.shape[-1], device=work.device)
        for image, place, losses in zip(work, places, nll, strict=True):
            _swap(image, place)
            image[1] = softplus(image[1])
            image *= LOG2_E
            for rows, loss in zip(image.split(sampler.pixels, -1), losses.split(sampler.pixels), strict=True):
                _block(rows, *sampler.draw(len(loss)), loss)
            _swap(image, place)
        ctx.save_for_backward(work.view(output.shape), valid)
        return nll.mul_(-math.log(2)).add_(math.log(samples)).view(target.shape).where(valid, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Function, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] torch declares gradients of any type
        gradient, valid = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        return gradient * grads[0].where(valid, 0.0)[:, None], None, None, None


class _Sampler:
    """The noise of a block of pixels, and memory for its samples, which all blocks share.

    Normal random numbers are the most expensive part. So each block takes a random window of one pool. The noise within
    a window is independent, so the noise within a pixel and between its neighbors is. Pixels of different blocks may
    share numbers, mostly for unrelated samples and classes. So the distribution of every pixel's loss and gradient and
    the expectation of their mean are exact.
    """

    def __init__(self, work: Tensor, samples: int) -> None:
        self.pairs, self.classes, pixels = samples // 2, *work.shape[2:]
        self.pixels = min(pixels, block_pixels(samples * self.classes, work.device))
        size = samples * self.classes * self.pixels
        self.pool = torch.randn(2 * size, dtype=work.dtype, device=work.device)
        self.room = work.new_empty(size)

    def draw(self, pixels: int) -> tuple[Tensor, Tensor]:
        """Noise (S/2, K, n) and memory (2, S/2, K, n) for n pixels."""
        count = self.pairs * self.classes * pixels
        start = int(torch.randint(len(self.pool) - count + 1, ()))
        noise = self.pool[start : start + count].view(self.pairs, self.classes, pixels)
        return noise, self.room[: 2 * count].view(2, *noise.shape)


def _swap(rows: Tensor, place: Tensor) -> None:
    """Exchange class 0 and the target class in every pixel of (2, K, N), so that samples need no look-up.

    ``place`` (N,) is the index of the target's entry among the K · N of a row.
    """
    flat, first, index = rows.flatten(1), rows[:, 0].clone(), place.expand(2, -1)
    own = flat.gather(1, index)
    flat.scatter_(1, index, first)
    rows[:, 0] = own


def _block(rows: Tensor, noise: Tensor, x: Tensor, log_sum: Tensor) -> None:
    """One block of n pixels with target class 0. Logarithms have base 2.

    Args:
        rows: Logits and scales (2, K, n). They are replaced by the gradient of the loss in nats.
        noise: Standard normal numbers (S/2, K, n).
        x: Memory (2, S/2, K, n).
        log_sum: Result (n,): ``log2 Σ_s p_s``.
    """
    logits, scales = rows
    torch.addcmul(logits, scales, noise, out=x[0])
    torch.addcmul(logits, scales, noise, value=-1, out=x[1])
    x -= x.amax(2, keepdim=True)
    weights = x[:, :, :1].clone()
    sums = x.exp2_().sum(2, keepdim=True)
    # p_s = 2^(x_y) / sums, relative to the largest, so that not all can be 0; then its share of Σ_s p_s.
    largest = weights.amax((0, 1))
    weights.sub_(largest).exp2_().div_(sums)
    total = weights.sum((0, 1))
    torch.add(largest[0], total[0].log2(), out=log_sum)
    weights /= total
    x *= sums.reciprocal_().mul_(weights)
    x[:, :, :1] -= weights  # the share times (p − 1[class = target])
    torch.sum(x, (0, 1), out=logits)
    slope = x[0].sub_(x[1]).mul_(noise).sum(0)
    # dσ/draw = sigmoid(raw) = 1 − e^(−softplus(raw)), and the scale in bits is softplus(raw) / ln 2.
    scales.neg_().exp2_().neg_().add_(1).mul_(slope)
