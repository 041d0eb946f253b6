"""Deep ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from sfumato.methods.deterministic import Deterministic


@dataclass(frozen=True)
class DeepEnsemble:
    """Networks trained independently from different seeds; each is one draw.

    Args:
        members: at least one module; all take the same inputs and return outputs of the same shape (B, C, H, W).

    Raises:
        ValueError: if there is no member.

    Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty estimation".
    Pitfall: members that share an initialization, or that one optimizer trained together, agree too much; checkpoints
    of one run do, and cost one training: see :meth:`of` and :func:`cyclic_rate`.
    """

    members: Sequence[nn.Module]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("an ensemble of 0 members cannot predict: give at least one network")

    @classmethod
    def of(cls, network: nn.Module, states: Iterable[Mapping[str, Tensor]]) -> Self:
        """Copies of one network with each of these states: checkpoints of a run, or snapshots of its cycles.

        Args:
            network: of the states' architecture; it is left as it is.
            states: state dicts, buffers included, which keep their own batch normalization.

        Raises:
            ValueError: if there is no state, or one is of another network.

        Source: Huang et al. (2017), "Snapshot ensembles: train 1, get M for free".
        """
        members = []
        for index, state in enumerate(states):
            members.append(deepcopy(network))
            try:
                members[-1].load_state_dict(state)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"state {index} is not of {type(network).__name__}: {reason}") from error
        return cls(members)

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The output (1, B, C, H, W) of each member in turn; ``generator`` is not used.

        Raises:
            ValueError: if members return outputs of different shapes.
        """
        expected = None
        for index, member in enumerate(self.members):
            for output in Deterministic(member).draws(*inputs):
                shape = tuple(output.shape[1:])
                expected = expected or shape
                if shape != expected:
                    raise ValueError(
                        f"member {index} returned shape {shape} but member 0 {expected}: "
                        "members must be trained for the same task"
                    )
                yield output


def cyclic_rate(step: int, steps: int, cycles: int) -> float:
    """The share of the largest learning rate at a step of cyclic training, whose cycles end in snapshots.

    ``½ (1 + cos(π t / T))``, with t the steps done since the cycle began and T its length.

    Args:
        step: from 0.
        steps: of the whole training, at least ``cycles``.
        cycles: at least 1, all of one length to within a step.

    Raises:
        ValueError: if there are fewer steps than cycles.

    Source: Loshchilov and Hutter (2017); Huang et al. (2017).

    >>> [round(cyclic_rate(step, 8, 2), 2) for step in range(8)]
    [1.0, 0.85, 0.5, 0.15, 1.0, 0.85, 0.5, 0.15]
    """
    if not 1 <= cycles <= steps:
        raise ValueError(f"{cycles} cycles in {steps} steps: expected at least 1, and no more than there are steps")
    cycle = step * cycles // steps
    start, end = (math.ceil(edge * steps / cycles) for edge in (cycle, cycle + 1))
    return (1 + math.cos(math.pi * (step - start) / (end - start))) / 2
