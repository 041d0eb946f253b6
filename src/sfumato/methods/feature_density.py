"""Deep deterministic uncertainty: how likely are the features of a pixel, among those of the training data?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.contracts import Batch
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.features import read_by

FLOOR = 1e-5
STRIP = 1 << 20  # numbers at a time


@dataclass(frozen=True)
class FeatureDensity:
    """A Gaussian for each class over the features that a head reads: one pass, and a score of novelty beside it.

    ``log q(φ) = log Σ_k π_k N(φ; μ_k, Σ_k)`` with one law for all places of an image. It is no variance and no entropy,
    so no part of a prediction: :meth:`look` returns it beside the output, and ``peak − log q(φ) ≥ 0`` ranks pixels by
    novelty. As a method it draws the network as it is.

    Covariances are one per class, because classes differ in theirs; each is drawn towards the one they share with the
    weight of F + 1 pixels, so that a class with few pixels has an invertible one too.

    Args:
        network: trained.
        head: the layer of it whose input (B, F, H, W) the densities are of; usually the last one.
        log_priors: (K,) log π_k, shares of the pixels, of the K classes that training data hold.
        means: (K, F).
        whitening: (K, F, F) lower triangular W_k with ``Σ_k⁻¹ = W_kᵀ W_k``.

    Source: Mukhoti et al. (2021), "Deep deterministic uncertainty for semantic segmentation".
    Pitfall: features of novel things may collapse onto those of known ones; the paper trains with spectral
    normalization against that. A density falls with every feature, so it is compared between pixels of one network
    only. A feature that training data never move has almost no variance (1e-5 of the mean one): whatever moves it is
    very novel.
    """

    network: nn.Module
    head: nn.Module
    log_priors: Tensor
    means: Tensor
    whitening: Tensor

    @classmethod
    def fit(cls, network: nn.Module, head: nn.Module, batches: Iterable[Batch], classes: int) -> Self:
        """Count pixels, sum features and their products, in one pass and memory independent of the number of pixels.

        Args:
            network: trained.
            head: the layer of it whose input is described.
            batches: inputs of the network (a tuple), targets (B, H, W) int64 in [0, classes) and masks (B, H, W) bool;
                where features are smaller than the targets, each belongs to the class of the pixel nearest to it.
            classes: K ≥ 1; with 1 all valid pixels are of one kind, whatever the targets (values, for example).

        Raises:
            ValueError: if ``classes`` is less than 1, a valid target is out of range, or no pixel is valid.
        """
        if classes < 1:
            raise ValueError(f"classes is {classes}, expected at least 1")
        sums: _Sums | None = None
        for inputs, target, valid in batches:
            features = read_by(network, head, inputs)[0]
            labels = _labels(target, valid, classes, features.shape[-2:])
            pixels = features.movedim(1, -1).flatten(0, -2).double()
            sums = sums or _Sums.empty(classes, pixels)
            sums.add(pixels, labels.flatten())
        if sums is None or not bool(sums.counts.any()):
            raise ValueError("no pixel is valid: nothing is known of the features")
        log_priors, means, whitening = sums.laws()
        like = features  # pyright: ignore[reportPossiblyUnboundVariable]
        return cls(network, head, log_priors.to(like), means.to(like), whitening.to(like))

    @property
    def peak(self) -> float:
        """A bound in nats on the log density of any features: ``log Σ_k π_k N(μ_k; μ_k, Σ_k)``."""
        return float(torch.logsumexp(self._heights(), 0))

    def log_density(self, features: Tensor) -> Tensor:
        """``log q(φ)`` (B, H, W) in nats of features (B, F, H, W)."""
        classes, count = self.means.shape
        weight = self.whitening.flatten(0, 1)[:, :, None, None]
        bias = -(self.whitening @ self.means[:, :, None]).flatten()
        heights = self._heights()[:, None, None]

        def joint(rows: Tensor) -> Tensor:
            away = F.conv2d(rows, weight, bias).unflatten(1, (classes, count))
            return heights - 0.5 * away.square_().sum(2)

        # All classes at once, of so few rows that what they make, K times as many features, stays in the cache.
        rows = max(1, STRIP // (classes * count * features.shape[-1]))
        return torch.cat([joint(strip).logsumexp(1) for strip in features.split(rows, 2)], 1)

    def look(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """From one pass: the output (B, C, H, W), and the log density (B, H, W) in nats of each pixel's features.

        Where features are smaller than the output, their log density is interpolated bilinearly.
        """
        features, _, output = read_by(self.network, self.head, inputs)
        with torch.no_grad():
            density = self.log_density(features)
        if density.shape[-2:] != output.shape[-2:]:
            density = F.interpolate(density[:, None], output.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return output, density

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """One output (1, B, C, H, W), that of the network as it is; ``generator`` is not used."""
        return Deterministic(self.network).draws(*inputs)

    def _heights(self) -> Tensor:
        """``log π_k N(μ_k; μ_k, Σ_k)`` (K,)."""
        logdet = self.whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.log_priors + logdet - 0.5 * self.means.shape[1] * math.log(2 * math.pi)


@dataclass
class _Sums:
    """Over the pixels of each class, about a fixed point so that differences do not cancel; float64."""

    center: Tensor  # (F,)
    counts: Tensor  # (K,)
    first: Tensor  # (K, F)
    second: Tensor  # (K, F, F)

    @classmethod
    def empty(cls, classes: int, pixels: Tensor) -> _Sums:
        count = pixels.shape[1]
        second = pixels.new_zeros(classes, count, count)
        return cls(pixels.mean(0), pixels.new_zeros(classes), pixels.new_zeros(classes, count), second)

    def add(self, pixels: Tensor, labels: Tensor) -> None:
        pixels = pixels - self.center
        for k in labels.unique().tolist():
            if k >= 0:
                own = pixels[labels == k]
                self.counts[k] += len(own)
                self.first[k] += own.sum(0)
                self.second[k] += own.T @ own

    def laws(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log shares, means and whitening of the classes that there are."""
        there = self.counts > 0
        counts, first, second = self.counts[there], self.first[there], self.second[there]
        means = first / counts[:, None]
        scatter = second - counts[:, None, None] * means[:, :, None] * means[:, None, :]
        shared, weight = scatter.sum(0) / counts.sum(), means.shape[1] + 1
        floor = FLOOR * shared.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        covariance = (scatter + weight * shared) / (counts[:, None, None] + weight)
        factor = torch.linalg.cholesky(covariance + floor * torch.eye(len(shared)).to(shared))
        identity = torch.eye(len(shared)).to(shared).expand_as(factor)
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        return (counts / counts.sum()).log(), means + self.center, whitening


def _labels(target: Tensor, valid: Tensor, classes: int, size: torch.Size) -> Tensor:
    """Classes (B, h, w) at the features' places, −1 where not valid."""
    if classes == 1:
        labels = valid.long() - 1
    else:
        labels = target.where(valid, -1)
        wrong = valid & ((target < 0) | (target >= classes))
        if bool(wrong.any()):
            found = int(target[wrong][0])
            raise ValueError(f"a valid target is {found}, expected a class in [0, {classes}): mark others as not valid")
    return F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
