"""What runs again for another draw: operations, on storages that differ from draw to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a tensor that differs between runs lies in its storage."""

    slot: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def view(self, storages: dict[int, Tensor]) -> Tensor:
        """The tensor that lies here, given one tensor on each storage."""
        base = storages[self.slot]
        if base.dtype != self.dtype:
            base = torch.empty(0, dtype=self.dtype, device=base.device).set_(base.untyped_storage())
        return base.as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True)
class Step:
    """An operation that runs again.

    ``makes`` pairs a position among its results with the slot of the storage made there; ``changes`` holds the slots
    it makes or writes into, ``frees`` those nobody reads after it.
    """

    operator: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    makes: tuple[tuple[int, int], ...]
    changes: frozenset[int]
    draws: bool
    frees: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Recording:
    """What :func:`record` saw.

    Args:
        output: of the recorded run.
        operations: how many operations that run took.
        steps: those of them that run again in :meth:`replay`.
        result: the output's place, or the output where it does not differ.
        own_chance: whether random numbers were drawn from torch's global generators.
    """

    output: Tensor
    operations: int
    steps: list[Step]
    result: Any
    own_chance: bool = False

    def replay(self) -> Tensor:
        """The output of another run, drawn from the same generators in their present state."""
        storages: dict[int, Tensor] = {}

        def present(leaf: Any) -> Any:
            return leaf.view(storages) if isinstance(leaf, Place) else leaf

        with torch.no_grad():
            for step in self.steps:
                results = leaves_of(step.operator(*mapped(present, step.args), **mapped(present, step.kwargs)))
                storages |= {slot: results[position] for position, slot in step.makes}
                for slot in step.frees:
                    del storages[slot]
            return present(self.result) if isinstance(self.result, Place) else self.result.clone()


def pruned(steps: list[Step], result: Any) -> list[Step]:
    """The steps that the result needs, each told which slots nobody needs after it; draws stay, to keep the order."""
    needed = {result.slot} if isinstance(result, Place) else set()
    kept: list[Step] = []
    for step in reversed(steps):
        if step.draws or not needed.isdisjoint(step.changes):
            reads = {leaf.slot for leaf in leaves_of((step.args, step.kwargs)) if isinstance(leaf, Place)}
            step.frees.extend((step.changes | reads) - needed)
            needed |= reads
            kept.append(step)
    return kept[::-1]


def leaves_of(value: Any) -> list[Any]:
    """What operators take or return, flat: torch's own pytree does this for every type, and 5 times slower."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves_of(item)]
    return leaves_of(list(value.values())) if isinstance(value, dict) else [value]


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """What operators take, with ``function`` applied to every leaf."""
    if type(value) in (list, tuple):
        return type(value)([mapped(function, item) for item in value])
    if isinstance(value, dict):
        return {key: mapped(function, item) for key, item in value.items()}
    return function(value)
