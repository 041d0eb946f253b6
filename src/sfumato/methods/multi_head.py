"""Multi-head ensembles: one encoder, several heads."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.methods.deterministic import evaluating, tensor


class _Heads(nn.Module):
    """Heads in the place of one.

    While training, a batch is M equal parts, in order, and each head sees its own; in evaluation mode every head sees
    every image, and what they make is joined along the batch (M B, …).

    Args:
        heads: M ≥ 2 modules that read the same features.
    """

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        """(B, …) while training, else (M B, …)."""
        count = len(self.heads)
        if self.training and features.shape[0] % count:
            raise ValueError(f"a batch of {len(features)} cannot be divided among {count} heads: make it a multiple")
        parts = features.chunk(count) if self.training else [features] * count
        return torch.cat([head(part) for head, part in zip(self.heads, parts)])


@dataclass(frozen=True)
class MultiHead:
    """Each head of a network is one draw; what lies before the heads is computed once.

    Args:
        network: as :func:`make_multi_head` left it, and trained.

    Raises:
        ValueError: if it has one head only.

    Source: Lee et al. (2015), "Why M heads are better than one".
    Pitfall: heads agree on whatever their common encoder does not see, so the epistemic part is less than that of a
    deep ensemble.
    """

    network: nn.Module

    def __post_init__(self) -> None:
        _heads(self.network)

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The outputs of all heads (M, B, C, H, W); ``generator`` is not used.

        Raises:
            ValueError: if the network cannot go on with what M heads return.
        """
        count = len(_heads(self.network))
        try:
            with evaluating(self.network):
                output = tensor(self.network(*inputs))
        except RuntimeError as error:
            raise ValueError(
                f"{type(self.network).__name__} fails on what {count} heads return ({error}): perhaps it adds what the "
                "heads have not seen; repeat a module with nothing beside it, or take make_batch_ensemble"
            ) from error
        yield output.unflatten(0, (count, -1))


def make_multi_head(network: nn.Module, head: str, members: int = 5) -> None:
    """Put M copies of a head in its place, in place, each with weights of its own.

    Train as before, with shuffled batches whose size is a multiple of M, and predict with :class:`MultiHead`.

    Args:
        network: its code stays as it is.
        head: name of a module that is called with one tensor, the features; no other input is mixed in after it.
        members: M ≥ 2.

    Raises:
        ValueError: if ``members`` is less than 2, there is no such module, or it has no weights to draw anew.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    >>> make_multi_head(net, "1", 3)
    >>> next(MultiHead(net).draws(torch.zeros(4, 3, 5, 5))).shape
    torch.Size([3, 4, 2, 3, 3])
    """
    if members < 2:
        raise ValueError(f"members is {members}, expected at least 2")
    if head not in dict(network.named_modules()) or not head:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"{type(network).__name__} has no module {head!r}: its own are {names}")
    original = network.get_submodule(head)
    copies = [deepcopy(original) for _ in range(members)]
    fresh = [m for copy in copies for m in copy.modules() if callable(getattr(m, "reset_parameters", None))]
    if not fresh:
        raise ValueError(f"{head!r} has no weights to draw anew, so its copies would be equal: name a larger module")
    for module in fresh:
        module.reset_parameters()  # pyright: ignore[reportCallIssue]
    parent, _, name = head.rpartition(".")
    setattr(network.get_submodule(parent), name, _Heads(copies))


def _heads(network: nn.Module) -> nn.ModuleList:
    for module in network.modules():
        if isinstance(module, _Heads):
            return module.heads
    raise ValueError(f"{type(network).__name__} has one head: give it several with make_multi_head")
