"""Deep ensembles and snapshot ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.training import NO_STATE, Keep, MethodTraining, Networks, State


class DeepEnsemble(BaseMethod):
    """Networks that were trained independently from different seeds. Each is one draw.

    Args:
        members: At least one module. All take the same inputs and return outputs of the same shape (B, C, *event).

    Raises:
        ConfigError: If there is no member.

    Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty estimation".
    Pitfall: Members that share an initialization, or that were trained together, differ too little. Checkpoints of one
    training do too, but cost only one training: see :meth:`of` and :func:`cyclic_rate`.
    """

    members: nn.ModuleList

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ConfigError("an ensemble of 0 members cannot predict: give at least one network")

    @classmethod
    def of(cls, network: nn.Module, states: Iterable[Mapping[str, Tensor]]) -> Self:
        """Copies of one network, one with each of these states: checkpoints of a training, or its snapshots.

        Args:
            network: A network with the architecture of the states. It is left as it is.
            states: State dicts with buffers, so that each copy has its own batch normalization statistics.

        Raises:
            ConfigError: If there is no state, or one belongs to another network.

        Source: Huang et al. (2017), "Snapshot ensembles: train 1, get M for free".
        """
        members = []
        for index, state in enumerate(states):
            members.append(deepcopy(network))
            try:
                members[-1].load_state_dict(state)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ConfigError(f"state {index} does not fit {type(network).__name__}: {reason}") from error
        return cls(members)

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The output (1, B, C, *event) of each member in turn. The generator is not used.

        Raises:
            ConfigError: If members return outputs of different shapes.
        """
        expected = None
        for index, member in enumerate(self.members):
            for output in Deterministic(member).draws(*inputs):
                shape = tuple(output.shape[1:])
                expected = expected or shape
                if shape != expected:
                    raise ConfigError(
                        f"member {index} returned shape {shape} but member 0 {expected}: "
                        "members must be trained for the same task"
                    )
                yield output

    def extra_repr(self) -> str:
        """The type of the first member and the number of members."""
        return f"{type(self.members[0]).__name__}, members={len(self.members)}"


def cyclic_rate(step: int, steps: int, cycles: int) -> float:
    """The share of the largest learning rate at a step of cyclic training. A snapshot is taken after each cycle.

    ``½ (1 + cos(π t / T))``, where t is the number of steps since the start of the cycle and T its length.

    Args:
        step: The number of steps done, from 0.
        steps: The number of all steps, at least ``cycles``.
        cycles: The number of cycles, at least 1. Their lengths differ by at most one step.

    Raises:
        ConfigError: If there are fewer steps than cycles.

    Source: Loshchilov and Hutter (2017); Huang et al. (2017).

    >>> [round(cyclic_rate(step, 8, 2), 2) for step in range(8)]
    [1.0, 0.85, 0.5, 0.15, 1.0, 0.85, 0.5, 0.15]
    """
    if not 1 <= cycles <= steps:
        raise ConfigError(f"{cycles} cycles in {steps} steps: expected at least 1, and no more than there are steps")
    cycle = step * cycles // steps
    start, end = (math.ceil(edge * steps / cycles) for edge in (cycle, cycle + 1))
    return (1 + math.cos(math.pi * (step - start) / (end - start))) / 2


def _after(network: nn.Module, step: int, steps: int, members: int, keep: Keep) -> None:
    """Keep the weights at the end of each cycle except the last, whose weights are the trained ones."""
    ended = step * members // steps
    if ended > (step - 1) * members // steps and ended < members:
        keep(ended)


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> DeepEnsemble:
    return DeepEnsemble(networks)


TRAINING = MethodTraining(_build, members=5)
SNAPSHOT_TRAINING = MethodTraining(_build, members=5, rate=cyclic_rate, after=_after)
