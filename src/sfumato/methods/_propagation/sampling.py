"""Variances of all activations over sampled dropout masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.methods._propagation.rules import EXACT, RULES
from sfumato.methods._propagation.run import is_dropout, run
from sfumato.methods._replay.replay import Args, KwArgs, leaves_of

R = TypeVar("R")


def sampled_variances(network: nn.Module, inputs: tuple[Tensor, ...], draws: int) -> list[Tensor]:
    """The variance over dropout masks of the result of each operation that is corrected, in the order they run.

    Uses torch's global generators.
    """
    means: list[Tensor] = []
    squares: list[Tensor] = []
    for count in range(1, draws + 1):
        mode = _Sampling(means, squares, count)
        run(network, inputs, mode)
    return [square / (draws - 1) for square in squares]


class _Sampling(TorchFunctionMode):
    """One pass with dropout active, which adds to running means and sums of squared deviations (Welford, 1962)."""

    def __init__(self, means: list[Tensor], squares: list[Tensor], count: int) -> None:
        super().__init__()
        self.means, self.squares, self.count = means, squares, count
        self.seen = 0
        self.uncertain = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Tensor], types: object, args: Args = (), kwargs: KwArgs | None = None
    ) -> object:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if is_dropout(name):
            return self._drop(func, *args, **kwargs)
        leaves = leaves_of((args, kwargs))
        uncertain = any(isinstance(leaf, Tensor) and leaf in self.uncertain for leaf in leaves)
        result = func(*args, **kwargs)
        if not uncertain or name not in RULES:
            return result
        if RULES[name] not in EXACT:
            self._add(result)
        return self._mark(result)

    def _drop(
        self,
        func: Callable[..., Tensor],
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if p == 0:
            return input
        result = func(input, p, True)
        return self._mark(input.copy_(result) if inplace else result)

    def _mark(self, result: R) -> R:
        for leaf in leaves_of(result):
            self.uncertain[leaf] = True
        return result

    def _add(self, value: Tensor) -> None:
        if self.count == 1:
            self.means.append(value.clone())
            self.squares.append(torch.zeros_like(value))
        else:
            mean, away = self.means[self.seen], value - self.means[self.seen]
            mean += away / self.count
            self.squares[self.seen] += away * (value - mean)
        self.seen += 1
