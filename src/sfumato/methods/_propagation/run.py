"""Running a network on means, with the variance of every uncertain tensor beside it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.methods._propagation.activations import Function, MeanVariance, NoRuleError, dropped, means
from sfumato.methods._propagation.rules import EXACT, RULES, LinearMap, linear_map, weighted
from sfumato.methods._replay.replay import Args, KwArgs, leaves_of, mapped
from sfumato.methods.base import evaluating, tensor

V = TypeVar("V")
SHAPES = ("shape", "size", "dim", "__len__", "numel", "__get__", "is_contiguous", "stride", "ndimension")
"""Operations that read no values."""


class Correction(Protocol):
    """Replaces the variance that a rule gives for independent elements."""

    def __call__(self, name: str, variance: Tensor, linear: LinearMap | None) -> Tensor:
        """The variance of the result of the next operation.

        Args:
            name: The name of the operation.
            variance: The variance that the rule gives; for a convolution or a linear map, that of what it reads.
            linear: The convolution or linear map, if it is one.
        """
        ...


def run(network: nn.Module, inputs: tuple[Tensor, ...], mode: AbstractContextManager[object]) -> Tensor:
    """The output of the network in evaluation mode under ``mode``. Inputs are copied: the network may change them."""
    compiled = "torch._dynamo" in sys.modules  # only then can the network be compiled; compiled code hides operations
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    inputs = mapped(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    with evaluating(network), eager, mode:
        return tensor(network(*inputs))


def is_dropout(name: str) -> bool:
    """Whether an operation of this name multiplies elements with random zeros."""
    return "dropout" in name and "alpha" not in name


def in_place(name: str, kwargs: KwArgs) -> bool:
    """Whether an operation of this name writes into its first argument."""
    written = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    return written or bool(kwargs.get("inplace"))


class Propagation(TorchFunctionMode):
    """Lets a network run on means, and keeps the variance of every uncertain tensor.

    Args:
        correction: Corrects the variances of operations that are not exact. Default: no correction.
    """

    def __init__(self, correction: Correction | None = None) -> None:
        super().__init__()
        self.correction = correction
        self.has_dropout = False
        self.variances = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Function, types: object, args: Args = (), kwargs: KwArgs | None = None
    ) -> object:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if is_dropout(name):
            return self._drop(*args, **kwargs)
        if not any(self._uncertain(leaf) for leaf in leaves_of((args, kwargs))):
            return func(*args, **kwargs)
        if name not in RULES:
            return self._shape(func, name, args, kwargs)
        result = self._result(func, name, *mapped(self._moments, (tuple(args), kwargs)))
        if in_place(name, kwargs) and isinstance(result, MeanVariance):
            return self._overwrite(args[0], result)
        return self._note(result)

    def _result(self, func: Function, name: str, args: Args, kwargs: KwArgs) -> MeanVariance | tuple[MeanVariance, ...]:
        rule = RULES[name]
        first = (kwargs.pop("input"),) if "input" in kwargs else ()
        if self.correction is None or rule in EXACT:
            return rule(func, *first, *args, **kwargs)
        if rule is weighted:
            linear = linear_map(func, *first, *args, **kwargs)
            mean = func(*means((*first, *args)), **means(kwargs))
            return MeanVariance(mean, self.correction(name, linear.variance, linear))
        result = rule(func, *first, *args, **kwargs)
        assert isinstance(result, MeanVariance)
        variance = self.correction(name, result.variance, None)
        if any(isinstance(x, MeanVariance) and x.mean is result.mean for x in args):  # the rule has written in place
            result.variance.copy_(variance)
            return result
        return MeanVariance(result.mean, variance)

    def _drop(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if p == 0:
            return input
        self.has_dropout = True
        result = dropped(self._moments(input), p)
        # Dropout does not change the mean. The result needs a copy, because its variance is another one.
        return (
            self._overwrite(input, result)
            if inplace
            else self._noted(MeanVariance(result.mean.clone(), result.variance))
        )

    def _uncertain(self, leaf: object) -> TypeGuard[Tensor]:
        return isinstance(leaf, Tensor) and leaf in self.variances

    def _moments(self, leaf: V) -> V | MeanVariance:
        return MeanVariance(leaf, self.variances[leaf]) if self._uncertain(leaf) else leaf

    def _note(self, result: MeanVariance | tuple[MeanVariance, ...]) -> Tensor | tuple[Tensor, ...]:
        return tuple(map(self._noted, result)) if isinstance(result, tuple) else self._noted(result)

    def _noted(self, result: MeanVariance) -> Tensor:
        self.variances[result.mean] = result.variance
        return result.mean

    def _overwrite(self, target: Tensor, result: MeanVariance) -> Tensor:
        """Write in place, so that views of the target and of its variance change too."""
        if result.mean is target:  # the rule has written both
            return target
        if self._uncertain(target):
            self.variances[target].copy_(result.variance)
        elif target._base is not None:
            raise NoRuleError("a write into a part of a tensor that was certain")
        else:
            self.variances[target] = result.variance
        return target.copy_(result.mean)

    def _shape(self, func: Function, name: str, args: Args, kwargs: KwArgs) -> object:
        """Shapes and the like are allowed. What returns values has no rule."""
        if name in SHAPES:
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        raise NoRuleError(name)
