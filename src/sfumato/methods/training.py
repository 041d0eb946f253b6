"""What training and fitting do for one method that they do not do for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.contracts import Batch, Inputs, Likelihood, Loss
from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod

Networks = Sequence[nn.Module]
State = Mapping[str, Tensor]
NO_STATE: State = {}
Keep = Callable[[int], None]


class Build(Protocol):
    """Makes the method over trained networks."""

    def __call__(self, networks: Networks, samples: int, state: State = NO_STATE) -> BaseMethod:
        """The method, with this number of samples if it has one. ``state`` is what ``MethodTraining.fit`` returned."""
        ...


@dataclass(frozen=True)
class MethodTraining:
    """How networks are trained or fitted for one method, and how the method is built.

    Each method has one, as a constant of its own module. A plug-in registers its own in the group ``sfumato.methods``.

    Args:
        build: Builds the method: ``build(networks, samples, state)``.
        members: The number of members if a plan names none. If it is 1, the method cannot have more.
        shared: Whether all members are one network. Then a training batch is divided among the members. Default False.
        attach: Changes a fresh network in place, given the number of members: adds what the method learns beside the
            weights. It becomes a part of the network's state.
        penalty: Added to the loss, in nats for all training pixels together. It takes the place of weight decay.
        rate: The share of the largest learning rate at (step, steps, members). None means one cycle, and weights that
            are averaged at the end.
        after: Called after each step as ``(network, step, steps, members, keep)``. ``keep(member)`` stores the present
            weights as those of another member.
        finish: Makes the network that is stored, from the trained one and the inputs of all training batches.
        loss: Takes the place of the likelihood's loss: ``(network, inputs, target, valid, nll)`` to a scalar, in nats
            per valid pixel.
        fit: Fits the method to a finished network: ``(network, batches, likelihood, samples)`` to the tensors that
            ``build`` needs. It leaves the network as it is.
        needs_training_data: Whether ``fit`` or ``finish`` reads training data. Default False.
    """

    build: Build
    members: int = 1
    shared: bool = False
    attach: Callable[[nn.Module, int], object] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    rate: Callable[[int, int, int], float] | None = None
    after: Callable[[nn.Module, int, int, int, Keep], None] | None = None
    finish: Callable[[nn.Module, Iterable[Inputs]], nn.Module] | None = None
    loss: Callable[[nn.Module, Inputs, Tensor, Tensor, Loss], Tensor] | None = None
    fit: Callable[[nn.Module, Iterable[Batch], Likelihood, int], dict[str, Tensor]] | None = None
    needs_training_data: bool = False

    @property
    def post_hoc(self) -> bool:
        """Whether the method is fitted to a finished network instead of trained."""
        return self.fit is not None


def only(networks: Networks) -> nn.Module:
    """The only network of a method that has one."""
    (network,) = networks
    return network


def peeked(batches: Iterable[Batch]) -> tuple[Batch, Iterable[Batch]]:
    """The first batch, and all batches including it.

    Raises:
        ConfigError: If there is none.
    """
    rest = iter(batches)
    if (first := next(rest, None)) is None:
        raise ConfigError("there is no batch of training data: the method cannot be fitted")
    return first, chain([first], rest)


def coded_name(name: str) -> Tensor:
    """The name of a layer as a tensor, so that it can be stored beside tensors."""
    return torch.tensor(list(name.encode()), dtype=torch.uint8)


def decoded_name(code: Tensor) -> str:
    """The name that :func:`coded_name` made a tensor of."""
    return bytes(code.tolist()).decode()
