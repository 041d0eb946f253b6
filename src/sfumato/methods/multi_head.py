"""Multi-head ensembles: one encoder, several heads."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, evaluating, tensor
from sfumato.methods.conversion import Conversion, chosen_one, replace_module
from sfumato.methods.features import last_layer
from sfumato.methods.output import Heads
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only


class _Copies(nn.Module):
    """Copies of a head in its place.

    In training mode a batch is M equal parts, in order, and each copy sees its own part. In evaluation mode every copy
    sees every image, and the results are joined along the batch (M B, …).

    Args:
        heads: M ≥ 2 modules that read the same features.
    """

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        """(B, …) in training mode, else (M B, …)."""
        count = len(self.heads)
        if self.training and features.shape[0] % count:
            raise ConfigError(f"a batch of {len(features)} cannot be divided among {count} heads: make it a multiple")
        parts = features.chunk(count) if self.training else [features] * count
        return torch.cat([head(part) for head, part in zip(self.heads, parts)])


class MultiHead(BaseMethod):
    """Each head of a network is one draw. What comes before the heads is computed once.

    Args:
        network: A network that :func:`make_multi_head` converted and that was trained since.

    Raises:
        ConfigError: If it has only one head.

    Source: Lee et al. (2015), "Why M heads are better than one".
    Pitfall: All heads read the same features, so their epistemic part is smaller than that of a deep ensemble.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _heads(network)
        self.network = network

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The outputs of all heads (M, B, C, *event). The generator is not used.

        Raises:
            ConfigError: If what follows the heads in the network cannot take what M heads return.
        """
        count = len(_heads(self.network))
        try:
            with evaluating(self.network):
                output = tensor(self.network(*inputs))
        except RuntimeError as error:
            raise ConfigError(
                f"{type(self.network).__name__} fails on what {count} heads return ({error}): perhaps it adds what the "
                "heads have not read. Repeat a module whose result nothing is added to, or use make_batch_ensemble"
            ) from error
        yield output.unflatten(0, (count, -1))

    def extra_repr(self) -> str:
        """The type of the network and the number of heads."""
        return f"{super().extra_repr()}, heads={len(_heads(self.network))}"


def make_multi_head(network: nn.Module, *, where: str = "", members: int = 5) -> Conversion:
    """Put M copies of a head in its place, in place, each with fresh weights of its own.

    Train as before, with shuffled batches whose size is a multiple of M, and predict with :class:`MultiHead`.

    Args:
        network: Any module. Its code stays as it is.
        where: A regular expression that matches the whole name of one module, the head. It is called with one tensor,
            and the network adds nothing to its result that was computed from the image in another way. Default: the
            last convolution or linear layer.
        members: The number M ≥ 2 of heads. Default 5.

    Returns:
        What was done. Its ``remove()`` puts the original head back.

    Raises:
        ConfigError: If ``members`` is less than 2, not exactly one module matches, or it has no weights.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    >>> conversion = make_multi_head(net, members=3)
    >>> next(MultiHead(net).draws(torch.zeros(4, 3, 5, 5))).shape
    torch.Size([3, 4, 2, 3, 3])
    """
    if members < 2:
        raise ConfigError(f"members is {members}, expected at least 2")
    name = chosen_one(network, where) if where else last_layer(network, (nn.Conv2d, nn.Linear))
    original = network.get_submodule(name)
    copies = [deepcopy(original) for _ in range(members)]
    resets = [getattr(m, "reset_parameters", None) for copy in copies for m in copy.modules()]
    resets = [reset for reset in resets if callable(reset)]
    if not resets:
        raise ConfigError(f"{name!r} has no weights to initialize, so its copies would be equal: name a larger module")
    for reset in resets:
        reset()
    return replace_module(network, name, _Copies(copies))


def _heads(network: nn.Module) -> nn.ModuleList:
    for module in network.modules():
        if isinstance(module, _Copies):
            return module.heads
    raise ConfigError(f"{type(network).__name__} has one head: give it several with make_multi_head")


def _attach(network: nn.Module, members: int) -> None:
    if any(isinstance(module, Heads) for module in network.modules()):
        raise ConfigError(
            "multi-head repeats the last layer, and a network of several tasks has one for each task: use "
            "batch-ensemble or ensemble"
        )
    make_multi_head(network, members=members)


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> MultiHead:
    return MultiHead(only(networks))


TRAINING = MethodTraining(_build, members=4, shared=True, attach=_attach)
