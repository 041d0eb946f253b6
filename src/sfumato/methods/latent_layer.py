"""A layer that also reads a latent vector, and the networks that give the vector's distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError

Sampler = Callable[[Tensor], Tensor]
"""From the features (B, F, h, w) that the layer reads to the latent vectors (B, L)."""


class LatentLayer(nn.Module):
    """A convolution that reads features and a latent vector z, which is the same for all pixels of an image.

    ``layer(relu(mix(relu(join(φ) + enter(z)))))`` for features φ. A small network gives the distribution p(z | φ) from
    the features; a second one gives q(z | φ, y) from features and target, for training.

    Args:
        layer: The convolution, with F input and C output channels.
        latent: The number L ≥ 1 of dimensions of z.
    """

    def __init__(self, layer: nn.Conv2d, latent: int) -> None:
        super().__init__()
        features, channels = layer.in_channels, layer.out_channels
        self.layer, self.channels = layer, channels
        self.prior = _encoder(features, latent)
        self.posterior = _encoder(features + channels + 1, latent)
        # A 1 × 1 convolution of features and z side by side, written as a sum. The part of the features is the same for
        # every z, so it is computed once.
        self.join, self.enter = nn.Conv2d(features, features, 1), nn.Linear(latent, features, bias=False)
        self.mix = nn.Conv2d(features, features, 1)
        self._sampler: Sampler | None = None

    def forward(self, features: Tensor) -> Tensor:
        """The output (B, C, h, w), for the mean of p(z | φ) or the z of :meth:`sampling`."""
        z = self.prior(features).chunk(2, 1)[0] if self._sampler is None else self._sampler(features)
        return self.decoded(self.join(features), z)

    def decoded(self, joined: Tensor, z: Tensor) -> Tensor:
        """The output (B, C, h, w) for ``join(features)`` (B, F, h, w) and latent vectors (B, L)."""
        return self.layer(F.relu(self.mix(F.relu(joined + self.enter(z)[..., None, None]))))

    @contextmanager
    def sampling(self, sampler: Sampler) -> Iterator[None]:
        """Take z from this function while the network runs."""
        self._sampler = sampler
        try:
            yield
        finally:
            self._sampler = None

    def seen(self, target: Tensor, valid: Tensor, features: Tensor) -> Tensor:
        """What the second network reads (B, F + C + 1, h, w): features, target and mask, at the features' size.

        Raises:
            ConfigError: If a valid target is not a class in [0, C), or a target has more than C values.
        """
        known = valid[:, None]
        if not target.is_floating_point():
            target = _one_hot(target.where(valid, 0), self.channels)
        if target.shape[1] > self.channels:
            raise ConfigError(f"targets are {tuple(target.shape)}, expected at most {self.channels} values per pixel")
        missing = (0, 0, 0, 0, 0, self.channels - target.shape[1])
        maps = torch.cat([F.pad(target.to(features).where(known, 0.0), missing), known.to(features)], 1)
        return torch.cat([features, F.interpolate(maps, features.shape[-2:], mode="nearest-exact")], 1)


def _one_hot(classes: Tensor, count: int) -> Tensor:
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= count:
        raise ConfigError(
            f"valid targets run from {low} to {high}, expected classes in [0, {count}): mark others as not valid"
        )
    return F.one_hot(classes, count).movedim(-1, 1)


class _Mean(nn.Module):
    """The mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _encoder(channels: int, latent: int) -> nn.Sequential:
    """A network that gives mean and log standard deviation (B, 2 L) of a normal distribution of z."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, _Mean(), nn.Linear(channels, 2 * latent))


def divergence(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """``KL(N(mean, e^{2 log_std}) ‖ N(prior_mean, e^{2 prior_log_std}))`` (B,) in nats, summed over dimensions."""
    ratio = (2 * (log_std - prior_log_std)).exp()
    distance = ((mean - prior_mean) * (-prior_log_std).exp()).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(1)
