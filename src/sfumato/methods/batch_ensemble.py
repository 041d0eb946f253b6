"""BatchEnsemble: members that share their weights except for one factor per channel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, evaluating, tensor
from sfumato.methods.conversion import LAYERS, Conversion, Where, add_children, input_features
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only

NAME = "rank_one"  # the name of the child that a layer gets, and so a part of the names in the network's state


class BatchEnsemble(BaseMethod):
    """Members that share weights up to a factor of rank one, computed in one pass.

    Member m has the weights ``W ∘ r_m s_mᵀ``: what a layer reads is scaled by s_m and what it returns by r_m. The pass
    runs on a batch that holds each image M times.

    Args:
        network: A network that :func:`make_batch_ensemble` converted and that was trained since.

    Raises:
        ConfigError: If it has no such factors.

    Source: Wen et al. (2020), "BatchEnsemble: an alternative approach to efficient ensemble and lifelong learning".
    Pitfall: Members differ less than networks that were trained separately. A pass needs the memory of M images for
    each image.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _members(network)
        self.network = network

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The outputs of all members (M, B, C, *event). The generator is not used.

        Inputs whose first dimension is that of the first input (the batch) are repeated for each member.
        """
        members = _members(self.network)
        batch = next((leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), 0)

        def repeated(leaf: object) -> object:
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch:
                return leaf.repeat(members, *(1,) * (leaf.ndim - 1))
            return leaf

        with evaluating(self.network):
            output = tensor(self.network(*tree_map(repeated, inputs)))
        yield output.unflatten(0, (members, -1))

    def extra_repr(self) -> str:
        """The type of the network and the number of members."""
        return f"{super().extra_repr()}, members={_members(self.network)}"


def make_batch_ensemble(
    network: nn.Module, *, where: Where = LAYERS, members: int = 4, spread: float = 0.1
) -> Conversion:
    """Give convolutions and linear layers of a network M pairs of factors to learn, in place.

    Afterwards a batch is M equal parts, in order, and each member sees one part. Train as before, with shuffled batches
    whose size is a multiple of M, and predict with :class:`BatchEnsemble`.

    Args:
        network: Any module, trained or not. Its code stays as it is. Its state gets entries named ``….rank_one.…``.
        where: A regular expression that matches the whole names of modules, or types of modules. Of them, convolutions
            and linear layers are converted; subclasses are not. Default: all of them.
        members: The number M ≥ 2 of members. Default 4.
        spread: Factors start at N(1, spread²), with ``spread`` ≥ 0. With 0 all members are the same network and learn
            the same. The authors' 0.5 suits wide networks and long training. A small U-Net learns far less with it in
            44 epochs (``benchmarks/methods.md``). Default 0.1.

    Returns:
        What was done. Its ``remove()`` takes the factors away again.

    Raises:
        ConfigError: If ``members`` is less than 2, ``spread`` is below 0, no such layer is selected, or a layer has
            factors already.
    """
    if members < 2 or spread < 0:
        raise ConfigError(f"members is {members} and spread {spread}, expected at least 2 members and a spread ≥ 0")
    return add_children(
        network,
        where,
        NAME,
        lambda layer: _RankOne(layer, members, spread),
        lambda layer: [layer.register_forward_pre_hook(_enter), layer.register_forward_hook(_leave)],
    )


class _RankOne(nn.Module):
    """M factors for each channel that a layer reads, and for each channel that it returns (its bias included)."""

    def __init__(self, layer: nn.Module, members: int, spread: float) -> None:
        super().__init__()
        weight = layer.get_parameter("weight")
        self.trailing = weight.ndim - 2  # dimensions behind the channels
        for name, channels in (("enter", input_features(layer)), ("leave", len(weight))):
            factor = 1 + spread * torch.randn(members, channels, device=weight.device)
            self.register_parameter(name, nn.Parameter(factor.to(weight.dtype)))

    def scaled(self, x: Tensor, name: str) -> Tensor:
        """``x`` (M b, …), each of its M parts with its own factors."""
        factor = self.get_parameter(name)
        members, channels = factor.shape
        if x.shape[0] % members:  # not len(x), which a traced graph would take for a constant
            raise ConfigError(
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


def _enter(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (_factors(layer).scaled(args[0], "enter"), *args[1:])


def _leave(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return _factors(layer).scaled(output, "leave")


def _members(network: nn.Module) -> int:
    for module in network.modules():
        if isinstance(module, _RankOne):
            return len(module.get_parameter("enter"))
    raise ConfigError(f"{type(network).__name__} has no factors of members: convert it with make_batch_ensemble")


def _attach(network: nn.Module, members: int) -> None:
    make_batch_ensemble(network, members=members)


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> BatchEnsemble:
    return BatchEnsemble(only(networks))


TRAINING = MethodTraining(_build, members=4, shared=True, attach=_attach)
