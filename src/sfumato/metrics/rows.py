"""One row of statistics per image, kept in two tensors: whole numbers and sums."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Statistics(Protocol):
    """A frozen dataclass of tensors that add up, each with the same leading dimensions; its scores are per entry."""

    def scores(self) -> dict[str, Tensor]:
        """Scores (…), over the leading dimensions."""
        ...

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """What the report draws: name → columns."""
        ...


S = TypeVar("S")


def fields(statistics: Any) -> dict[str, Tensor]:
    """The tensors by name."""
    return {field.name: getattr(statistics, field.name) for field in dataclasses.fields(statistics)}


def pack(statistics: Any) -> tuple[Tensor, Tensor]:
    """One image's statistics as int32 (1, …) and float64 (1, …) rows."""
    whole = [t.flatten() for t in fields(statistics).values() if not t.is_floating_point()]
    real = [t.flatten() for t in fields(statistics).values() if t.is_floating_point()]
    return torch.cat(whole).int()[None], torch.cat(real).double()[None]


def unpack(counts: Tensor, sums: Tensor, like: S) -> S:
    """Rows (n, …) as statistics with leading dimension n; ``like`` gives the shapes."""
    rest, tensors = {False: counts, True: sums}, {}
    for name, tensor in fields(like).items():
        kind = tensor.is_floating_point()
        head, rest[kind] = rest[kind].split([tensor.numel(), rest[kind].shape[-1] - tensor.numel()], -1)
        tensors[name] = head.unflatten(-1, tensor.shape) if tensor.ndim else head[..., 0]
    return type(like)(**tensors)
