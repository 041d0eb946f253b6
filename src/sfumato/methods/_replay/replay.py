"""The operations that run again for another draw, on storages that differ between draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Args = tuple[Any, ...]
"""Positional arguments of a torch function or operator, which may be of any type."""
KwArgs = dict[str, Any]
"""Its keyword arguments."""
V = TypeVar("V")


@dataclass(frozen=True)
class Place:
    """The place, in its storage, of a tensor that differs between runs."""

    slot: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def view(self, storages: dict[int, Tensor]) -> Tensor:
        """The tensor at this place, given one tensor on each storage."""
        base = storages[self.slot]
        if base.dtype != self.dtype:
            base = torch.empty(0, dtype=self.dtype, device=base.device).set_(base.untyped_storage())
        return base.as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True)
class Step:
    """An operation that runs again.

    ``makes`` pairs a position among its results with the slot of the storage made there. ``changes`` holds the slots
    that it makes or writes into, ``frees`` those that nothing reads after it.
    """

    operator: Callable[..., object]
    args: Args
    kwargs: KwArgs
    makes: tuple[tuple[int, int], ...]
    changes: frozenset[int]
    draws: bool
    frees: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Recording:
    """What :func:`record` found.

    Args:
        output: The output of the recorded run.
        operations: The number of operations of that run.
        steps: The operations that run again in :meth:`replay`.
        result: The place of the output, or the output itself where it does not differ.
        global_random: Whether random numbers were drawn from torch's global generators.
    """

    output: Tensor
    operations: int
    steps: list[Step]
    result: Place | Tensor
    global_random: bool = False

    def replay(self) -> Tensor:
        """The output of another run, with the same generators in their present state."""
        storages: dict[int, Tensor] = {}

        def present(leaf: object) -> object:
            return leaf.view(storages) if isinstance(leaf, Place) else leaf

        with torch.no_grad():
            for step in self.steps:
                results = leaves_of(step.operator(*mapped(present, step.args), **mapped(present, step.kwargs)))
                storages |= {slot: cast(Tensor, results[position]) for position, slot in step.makes}
                for slot in step.frees:
                    del storages[slot]
            return self.result.view(storages) if isinstance(self.result, Place) else self.result.clone()


def pruned(steps: list[Step], result: Place | Tensor) -> list[Step]:
    """The steps that the result needs, each with the slots that nothing needs after it. Random draws stay, in order."""
    needed = {result.slot} if isinstance(result, Place) else set()
    kept: list[Step] = []
    for step in reversed(steps):
        if step.draws or not needed.isdisjoint(step.changes):
            reads = {leaf.slot for leaf in leaves_of((step.args, step.kwargs)) if isinstance(leaf, Place)}
            step.frees.extend((step.changes | reads) - needed)
            needed |= reads
            kept.append(step)
    return kept[::-1]


def leaves_of(value: object) -> list[object]:
    """What operators take or return, as a flat list. It is 5 times faster than torch's pytree."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves_of(item)]
    return leaves_of(list(value.values())) if isinstance(value, dict) else [value]


def mapped(function: Callable[[object], object], value: V) -> V:
    """What operators take, with ``function`` applied to every leaf."""
    return cast(V, _mapped(function, value))


def _mapped(function: Callable[[object], object], value: object) -> object:
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)([_mapped(function, item) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(function, item) for key, item in value.items()}
    return function(value)
