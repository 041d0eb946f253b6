"""Networks of one architecture that are run and trained side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from sfumato.errors import ConfigError


class Members:
    """M networks whose weights are stacked, so that one call runs all of them.

    Args:
        network: Makes a network with fresh weights.
        count: M, at least 1.

    Raises:
        ConfigError: If ``count`` is below 1.
    """

    def __init__(self, network: Callable[[], nn.Module], count: int) -> None:
        if count < 1:
            raise ConfigError(f"there are {count} members, expected at least 1")
        made = [network() for _ in range(count)]
        self.weights, self._buffers = stack_module_state(made)
        self._shell = deepcopy(made[0]).to("meta")

    def __call__(self, inputs: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The outputs (M, B, …) of all members for the same inputs (B, …), with other weights if some are given."""
        states = (self.weights if weights is None else dict(weights), self._buffers)
        return torch.vmap(self._one, in_dims=((0, 0), None))(states, inputs)

    def one(self, member: int, inputs: Tensor) -> Tensor:
        """The output (B, …) of one member."""
        return self._one(
            (
                {name: each[member] for name, each in self.weights.items()},
                {name: each[member] for name, each in self._buffers.items()},
            ),
            inputs,
        )

    def copied(self) -> dict[str, Tensor]:
        """A copy of the weights without gradients."""
        return {name: each.detach().clone() for name, each in self.weights.items()}

    def _one(self, states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], inputs: Tensor) -> Tensor:
        return functional_call(self._shell, (dict(states[0]), dict(states[1])), (inputs,))
