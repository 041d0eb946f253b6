"""The boxes that were found in one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.storage import Stored


@dataclass(frozen=True, repr=False)
class Boxes(Stored):
    """The N boxes of one image, each with a distribution of its class and of its edges.

    The edges (left, top, right, bottom) have the mean ``edges`` and the covariance ``aleatoric + epistemic``. The
    corner of the image is at (0, 0), so the center of its first pixel is at (0.5, 0.5).

    Args:
        edges: Left, top, right and bottom edge of each box (N, 4), px.
        probs: Probability of each of K classes (N, K), in [0, 1]. What is missing to a sum of 1 is the probability that
            there is no object.
        aleatoric: Aleatoric covariance of the edges (N, 4, 4), px².
        epistemic: Epistemic covariance of the edges (N, 4, 4), px².
        votes: Number of boxes (N,), int64, that each was fused from.
        score: Score of each box (N,) in [0, 1] that takes the place of the largest probability, as a calibrated one
            does. Default None.

    Raises:
        DataError: If the shapes differ.

    >>> edges, unit = torch.tensor([[0.0, 0, 4, 2]]), torch.eye(4)[None]
    >>> one = Boxes(edges, torch.tensor([[0.75, 0.125]]), unit, 3 * unit, torch.tensor([5]))
    >>> one.scores.item(), one.classes.item(), one.std[0, 0].item()
    (0.75, 0, 2.0)
    """

    edges: Tensor
    probs: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    votes: Tensor
    score: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.edges)
        shapes = {"edges": (n, 4), "aleatoric": (n, 4, 4), "epistemic": (n, 4, 4), "votes": (n,)}
        shapes |= {"probs": (n, *self.probs.shape[-1:])} | ({} if self.score is None else {"score": (n,)})
        for name, shape in shapes.items():
            if (found := tuple(getattr(self, name).shape)) != shape:
                raise DataError(f"{name} of {n} boxes has the shape {found}, expected {shape}")

    def __repr__(self) -> str:
        return f"Boxes({len(self)}, {self.probs.shape[1]} classes)"

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def scores(self) -> Tensor:
        """The score of each box (N,): the probability of its class, or the calibrated score."""
        return self.score if self.score is not None else self.probs.amax(1)

    @property
    def classes(self) -> Tensor:
        """The most probable class of each box (N,), int64, from 0."""
        return self.probs.argmax(1)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the edges (N, 4, 4), px²: both parts together."""
        return self.aleatoric + self.epistemic

    @property
    def std(self) -> Tensor:
        """Standard deviation of each edge (N, 4), px."""
        return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()

    @property
    def uncertainty(self) -> Tensor:
        """Root mean square of the standard deviations of the four edges (N,), px."""
        return self.std.square().mean(1).sqrt()

    def bounds(self, factor: float) -> tuple[Tensor, Tensor]:
        """The inner and the outer box, each (N, 4), px: edges moved inwards and outwards by ``factor`` times their std.

        Args:
            factor: Number of standard deviations, ≥ 0.

        Returns:
            Inner box (of no size, at the center, where the edges would cross) and outer box.

        Raises:
            ConfigError: If ``factor`` is below 0.
        """
        if not factor >= 0:
            raise ConfigError(f"factor is {factor}, expected a number of standard deviations, at least 0")
        outwards = self.std * factor * self.std.new_tensor([-1, -1, 1, 1])
        inner, outer = self.edges - outwards, self.edges + outwards
        center = (inner[:, :2] + inner[:, 2:]) / 2
        inner = torch.cat([torch.minimum(inner[:, :2], center), torch.maximum(inner[:, 2:], center)], 1)
        return inner, outer

    def select(self, which: Tensor) -> Self:
        """Some of the boxes: a mask (N,) or indices."""
        return replace(self, **{name: value[which] for name, value in self.tensors().items()})

    @classmethod
    def none(cls, classes: int) -> Self:
        """No box of this number of classes."""
        square = torch.zeros(0, 4, 4)
        return cls(torch.zeros(0, 4), torch.zeros(0, classes), square, square, torch.zeros(0, dtype=torch.int64))
