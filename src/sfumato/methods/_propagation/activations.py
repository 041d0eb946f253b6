"""The mean and the variance of activations and max-pooling of normal values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.methods._replay.replay import V, mapped

Function = Callable[..., Tensor]
"""A torch function on certain tensors."""
IntPair = int | tuple[int, ...] | list[int]
"""One number for height and width, or two."""
N = TypeVar("N", int, float)
REACH = 9.0
"""Standard deviations beyond which the smaller of two values does not matter in float32."""
BLOCK = 2**15
"""The number of elements to which ReLU is applied at a time."""


class NoRuleError(Exception):
    """An operation that has no rule. Its argument names the operation."""


@dataclass(frozen=True)
class MeanVariance:
    """Mean and variance of every element of a tensor."""

    mean: Tensor
    variance: Tensor


def means(value: V) -> V:
    """Arguments with uncertain values replaced by their means."""
    return mapped(lambda leaf: leaf.mean if isinstance(leaf, MeanVariance) else leaf, value)


def dropped(x: Tensor | MeanVariance, p: float) -> MeanVariance:
    """``x m / (1 − p)``, where m is 0 with probability p, else 1: its variance is ``(v + p μ²) / (1 − p)``.

    Raises:
        NoRuleError: If p is 1.
    """
    if p >= 1:
        raise NoRuleError("dropout with p = 1, which leaves nothing")
    mean, variance = (x.mean, x.variance) if isinstance(x, MeanVariance) else (x, 0.0)
    return MeanVariance(mean, (mean.square() * p + variance) / (1 - p))


def larger(a: MeanVariance, b: MeanVariance) -> MeanVariance:
    """The larger of two independent normal values (exact; Clark, 1961)."""
    spread = (a.variance + b.variance).clamp_min(torch.finfo(a.mean.dtype).tiny).sqrt()
    ahead = ((a.mean - b.mean) / spread).clamp(-REACH, REACH)
    first, slope = _normal(ahead)
    rise = ahead * first + slope
    variance = a.variance * first + b.variance * (1 - first) + spread.square() * rise * (ahead - rise)
    return MeanVariance(a.mean * first + b.mean * (1 - first) + spread * slope, variance.clamp_min(0))


def _normal(at: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution function and density of the standard normal distribution. ``ndtr`` takes longer."""
    below = (at * math.sqrt(0.5)).erf_().mul_(0.5).add_(0.5)
    return below, at.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))


def relu(func: Function, x: MeanVariance, inplace: bool = False) -> MeanVariance:
    """The larger of a normal value and 0. Some channels at a time, so that intermediate results stay in the cache."""
    result = x if inplace else MeanVariance(torch.empty_like(x.mean), torch.empty_like(x.variance))
    for image in zip(x.mean, x.variance, result.mean, result.variance):
        channels = max(BLOCK // max(image[0][:1].numel(), 1), 1)
        for part in zip(*(values.split(channels) for values in image)):
            _rectify(*part)
    return result


def _rectify(mean: Tensor, variance: Tensor, new_mean: Tensor, new_variance: Tensor) -> None:
    sd = variance.sqrt()
    ahead = (mean / sd.clamp_min(torch.finfo(mean.dtype).tiny)).clamp_(-REACH, REACH)
    below, slope = _normal(ahead)
    rise = torch.addcmul(slope, ahead, below)
    torch.mul(mean, below, out=new_mean).addcmul_(sd, slope)
    share = below.addcmul_(rise, ahead.sub_(rise)).clamp_min_(0)
    torch.mul(variance, share, out=new_variance)


def leaky_relu(func: Function, x: MeanVariance, negative_slope: float = 0.01, inplace: bool = False) -> MeanVariance:
    """``s x + (1 − s) relu(x)``. The covariance of x and relu(x) is ``v Φ(μ / σ)`` (Stein's lemma)."""
    s, positive = negative_slope, relu(func, x)
    ahead = x.mean / x.variance.clamp_min(torch.finfo(x.mean.dtype).tiny).sqrt()
    both = x.variance * _normal(ahead.clamp(-REACH, REACH))[0]
    variance = s**2 * x.variance + (1 - s) ** 2 * positive.variance + 2 * s * (1 - s) * both
    return MeanVariance(s * x.mean + (1 - s) * positive.mean, variance)


def smooth(func: Function, x: MeanVariance, *args: object, **kwargs: object) -> MeanVariance:
    """Any function of one normal element, by Gauss–Hermite quadrature with 7 nodes."""
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
    sd, zero = x.variance.sqrt(), torch.zeros_like(x.mean)
    values = [func(x.mean + node * sd, *args, **kwargs) for node, _ in NODES]
    mean = sum((weight * value for (_, weight), value in zip(NODES, values)), zero)
    return MeanVariance(mean, sum((w * (value - mean).square() for (_, w), value in zip(NODES, values)), zero))


def max_pool(
    func: Function,
    x: MeanVariance,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MeanVariance:
    """Element after element of the window, the larger of two normal values is treated as normal (approximate)."""
    if ceil_mode or return_indices:
        raise NoRuleError("max_pool2d with ceil_mode or return_indices")
    kernel, steps, pads, gaps = (pair(n) for n in (kernel_size, stride or kernel_size, padding, dilation))
    sides = (pads[1], pads[1], pads[0], pads[0])
    mean = F.pad(x.mean, sides, value=-1e30) if any(sides) else x.mean
    variance = F.pad(x.variance, sides) if any(sides) else x.variance
    height, width = (
        (mean.shape[i - 2] - gaps[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in (0, 1)
    )  # fmt: skip
    largest: MeanVariance | None = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * gaps[0], j * gaps[1]
            here = (..., slice(top, top + steps[0] * (height - 1) + 1, steps[0]),
                    slice(left, left + steps[1] * (width - 1) + 1, steps[1]))  # fmt: skip
            part = MeanVariance(mean[here], variance[here])
            largest = part if largest is None else larger(largest, part)
    assert largest is not None
    return largest


def _nodes() -> list[tuple[float, float]]:
    """Nodes and weights with ``E f(t) ≈ Σ w f(t)`` for t ~ N(0, 1), from the matrix of the Hermite polynomials."""
    off = torch.arange(1, 7, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return list(zip(nodes.tolist(), vectors[0].square().tolist()))


NODES = _nodes()


def pair(value: N | tuple[N, ...] | list[N]) -> tuple[N, N]:
    """Height and width, from one number for both or from two numbers."""
    height, width = tuple(value) * (2 // len(value)) if isinstance(value, tuple | list) else (value, value)
    return height, width
