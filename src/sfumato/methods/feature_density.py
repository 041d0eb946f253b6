"""Deep deterministic uncertainty: how likely the features of a pixel are among those of the training data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.contracts import Batch, Likelihood
from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod
from sfumato.methods.class_gaussians import ClassSums
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.features import layer_name, output_layer, read_by
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, coded_name, decoded_name, only, peeked

STRIP = 1 << 20  # numbers that are computed at a time


class FeatureDensity(BaseMethod):
    """A Gaussian for each class over the features that a layer reads: one pass, and a novelty score beside the output.

    ``log q(φ) = log Σ_k π_k N(φ; μ_k, Σ_k)``, with one distribution for all places of an image. It is not a variance
    and not an entropy, so it is no part of a prediction's uncertainty. :meth:`look` returns it beside the output, and
    :meth:`novelty`, ``peak − log q(φ) ≥ 0``, ranks pixels. The draw is the output of the network as it is.

    Each class has its own covariance, because classes differ in theirs. It is averaged with the covariance of all
    classes, which gets the weight of F + 1 pixels. So a class with few pixels has an invertible covariance too.

    Args:
        network: A trained network.
        head: The layer, or its name, whose input (B, F, H, W) is described; usually the last one.
        log_priors: (K,) log π_k, the logarithms of the shares of pixels, for the K classes in the training data.
        means: (K, F) μ_k.
        whitening: (K, F, F) lower triangular matrices W_k with ``Σ_k⁻¹ = W_kᵀ W_k``.

    Source: Mukhoti et al. (2021), "Deep deterministic uncertainty for semantic segmentation".
    Pitfall: The features of novel objects may be the same as those of known ones; the paper trains with spectral
    normalization against that. Densities depend on the features, so compare them only between pixels of one network. A
    feature that is constant in the training data gets a small variance (1e-5 of the mean one), so a pixel where it
    changes is very novel.
    """

    gives_novelty = True
    network: nn.Module
    log_priors: Tensor
    means: Tensor
    whitening: Tensor

    def __init__(
        self, network: nn.Module, head: str | nn.Module, log_priors: Tensor, means: Tensor, whitening: Tensor
    ) -> None:
        super().__init__()
        self.network, self.head = network, layer_name(network, head)
        self.register_buffer("log_priors", log_priors)
        self.register_buffer("means", means)
        self.register_buffer("whitening", whitening)

    @classmethod
    def fit(cls, network: nn.Module, head: str | nn.Module, batches: Iterable[Batch], classes: int) -> Self:
        """Count pixels and sum features and their products, in one pass over the data.

        Args:
            network: A trained network. It is left as it is.
            head: The layer, or its name, whose input is described.
            batches: Inputs of the network (a tuple), targets (B, H, W) int64 in [0, classes) and masks (B, H, W) bool,
                or (B, D) values and masks (B,).
                Where features are smaller than the targets, each belongs to the class of the pixel nearest to it.
            classes: The number K ≥ 1 of classes. With 1 all valid pixels form one class, whatever the targets are.

        Raises:
            ConfigError: If ``classes`` is less than 1, a valid target is out of range, or no pixel is valid.
        """
        if classes < 1:
            raise ConfigError(f"classes is {classes}, expected at least 1")
        name, sums, like = layer_name(network, head), None, torch.empty(0)
        for inputs, target, valid in batches:
            like = read_by(network, name, inputs)[0]
            labels = _labels(target, valid, classes, like.shape[-2:])
            pixels = like.movedim(1, -1).flatten(0, -2).double()
            sums = sums or ClassSums.empty(classes, pixels)
            sums.add(pixels, labels.flatten())
        if sums is None or not bool(sums.counts.any()):
            raise ConfigError("no pixel is valid, so nothing is known of the features: give batches with valid targets")
        log_priors, means, whitening = (found.to(like).contiguous() for found in sums.distributions())
        return cls(network, name, log_priors, means, whitening)

    @property
    def peak(self) -> float:
        """An upper bound of the log density of any features, in nats: ``log Σ_k π_k N(μ_k; μ_k, Σ_k)``."""
        return float(torch.logsumexp(self._heights(), 0))

    def log_density(self, features: Tensor) -> Tensor:
        """``log q(φ)`` (B, H, W) in nats, of features (B, F, H, W)."""
        classes, count = self.means.shape
        weight = self.whitening.flatten(0, 1)[:, :, None, None]
        bias = -(self.whitening @ self.means[:, :, None]).flatten()
        heights = self._heights()[:, None, None]

        def joint(rows: Tensor) -> Tensor:
            away = F.conv2d(rows, weight, bias).unflatten(1, (classes, count))
            return heights - 0.5 * away.square_().sum(2)

        # All classes at once, for so few rows that the result, K times as many features, stays in the cache.
        rows = max(1, STRIP // (classes * count * features.shape[-1]))
        return torch.cat([joint(strip).logsumexp(1) for strip in features.split(rows, 2)], 1)

    def look(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """From one pass: the output (B, C, H, W) and the log density (B, H, W) in nats of each pixel's features.

        Where features are smaller than the output, their log density is interpolated bilinearly. An output (B, C) with
        one vector for each image has one log density (B,).
        """
        features, _, output = read_by(self.network, self.head, inputs)
        with torch.no_grad():
            density = self.log_density(features)
        if output.ndim == 2:
            return output, density[:, 0, 0]
        if density.shape[-2:] != output.shape[-2:]:
            density = F.interpolate(density[:, None], output.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return output, density

    def novelty(self, *inputs: Tensor) -> Tensor:
        """``peak − log q(φ)`` (B, H, W) in nats, at least 0; larger for features unlike those of the training data."""
        return self.draws_and_novelty(*inputs)[1]

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """One output (1, B, C, H, W), that of the network as it is. The generator is not used."""
        return Deterministic(self.network).draws(*inputs)

    def draws_and_novelty(
        self, *inputs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Iterator[Tensor], Tensor]:
        """The draw and the novelty (B, H, W) in nats, from one pass. The generator is not used."""
        output, density = self.look(*inputs)
        return iter((output[None],)), (self.peak - density).clamp_min(0)

    def _heights(self) -> Tensor:
        """``log π_k N(μ_k; μ_k, Σ_k)`` (K,)."""
        logdet = self.whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.log_priors + logdet - 0.5 * self.means.shape[1] * math.log(2 * math.pi)


def _labels(target: Tensor, valid: Tensor, classes: int, size: torch.Size) -> Tensor:
    """Classes (B, h, w) at the places of the features, −1 where not valid."""
    if classes == 1:
        labels = valid.long() - 1
    else:
        labels = target.where(valid, -1)
        wrong = valid & ((target < 0) | (target >= classes))
        if bool(wrong.any()):
            found = int(target[wrong][0])
            raise ConfigError(
                f"a valid target is {found}, expected a class in [0, {classes}): mark others as not valid"
            )
    if labels.ndim == 1:  # one target for each image
        return labels[:, None, None].expand(-1, *size)
    return F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()


def _fit(network: nn.Module, batches: Iterable[Batch], likelihood: Likelihood, samples: int) -> dict[str, Tensor]:
    first, batches = peeked(batches)
    name = output_layer(network, first[0])
    classes = 1 if first[1].is_floating_point() else likelihood.channels  # a bound; absent classes get no Gaussian
    method = FeatureDensity.fit(network, name, batches, classes)
    fitted = {"log_priors": method.log_priors, "means": method.means, "whitening": method.whitening}
    return fitted | {"head": coded_name(name)}


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> FeatureDensity:
    fitted = (state[name] for name in ("log_priors", "means", "whitening"))
    return FeatureDensity(only(networks), decoded_name(state["head"]), *fitted)


TRAINING = MethodTraining(_build, fit=_fit, needs_training_data=True)
