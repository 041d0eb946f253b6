"""One network without any uncertainty about its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfumato.methods.base import BaseMethod, evaluating, tensor
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only


class Deterministic(BaseMethod):
    """The network as it is: one draw, so there is no epistemic part.

    Args:
        network: Any module that returns one tensor (B, C, *event).

    >>> Deterministic(nn.Identity())
    Deterministic(Identity)
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """One output (1, B, C, *event). The generator is not used.

        Raises:
            ConfigError: If the network does not return a tensor.
        """
        with evaluating(self.network):
            output = tensor(self.network(*inputs))
        yield output[None]


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> Deterministic:
    return Deterministic(only(networks))


TRAINING = MethodTraining(_build)
