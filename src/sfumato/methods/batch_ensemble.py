"""BatchEnsemble: members that share their weights but for one factor per channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sfumato.methods.deterministic import evaluating, tensor

NAME = "rank_one"  # of the child that a layer gets, and so part of the names in its state


@dataclass(frozen=True)
class BatchEnsemble:
    """Members that share weights up to a rank-one factor, all computed in one pass over a batch that holds each image M
    times.

    Member m has the weights ``W ∘ r_m s_mᵀ``, which is to scale what a layer reads by s_m and what it makes by r_m.

    Args:
        network: as :func:`make_batch_ensemble` left it, and trained.

    Raises:
        ValueError: if it has no such factors.

    Source: Wen et al. (2020), "BatchEnsemble: an alternative approach to efficient ensemble and lifelong learning".
    Pitfall: members differ less than networks that were trained on their own. A pass takes the memory of M images for
    one.
    """

    network: nn.Module

    def __post_init__(self) -> None:
        _members(self.network)

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """All members at once (M, B, C, H, W); ``generator`` is not used. Inputs of 4 dimensions are repeated."""
        members = _members(self.network)

        def repeated(leaf: Any) -> Any:
            return leaf.repeat(members, 1, 1, 1) if isinstance(leaf, Tensor) and leaf.ndim == 4 else leaf

        with evaluating(self.network):
            output = tensor(self.network(*tree_map(repeated, inputs)))
        yield output.unflatten(0, (members, -1))


def make_batch_ensemble(network: nn.Module, members: int = 4, spread: float = 0.1) -> None:
    """Give every convolution and linear layer of a network M pairs of factors to learn, in place.

    Afterwards a batch is M equal parts, in order, each seen by one member: train it as before, with shuffled batches
    whose size is a multiple of M, and predict with :class:`BatchEnsemble`. Its state gets entries ``….rank_one.…``.

    Args:
        network: untrained, or trained and to be trained on.
        members: M ≥ 2.
        spread: ≥ 0; factors begin at N(1, spread²). With 0 all members are the same network and learn the same. The
            authors' 0.5 suits wide networks and long training; a small U-Net learns far less with it in 44 epochs
            (``benchmarks/methods.md``).

    Raises:
        ValueError: if ``members`` is less than 2, ``spread`` below 0, or there is no such layer, or factors already.
    """
    if members < 2 or spread < 0:
        raise ValueError(f"members is {members} and spread {spread}, expected at least 2 members and a spread ≥ 0")
    layers = [m for m in network.modules() if type(m) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)]
    if not layers or any(hasattr(layer, NAME) for layer in layers):
        held = "factors already" if layers else "no convolution and no linear layer"
        raise ValueError(f"{type(network).__name__} has {held}: expected a network with layers that have none yet")
    for layer in layers:
        layer.add_module(NAME, _RankOne(layer, members, spread))
        layer.register_forward_pre_hook(_enter)
        layer.register_forward_hook(_leave)


class _RankOne(nn.Module):
    """M factors for each channel that enters a layer, and for each that leaves it (its bias included)."""

    def __init__(self, layer: nn.Module, members: int, spread: float) -> None:
        super().__init__()
        weight = layer.get_parameter("weight")
        self.trailing = weight.ndim - 2  # dimensions behind the channels
        entering = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        for name, channels in (("enter", entering), ("leave", len(weight))):
            factor = 1 + spread * torch.randn(members, channels, device=weight.device)  # pyright: ignore
            setattr(self, name, nn.Parameter(factor.to(weight.dtype)))

    def with_target_statistics(self, x: Tensor, name: str) -> Tensor:
        """``x`` (M b, …) with the factors of each of M parts."""
        factor = self.get_parameter(name)
        members, channels = factor.shape
        if x.shape[0] % members:  # not len(x), which a traced graph would take for a constant
            raise ValueError(
                f"a batch of {len(x)} cannot be divided among {members} members: make it a multiple of {members}, or "
                "predict with BatchEnsemble, which repeats each image"
            )
        between = (1,) * (x.ndim - 2 - self.trailing)
        factor = factor.view(members, 1, *between, channels, *(1,) * self.trailing)
        return (x.unflatten(0, (members, -1)) * factor).flatten(0, 1)


def _factors(layer: nn.Module) -> _RankOne:
    found = layer.get_submodule(NAME)
    assert isinstance(found, _RankOne)
    return found


def _enter(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_factors(layer).with_target_statistics(args[0], "enter"), *args[1:])


def _leave(layer: nn.Module, _: Any, made: Tensor) -> Tensor:
    return _factors(layer).with_target_statistics(made, "leave")


def _members(network: nn.Module) -> int:
    for module in network.modules():
        if isinstance(module, _RankOne):
            return len(module.get_parameter("enter"))
    raise ValueError(f"{type(network).__name__} has no factors of members: convert it with make_batch_ensemble")
