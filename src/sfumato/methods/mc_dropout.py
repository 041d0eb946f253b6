"""Monte Carlo dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.methods.deterministic import evaluating, tensor

_DROPOUTS = (nn.modules.dropout._DropoutNd,)


@contextmanager
def _awake(network: nn.Module) -> Iterator[None]:
    with evaluating(network):
        for module in network.modules():
            if isinstance(module, _DROPOUTS):
                module.training = True
        yield


@dataclass(frozen=True)
class MCDropout:
    """Dropout stays on at prediction; each mask is a plausible network.

    Args:
        network: a module with dropout that returns one tensor (B, C, H, W).
        samples: T ≥ 1.

    Source: Gal and Ghahramani (2016), "Dropout as a Bayesian approximation".
    """

    network: nn.Module
    samples: int = 20

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W)."""
        seed = int(torch.randint(2**62, (), generator=generator))
        for draw in range(self.samples):
            with torch.random.fork_rng(), _awake(self.network):
                torch.manual_seed(seed + draw)
                output = tensor(self.network(*inputs))
            yield output[None]
