"""Moments of the weights of a network along its training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.methods.base import normal

BLOCK = 1 << 14  # weights whose deviations are computed at a time, so that they stay in the cache


class SWAGState(nn.Module):
    """Moments of a network's weights along training: their mean, their variances, and the last K snapshots in full.

    ``N(θ̄, ½ diag(s²) + ½ D Dᵀ / (K − 1))`` is the Gaussian they define. s² are the variances over all n snapshots, and
    the columns of D are the last K snapshots minus θ̄. With n = K it has exactly the variances of the snapshots, and
    half of their covariances.

    Args:
        network: The network whose learnable parameters are followed. It is not kept.
        rank: The number K ≥ 2 of snapshots that are kept in full, each as large as the weights. Default 20.

    Raises:
        ConfigError: If ``rank`` is less than 2, or the network has nothing to learn.

    Source: Maddox et al. (2019). They subtract the running mean at the time of each snapshot, so that their first
    column is always 0; here θ̄ is the mean of all snapshots.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    recent: Tensor

    def __init__(self, network: nn.Module, rank: int = 20) -> None:
        super().__init__()
        if rank < 2:
            raise ConfigError(f"rank is {rank}, expected at least 2: one snapshot has no spread")
        self.rank = rank
        self.shapes = {name: p.shape for name, p in network.named_parameters() if p.requires_grad}
        size = sum(shape.numel() for shape in self.shapes.values())
        if size == 0:
            raise ConfigError(f"{type(network).__name__} has no parameter that requires gradients: nothing to follow")
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("squares", torch.zeros(size))  # squared deviations from the mean, summed
        self.register_buffer("recent", torch.zeros(rank, size))

    @torch.no_grad()
    def collect(self, weights: nn.Module | Mapping[str, Tensor]) -> None:
        """Add the present weights of a network, or those of a state dict.

        Raises:
            ConfigError: If they do not fit the network that is followed.
        """
        found = dict(weights.named_parameters()) if isinstance(weights, nn.Module) else weights
        for name, shape in self.shapes.items():
            if name not in found or found[name].shape != shape:
                got = tuple(found[name].shape) if name in found else "missing"
                raise ConfigError(
                    f"snapshot {int(self.count)}: {name} is {got}, expected {tuple(shape)}: another network"
                )
        now = torch.cat([found[name].detach().flatten().to(self.mean) for name in self.shapes])
        self.recent[int(self.count) % self.rank] = now
        self.count += 1
        change = now - self.mean
        self.mean += change / self.count
        self.squares += change * (now - self.mean)  # Welford: no difference of large squares

    def average(self) -> dict[str, Tensor]:
        """The mean weights, by name."""
        return self._named(self.mean)

    def draw(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian, by name."""
        along = normal((self.rank,), self.mean, generator)
        apart = normal(self.mean.shape, self.mean, generator)
        blocks = zip(self.recent.split(BLOCK, 1), self.mean.split(BLOCK), strict=True)
        deviation = torch.cat([along @ (recent - mean) for recent, mean in blocks])
        deviation = deviation / math.sqrt(2 * (self.rank - 1))
        return self._named(self.mean + deviation + (self.squares / (2 * (self.count - 1))).sqrt() * apart)

    def _named(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
