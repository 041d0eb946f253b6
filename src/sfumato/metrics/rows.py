"""One row of statistics per image, stored in two tensors: integers and floating-point sums."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar

import torch
from torch import Tensor


class Statistics(Protocol):
    """A frozen dataclass of tensors that add up. All have the same leading dimensions (…)."""

    def scores(self) -> dict[str, Tensor]:
        """Scores (…) by name, one for each entry of the leading dimensions."""
        ...

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Curves for the report by name, each with its columns."""
        ...


S = TypeVar("S", bound=Statistics)


def fields(statistics: Statistics) -> dict[str, Tensor]:
    """The tensors of a statistics dataclass by name."""
    names = dataclasses.fields(statistics)  # pyright: ignore[reportArgumentType] statistics are dataclasses
    return {field.name: getattr(statistics, field.name) for field in names}


def pack(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """One image's statistics as int32 (1, …) and float64 (1, …) rows."""
    flat = [tensor.flatten() for tensor in fields(statistics).values()]
    none = flat[0][:0]  # statistics may have counts only, or sums only
    whole = torch.cat([none.int(), *(each.int() for each in flat if not each.is_floating_point())])
    real = torch.cat([none.double(), *(each.double() for each in flat if each.is_floating_point())])
    return whole[None], real[None]


def unpack(counts: Tensor, sums: Tensor, like: S) -> S:
    """Statistics with leading dimension n from rows (n, …); ``like`` gives the shapes."""
    rest, tensors = {False: counts, True: sums}, {}
    for name, tensor in fields(like).items():
        kind = tensor.is_floating_point()
        head, rest[kind] = rest[kind].split([tensor.numel(), rest[kind].shape[-1] - tensor.numel()], -1)
        tensors[name] = head.unflatten(-1, tensor.shape) if tensor.ndim else head[..., 0]
    return type(like)(**tensors)
