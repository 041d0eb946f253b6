"""Gaussians of the features of each class, from sums over pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import NotFiniteError

FLOOR = 1e-5  # the smallest variance, as a share of the mean variance


@dataclass
class ClassSums:
    """Counts, sums and sums of products over the pixels of each class, in float64.

    Features are taken relative to a fixed point, so that the differences of large numbers keep their digits.
    """

    center: Tensor  # (F,)
    counts: Tensor  # (K,)
    first: Tensor  # (K, F)
    second: Tensor  # (K, F, F)

    @classmethod
    def empty(cls, classes: int, pixels: Tensor) -> ClassSums:
        """No pixel yet. The fixed point is the mean of these pixels (N, F)."""
        count = pixels.shape[1]
        second = pixels.new_zeros(classes, count, count)
        return cls(pixels.mean(0), pixels.new_zeros(classes), pixels.new_zeros(classes, count), second)

    def add(self, pixels: Tensor, labels: Tensor) -> None:
        """Add pixels (N, F) with their labels (N,); those with a negative label do not count."""
        pixels = pixels - self.center
        for k in labels.unique().tolist():
            if k >= 0:
                own = pixels[labels == k]
                self.counts[k] += len(own)
                self.first[k] += own.sum(0)
                self.second[k] += own.T @ own

    def distributions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log shares, means and whitening matrices of the classes that have a pixel."""
        present = self.counts > 0
        counts, first, second = self.counts[present], self.first[present], self.second[present]
        means = first / counts[:, None]
        scatter = second - counts[:, None, None] * means[:, :, None] * means[:, None, :]
        shared, weight = scatter.sum(0) / counts.sum(), means.shape[1] + 1
        floor = FLOOR * shared.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        covariance = (scatter + weight * shared) / (counts[:, None, None] + weight)
        try:
            factor = torch.linalg.cholesky(covariance + floor * torch.eye(len(shared)).to(shared))
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage] it is public
            raise NotFiniteError("features of the training images are not finite or too large") from error
        identity = torch.eye(len(shared)).to(shared).expand_as(factor)
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        return (counts / counts.sum()).log(), means + self.center, whitening
