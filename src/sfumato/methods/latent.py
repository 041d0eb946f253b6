"""Conditional latent variables: several plausible labelings of one image, each drawn as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.contracts import Loss
from sfumato.methods.deterministic import evaluating, normal


class ConditionalVAE(nn.Module):
    """A network whose last layers also read a latent z, the same at every pixel, that says *which* labeling is meant.

    ``p(y | x) = ∫ p(y | x, z) p(z | x) dz``, with p(z | x) a normal law that a small network reads off the image. While
    training, another one reads z off image and target. What pixels have in common, such as that a whole region is
    either road or water, is in z; what is undecided pixel by pixel is in the likelihood.

    Args:
        network: any module that makes features (B, features, H, W) of one image tensor, of the image's size.
        features: F, their channels.
        channels_out: C, output channels, ``likelihood.channels``.
        target_channels: K for classes in [0, K), D for values (B, D, H, W).
        in_channels: channels of the image.
        latent: L ≥ 1, dimensions of z.

    Raises:
        ValueError: if a number is less than 1.

    Source: Kohl et al. (2018), "A probabilistic U-Net for segmentation of ambiguous images"; Sohn et al. (2015).
    Pitfall: where the features alone explain the targets, z comes to mean nothing and all draws are equal. A β in
    :meth:`elbo` that is too large does the same.
    """

    def __init__(
        self,
        network: nn.Module,
        features: int,
        channels_out: int,
        target_channels: int,
        in_channels: int = 3,
        latent: int = 6,
    ) -> None:
        super().__init__()
        numbers = {"features": features, "channels_out": channels_out, "target_channels": target_channels,
                   "in_channels": in_channels, "latent": latent}  # fmt: skip
        if min(numbers.values()) < 1:
            raise ValueError(f"{numbers}: expected at least 1 of each")
        self.network, self.target_channels = network, target_channels
        self.prior = _encoder(in_channels, latent)
        self.posterior = _encoder(in_channels + target_channels + 1, latent)
        # A 1 × 1 convolution of features and z side by side, written as a sum: the part of the features is the same for
        # every z, and computed once.
        self.join, self.enter = nn.Conv2d(features, features, 1), nn.Linear(latent, features, bias=False)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(features, features, 1), nn.ReLU(),
                                  nn.Conv2d(features, channels_out, 1))  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """The output (B, C, H, W) at the mean of p(z | x)."""
        return self.decoded(self.joined(image), self.prior(image).chunk(2, 1)[0])

    def joined(self, image: Tensor) -> Tensor:
        """What does not depend on z, (B, F, H, W)."""
        return self.join(self.network(image))

    def decoded(self, joined: Tensor, z: Tensor) -> Tensor:
        """The output (B, C, H, W) for latents (B, L)."""
        return self.last(joined + self.enter(z)[..., None, None])

    def elbo(self, image: Tensor, target: Tensor, valid: Tensor, nll: Loss, beta: float = 1.0) -> Tensor:
        """``E_q[Σ −log p(y | x, z)] + β KL(q(z | x, y) ‖ p(z | x))`` (B,), in nats per image: the loss to minimize.

        With β = 1 a bound on the negative log likelihood of each image's labeling; one z is drawn, with torch's
        generator.

        Args:
            image: (B, in_channels, H, W).
            target: (B, H, W) int64 or (B, D, H, W); one labeling of each image.
            valid: (B, H, W) bool.
            nll: of output, target and valid, the loss of each pixel (B, H, W), 0 where not valid, as of a likelihood.
            beta: ≥ 0, weight of the divergence.

        Raises:
            ValueError: if a valid target is no class in [0, K), or a target has other channels than stated.
        """
        mean, log_sd = self.posterior(torch.cat([image, self._shown(target, valid, image)], 1)).chunk(2, 1)
        z = mean + log_sd.exp() * torch.randn_like(mean)
        reconstruction = nll(self.decoded(self.joined(image), z), target, valid).flatten(1).sum(1)
        return reconstruction + beta * _divergence(mean, log_sd, *self.prior(image).chunk(2, 1))

    def _shown(self, target: Tensor, valid: Tensor, image: Tensor) -> Tensor:
        """The target as the posterior sees it, and where it is valid: (B, K + 1, H, W)."""
        known = valid[:, None]
        if target.ndim == 3:
            target = target.where(valid, 0)
            if not 0 <= int(target.min()) <= int(target.max()) < self.target_channels:
                raise ValueError(
                    f"valid targets run from {int(target.min())} to {int(target.max())}, expected classes in "
                    f"[0, {self.target_channels}): set target_channels, or mark others as not valid"
                )
            target = F.one_hot(target, self.target_channels).movedim(-1, 1)
        if target.shape[1] != self.target_channels:
            raise ValueError(f"targets are {tuple(target.shape)}, expected {self.target_channels} channels")
        return torch.cat([target.to(image).where(known, 0.0), known.to(image)], 1)


@dataclass(frozen=True)
class LatentDraws:
    """Draws of the latent of a :class:`ConditionalVAE` from p(z | x): each is a labeling of the whole image.

    Features and p(z | x) are computed once; a draw costs the last layers.

    Args:
        network: trained with its :meth:`~ConditionalVAE.elbo`.
        samples: T ≥ 1, the number of draws.

    Raises:
        ValueError: if ``samples`` is less than 1, or the network is no :class:`ConditionalVAE`.

    Source: Kohl et al. (2018).
    Pitfall: what differs between the draws is counted as epistemic, though it is the annotators' ambiguity, which more
    data do not remove: read it as the part of the doubt that pixels share.
    """

    network: ConditionalVAE
    samples: int = 20

    def __post_init__(self) -> None:
        if self.samples < 1 or not isinstance(self.network, ConditionalVAE):
            raise ValueError(
                f"samples is {self.samples} and the network a {type(self.network).__name__}, expected at least 1 and a "
                "ConditionalVAE"
            )

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W)."""
        network = self.network
        with evaluating(network):
            joined = network.joined(*inputs)
            mean, log_sd = network.prior(*inputs).chunk(2, 1)
        for _ in range(self.samples):
            with evaluating(network):
                output = network.decoded(joined, mean + log_sd.exp() * normal(mean.shape, mean, generator))
            yield output[None]


class _Mean(nn.Module):
    """Over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _encoder(channels: int, latent: int) -> nn.Sequential:
    """Mean and log standard deviation (B, 2 L) of a normal law of z."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, _Mean(), nn.Linear(channels, 2 * latent))


def _divergence(mean: Tensor, log_sd: Tensor, prior_mean: Tensor, prior_log_sd: Tensor) -> Tensor:
    """``KL(N(mean, e^{2 log_sd}) ‖ N(prior …))`` (B,), summed over dimensions, in nats."""
    ratio = (2 * (log_sd - prior_log_sd)).exp()
    away = ((mean - prior_mean) * (-prior_log_sd).exp()).square()
    return 0.5 * (ratio + away - 1 - ratio.log()).sum(1)
