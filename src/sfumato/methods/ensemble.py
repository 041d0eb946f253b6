"""Deep ensembles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    Pitfall: members that share an initialisation, or that one optimiser trained together, agree too much.
    """

    members: Sequence[nn.Module]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("an ensemble of 0 members cannot predict: give at least one network")

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
