"""Units that may be labeled, with what the network says about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """N units.

    Args:
        image: Number of the image (N,) of each unit, int64.
        number: Number of the unit (N,) in its image, int64.
        size: Its pixels (N,).
        score: Its mean score (N,), ≥ 0.
        by_class: The part of the mean score (N, K) that comes from pixels with each predicted class.
        shares: The share of its pixels (N, K) with each predicted class.
        features: What the last layer of the network reads (N, F), as a mean over the unit; F is 0 if it was not needed.
    """

    image: Tensor
    number: Tensor
    size: Tensor
    score: Tensor
    by_class: Tensor
    shares: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.image)

    @property
    def label(self) -> Tensor:
        """The most frequent predicted class (N,) of each unit."""
        return self.shares.argmax(1)

    def __getitem__(self, places: Tensor) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[places] for field in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The units of several images."""
        return cls(**{field.name: torch.cat([getattr(each, field.name) for each in parts]) for field in fields(cls)})

    @classmethod
    def of_image(
        cls, image: int, numbers: Tensor, score: Tensor, label: Tensor, classes: int, features: Tensor | None = None
    ) -> Self:
        """The units of one image, on the CPU.

        Args:
            image: Number of the image.
            numbers: The unit (H, W) of each pixel; −1 for none.
            score: The score (H, W) of each pixel.
            label: The predicted class (H, W) of each pixel.
            classes: K, the number of classes.
            features: Features (F, H, W) of each pixel. Default: none.

        >>> numbers = torch.tensor([[0, 0, 1], [0, 0, -1]])
        >>> score = torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 9.0]])
        >>> found = Candidates.of_image(7, numbers, score, torch.zeros(2, 3, dtype=torch.int64), 1)
        >>> found.size.tolist(), found.score.tolist()
        ([4, 1], [1.0, 1.0])
        """
        inside = (numbers >= 0).flatten()
        units, place = numbers.flatten()[inside].unique(return_inverse=True)
        count, known = len(units), score.flatten()[inside].double()
        size = torch.bincount(place, minlength=count)
        cell = place * classes + label.flatten()[inside]
        cells = count * classes
        by_class = torch.bincount(cell, known, minlength=cells).view(count, classes) / size[:, None]
        shares = torch.bincount(cell, minlength=cells).view(count, classes) / size[:, None]
        if features is None:
            pooled = torch.zeros(count, 0)
        else:
            values = features.flatten(1)[:, inside].float()
            sums = values.new_zeros(len(values), count).index_add_(1, place, values)
            pooled = (sums / size).T
        columns = (
            torch.full((count,), image), units, size, by_class.sum(1).float(), by_class.float(), shares.float(), pooled,
        )  # fmt: skip
        return cls(*(column.cpu() for column in columns))


def touched(numbers: Tensor, asked: Tensor) -> Tensor:
    """The numbers of the units (M,), sorted, that have a pixel whose label was asked for.

    Args:
        numbers: The unit (H, W) of each pixel; −1 for none.
        asked: Pixels (H, W) whose label was asked for, bool.
    """
    found = numbers[asked].unique()
    return found[found >= 0]
