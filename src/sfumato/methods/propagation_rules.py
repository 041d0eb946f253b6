"""What operations do to the mean and the variance of what they read, elements taken as independent.

Exact for one operation on independent elements, unless its rule says otherwise; what an operation makes is taken as
independent again, which is the approximation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.methods._replay.replay import mapped
from sfumato.methods.propagation_laws import (
    Law,
    NoRule,
    Rule,
    leaky_relu,
    max_pool,
    means,
    pair,
    relu,
    smooth,
)


def _moving(func: Rule, *args: Any, **kwargs: Any) -> Any:
    """Operations that move elements: variances move along."""
    moved = func(*means(args), **means(kwargs))
    spread = mapped(lambda leaf: leaf.variance if isinstance(leaf, Law) else leaf, (args, kwargs))
    variance = func(*spread[0], **spread[1])
    return Law(moved, variance) if isinstance(moved, Tensor) else tuple(map(Law, moved, variance))


def _joined(func: Rule, tensors: Any, *args: Any, **kwargs: Any) -> Law:
    parts = [x if isinstance(x, Law) else Law(x, torch.zeros_like(x)) for x in tensors]
    return Law(func([x.mean for x in parts], *args, **kwargs), func([x.variance for x in parts], *args, **kwargs))


def _pad(func: Rule, x: Law, pad: Any, mode: str = "constant", value: float | None = None) -> Law:
    return Law(func(x.mean, pad, mode, value), func(x.variance, pad, mode, 0.0 if mode == "constant" else None))


def _weighted(func: Rule, x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Law:
    """Convolution and linear maps: ``Σ w x + b`` has variance ``Σ w² v``."""
    if isinstance(weight, Law) or isinstance(bias, Law):
        raise NoRule(f"{func.__name__} with weights that are not certain")
    variance = func(x.variance, weight.square(), None, *args, **kwargs)
    return Law(func(x.mean, weight, bias, *args, **kwargs), variance.clamp_min_(0))


def _batch_norm(
    func: Rule,
    x: Law,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Law:
    if training or mean is None or variance is None:
        raise NoRule("batch_norm without running statistics")
    gain = (variance + eps).reciprocal() * (1.0 if weight is None else weight.square())
    scaled = x.variance * gain.view(-1, *[1] * (x.mean.ndim - 2))
    return Law(func(x.mean, mean, variance, weight, bias, False, momentum, eps), scaled)


def _avg_pool(
    func: Rule,
    x: Law,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Law:
    if ceil_mode or divisor_override is not None or (not count_include_pad and max(pair(padding)) > 0):
        raise NoRule("avg_pool2d with windows of different sizes")
    options = (kernel_size, stride or kernel_size, padding)
    return Law(func(x.mean, *options), func(x.variance, *options) / math.prod(pair(kernel_size)))


def _adaptive(func: Rule, x: Law, output_size: Any) -> Law:
    mean = func(x.mean, output_size)
    (height, width), (out_height, out_width) = x.mean.shape[-2:], mean.shape[-2:]
    if height % out_height or width % out_width:
        raise NoRule(f"adaptive_avg_pool2d from {height} × {width} to {out_height} × {out_width}: unequal windows")
    return Law(mean, func(x.variance, output_size) * (out_height * out_width / (height * width)))


def _mean(func: Rule, x: Law, dim: Any = None, keepdim: bool = False) -> Law:
    mean = x.mean.mean(dim, keepdim)
    return Law(mean, x.variance.mean(dim, keepdim) * (mean.numel() / x.mean.numel()))


def _sum(func: Rule, x: Law, dim: Any = None, keepdim: bool = False) -> Law:
    return Law(x.mean.sum(dim, keepdim), x.variance.sum(dim, keepdim))


def _interpolate(
    func: Rule,
    x: Law,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Law:
    """Along each side an element has at most two sources, of weights u and w: ``u² a + w² b`` lies between them too,
    at ``w² / (u² + w²)``, so that variances are interpolated at other places and scaled by ``u² + w²``.
    """
    named = {"mode": mode, "align_corners": align_corners, "recompute_scale_factor": recompute_scale_factor}
    mean = func(x.mean, size, scale_factor, antialias=antialias, **named)
    if mode.startswith("nearest"):
        return Law(mean, func(x.variance, size, scale_factor, **named))
    if mode != "bilinear" or antialias:
        raise NoRule(f"interpolate with mode {mode!r}{' and antialias' if antialias else ''}")
    places, scales = [], []
    for dim in (-2, -1):
        before, after = x.mean.shape[dim], mean.shape[dim]
        unit = torch.eye(before, dtype=x.mean.dtype, device=x.mean.device)[None, None]
        by = None if scale_factor is None or recompute_scale_factor else (pair(scale_factor)[dim], 1.0)
        to = (after, before) if by is None else None
        square = F.interpolate(unit, to, by, mode=mode, align_corners=align_corners)[0, 0].square()  # pyright: ignore
        scales.append(square.sum(1))
        places.append((2 * (square @ torch.arange(before).to(square)) / scales[-1] + 1) / before - 1)
    grid = torch.stack(torch.broadcast_tensors(places[1][None], places[0][:, None]), -1)
    grid = grid.expand(len(mean), -1, -1, -1)
    variance = F.grid_sample(x.variance, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return Law(mean, variance.mul_(scales[0][:, None] * scales[1]))


def _added(func: Rule, a: Any, b: Any, *, alpha: float = 1) -> Law:
    """Of sums and differences; the two are taken as independent."""
    first, second = means((a, b))
    if func.__name__ in ("add_", "sub_", "__iadd__", "__isub__"):
        first = first.clone()
    mean = func(first, second, alpha=alpha) if alpha != 1 else func(first, second)
    parts = [x.variance * s for x, s in ((a, 1), (b, alpha**2)) if isinstance(x, Law)]
    return Law(mean, sum(parts, torch.zeros_like(mean)))


def _multiplied(func: Rule, a: Any, b: Any) -> Law:
    if isinstance(a, Law) and isinstance(b, Law):
        variance = a.variance * b.variance + a.mean.square() * b.variance + b.mean.square() * a.variance
        return Law(a.mean * b.mean, variance)
    law, factor = (a, b) if isinstance(a, Law) else (b, a)
    return Law(law.mean * factor, law.variance * factor**2)


def _divided(func: Rule, a: Any, b: Any) -> Law:
    if isinstance(b, Law):
        raise NoRule("division by something uncertain")
    return Law(a.mean / b, a.variance / b**2)


def _negative(func: Rule, x: Law) -> Law:
    return Law(-x.mean, x.variance.clone())


def _rules() -> dict[str, Rule]:
    families: dict[Rule, str] = {
        _moving: "view reshape flatten unflatten permute transpose contiguous clone detach expand squeeze unsqueeze "
        "chunk split unbind flip roll narrow select index_select repeat to float double __getitem__ pixel_shuffle "
        "pixel_unshuffle movedim swapaxes identity tile t",
        _joined: "cat concat concatenate stack",
        _pad: "pad",
        _weighted: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear",
        _batch_norm: "batch_norm",
        relu: "relu relu_",
        leaky_relu: "leaky_relu leaky_relu_",
        smooth: "gelu silu mish tanh sigmoid softplus elu celu selu hardswish hardsigmoid relu6 hardtanh "
        "clamp exp square pow __pow__",
        max_pool: "max_pool2d",
        _avg_pool: "avg_pool2d",
        _adaptive: "adaptive_avg_pool2d",
        _mean: "mean",
        _sum: "sum",
        _interpolate: "interpolate",
        _added: "add sub __add__ __radd__ __sub__ __rsub__ __iadd__ __isub__ add_ sub_",
        _multiplied: "mul __mul__ __rmul__ __imul__ mul_",
        _divided: "div __truediv__ __itruediv__ div_ true_divide",
        _negative: "neg __neg__",
    }
    return {name: rule for rule, names in families.items() for name in names.split()}


RULES = _rules()
