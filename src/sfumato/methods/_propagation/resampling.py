"""The mean and the variance of average pooling and interpolation of independent elements."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from sfumato.methods._propagation.activations import Function, IntPair, MeanVariance, NoRuleError, pair


def avg_pool(
    func: Function,
    x: MeanVariance,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> MeanVariance:
    """The mean over windows of one size: a mean of n independent elements has 1/n of their mean variance."""
    if ceil_mode or divisor_override is not None or (not count_include_pad and max(pair(padding)) > 0):
        raise NoRuleError("avg_pool2d with windows of different sizes")
    options = (kernel_size, stride or kernel_size, padding)
    return MeanVariance(func(x.mean, *options), func(x.variance, *options) / math.prod(pair(kernel_size)))


def adaptive_avg_pool(func: Function, x: MeanVariance, output_size: IntPair) -> MeanVariance:
    """The mean over windows of one size, whose size follows from that of the result."""
    mean = func(x.mean, output_size)
    (height, width), (out_height, out_width) = x.mean.shape[-2:], mean.shape[-2:]
    if height % out_height or width % out_width:
        raise NoRuleError(f"adaptive_avg_pool2d from {height} × {width} to {out_height} × {out_width}: unequal windows")
    return MeanVariance(mean, func(x.variance, output_size) * (out_height * out_width / (height * width)))


def interpolate(
    func: Function,
    x: MeanVariance,
    size: IntPair | None = None,
    scale_factor: float | tuple[float, ...] | list[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> MeanVariance:
    """Nearest and bilinear interpolation.

    Along each axis an element is ``u x + w y`` of two neighbors, so its variance is ``u² a + w² b``. That is
    ``u² + w²`` times an interpolation of the variances at ``w² / (u² + w²)`` between the two.
    """
    named = {"mode": mode, "align_corners": align_corners, "recompute_scale_factor": recompute_scale_factor}
    mean = func(x.mean, size, scale_factor, antialias=antialias, **named)
    if mode.startswith("nearest"):
        return MeanVariance(mean, func(x.variance, size, scale_factor, **named))
    if mode != "bilinear" or antialias:
        raise NoRuleError(f"interpolate with mode {mode!r}{' and antialias' if antialias else ''}")
    places, scales = [], []
    for dim in (-2, -1):
        before, after = x.mean.shape[dim], mean.shape[dim]
        unit = torch.eye(before, dtype=x.mean.dtype, device=x.mean.device)[None, None]
        by = None if scale_factor is None or recompute_scale_factor else (pair(scale_factor)[dim], 1.0)
        to = (after, before) if by is None else None
        given = F.interpolate(unit, to, by, mode=mode, align_corners=align_corners)  # pyright: ignore[reportArgumentType] the stubs lack tuples of floats
        square = given[0, 0].square()
        scales.append(square.sum(1))
        places.append((2 * (square @ torch.arange(before).to(square)) / scales[-1] + 1) / before - 1)
    grid = torch.stack(torch.broadcast_tensors(places[1][None], places[0][:, None]), -1)
    grid = grid.expand(len(mean), -1, -1, -1)
    variance = F.grid_sample(x.variance, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return MeanVariance(mean, variance.mul_(scales[0][:, None] * scales[1]))
