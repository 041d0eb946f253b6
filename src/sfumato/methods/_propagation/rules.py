"""The mean and the variance of the result of each operation, for independent elements.

Each rule is exact for independent elements, unless its docstring says otherwise. The elements of a result are treated
as independent too, which is an approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.methods._propagation.activations import (
    Function,
    IntPair,
    MeanVariance,
    NoRuleError,
    leaky_relu,
    max_pool,
    means,
    relu,
    smooth,
)
from sfumato.methods._propagation.resampling import adaptive_avg_pool, avg_pool, interpolate
from sfumato.methods._replay.replay import mapped

Rule = Callable[..., MeanVariance | tuple[MeanVariance, ...]]
"""Takes a torch function and its arguments, of which some are uncertain. Returns the uncertain result."""
Operand = Tensor | MeanVariance | float


@dataclass(frozen=True)
class LinearMap:
    """A convolution or a linear map, and what it reads.

    Args:
        variance: The variance of what it reads.
        weight: Its weights.
        function: Maps values and weights to the result without a bias.
    """

    variance: Tensor
    weight: Tensor
    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, values: Tensor, weight: Tensor) -> Tensor:
        """The result for other values and other weights of the same shape."""
        return self.function(values, weight)


def linear_map(
    func: Function,
    x: MeanVariance,
    weight: Tensor | MeanVariance,
    bias: Tensor | MeanVariance | None = None,
    *args: object,
    **kwargs: object,
) -> LinearMap:
    """The linear map of a call that :func:`weighted` has a rule for.

    Raises:
        NoRuleError: If the weights or the bias are uncertain.
    """
    if isinstance(weight, MeanVariance) or isinstance(bias, MeanVariance):
        raise NoRuleError(f"{func.__name__} with weights that are not certain")
    return LinearMap(x.variance, weight, lambda values, kernel: func(values, kernel, None, *args, **kwargs))


def _moving(
    func: Callable[..., Tensor | tuple[Tensor, ...]], *args: object, **kwargs: object
) -> MeanVariance | tuple[MeanVariance, ...]:
    """Operations that move elements: variances move in the same way."""
    moved = func(*means(args), **means(kwargs))
    spread = mapped(lambda leaf: leaf.variance if isinstance(leaf, MeanVariance) else leaf, (args, kwargs))
    variance = func(*spread[0], **spread[1])
    if isinstance(moved, Tensor) and isinstance(variance, Tensor):
        return MeanVariance(moved, variance)
    return tuple(map(MeanVariance, moved, variance))


def _joined(func: Function, tensors: Iterable[Tensor | MeanVariance], *args: object, **kwargs: object) -> MeanVariance:
    parts = [x if isinstance(x, MeanVariance) else MeanVariance(x, torch.zeros_like(x)) for x in tensors]
    return MeanVariance(
        func([x.mean for x in parts], *args, **kwargs), func([x.variance for x in parts], *args, **kwargs)
    )


def _pad(
    func: Function, x: MeanVariance, pad: IntPair, mode: str = "constant", value: float | None = None
) -> MeanVariance:
    return MeanVariance(
        func(x.mean, pad, mode, value), func(x.variance, pad, mode, 0.0 if mode == "constant" else None)
    )


def weighted(
    func: Function, x: MeanVariance, weight: Tensor, bias: Tensor | None = None, *args: object, **kwargs: object
) -> MeanVariance:
    """Convolutions and linear maps: ``Σ w x + b`` has variance ``Σ w² v``."""
    linear = linear_map(func, x, weight, bias, *args, **kwargs)
    variance = linear(linear.variance, weight.square())
    return MeanVariance(func(x.mean, weight, bias, *args, **kwargs), variance.clamp_min_(0))


def _batch_norm(
    func: Function,
    x: MeanVariance,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> MeanVariance:
    if training or mean is None or variance is None:
        raise NoRuleError("batch_norm without running statistics")
    gain = (variance + eps).reciprocal() * (1.0 if weight is None else weight.square())
    scaled = x.variance * gain.view(-1, *[1] * (x.mean.ndim - 2))
    return MeanVariance(func(x.mean, mean, variance, weight, bias, False, momentum, eps), scaled)


def _mean(func: Function, x: MeanVariance, dim: IntPair | None = None, keepdim: bool = False) -> MeanVariance:
    mean = x.mean.mean(dim, keepdim)
    return MeanVariance(mean, x.variance.mean(dim, keepdim) * (mean.numel() / x.mean.numel()))


def _sum(func: Function, x: MeanVariance, dim: IntPair | None = None, keepdim: bool = False) -> MeanVariance:
    return MeanVariance(x.mean.sum(dim, keepdim), x.variance.sum(dim, keepdim))


def _added(func: Function, a: Tensor | MeanVariance, b: Operand, *, alpha: float = 1) -> MeanVariance:
    """Sums and differences of two independent tensors."""
    first, second = (a.mean if isinstance(a, MeanVariance) else a), (b.mean if isinstance(b, MeanVariance) else b)
    if func.__name__ in ("add_", "sub_", "__iadd__", "__isub__"):
        first = first.clone()
    mean = func(first, second, alpha=alpha) if alpha != 1 else func(first, second)
    parts = [x.variance * s for x, s in ((a, 1), (b, alpha**2)) if isinstance(x, MeanVariance)]
    return MeanVariance(mean, sum(parts, torch.zeros_like(mean)))


def _multiplied(func: Function, a: Operand, b: Operand) -> MeanVariance:
    if isinstance(a, MeanVariance) and isinstance(b, MeanVariance):
        variance = a.variance * b.variance + a.mean.square() * b.variance + b.mean.square() * a.variance
        return MeanVariance(a.mean * b.mean, variance)
    law, factor = (a, b) if isinstance(a, MeanVariance) else (b, a)
    assert isinstance(law, MeanVariance)
    assert not isinstance(factor, MeanVariance)
    return MeanVariance(law.mean * factor, law.variance * factor**2)


def _divided(func: Function, a: MeanVariance, b: Operand) -> MeanVariance:
    if isinstance(b, MeanVariance):
        raise NoRuleError("division by something uncertain")
    return MeanVariance(a.mean / b, a.variance / b**2)


def _negative(func: Function, x: MeanVariance) -> MeanVariance:
    return MeanVariance(-x.mean, x.variance.clone())


def _rules() -> dict[str, Rule]:
    families: dict[Rule, str] = {
        _moving: "view reshape flatten unflatten permute transpose contiguous clone detach expand squeeze unsqueeze "
        "chunk split unbind flip roll narrow select index_select repeat to float double __getitem__ pixel_shuffle "
        "pixel_unshuffle movedim swapaxes identity tile t",
        _joined: "cat concat concatenate stack",
        _pad: "pad",
        weighted: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear",
        _batch_norm: "batch_norm",
        relu: "relu relu_",
        leaky_relu: "leaky_relu leaky_relu_",
        smooth: "gelu silu mish tanh sigmoid softplus elu celu selu hardswish hardsigmoid relu6 hardtanh "
        "clamp exp square pow __pow__",
        max_pool: "max_pool2d",
        avg_pool: "avg_pool2d",
        adaptive_avg_pool: "adaptive_avg_pool2d",
        _mean: "mean",
        _sum: "sum",
        interpolate: "interpolate",
        _added: "add sub __add__ __radd__ __sub__ __rsub__ __iadd__ __isub__ add_ sub_",
        _multiplied: "mul __mul__ __rmul__ __imul__ mul_",
        _divided: "div __truediv__ __itruediv__ div_ true_divide",
        _negative: "neg __neg__",
    }
    return {name: rule for rule, names in families.items() for name in names.split()}


RULES = _rules()

EXACT = frozenset({_moving, _joined, _pad, _batch_norm, _negative})
"""Rules that need no covariance: each element of the result depends on one element."""
