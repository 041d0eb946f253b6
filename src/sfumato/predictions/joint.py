"""Predictions of several tasks from the same draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sfumato.predictions.resize import resized


@dataclass(frozen=True)
class JointPrediction(Mapping[str, Any]):
    """A prediction for each task, all folded from one set of draws.

    It has no total of its own: nats, pixels and meters do not add up. Those of each task do.

    Args:
        parts: the prediction of each task, by name.
        image: (B, 3, H, W) in [0, 1], only to be looked at; each task's prediction carries it.

    >>> from sfumato.predictions import ClassPrediction
    >>> one = ClassPrediction(torch.full((1, 2, 1, 1), 0.5), torch.zeros(1, 1, 1))
    >>> JointPrediction({"classes": one})["classes"].epistemic
    tensor([[[0.6931]]])
    """

    parts: Mapping[str, Any]
    image: Tensor | None = None

    def __getitem__(self, name: str) -> Any:
        found = self.parts[name]
        return found if self.image is None else replace(found, image=self.image)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def resized(self, size: tuple[int, int]) -> Self:
        """The same at another (height, width)."""
        image = None if self.image is None else resized(self.image, size)
        return replace(self, parts={name: part.resized(size) for name, part in self.parts.items()}, image=image)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        image = None if self.image is None else self.image.to(device)
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()}, image=image)

    def save(self, path: str | Path) -> None:
        """Write one file for each task: of ``cat.safetensors``, ``cat_classes.safetensors`` and so on."""
        path = Path(path)
        for name in self:
            self[name].save(path.with_name(f"{path.stem}_{name}{path.suffix}"))


@dataclass(frozen=True)
class JointMoments:
    """The moments of each task."""

    parts: Mapping[str, Any]

    def merge(self, other: Self) -> Self:
        """Both together, task by task."""
        return type(self)({name: part.merge(other.parts[name]) for name, part in self.parts.items()})

    def prediction(self) -> Any:
        """The :class:`JointPrediction` that these draws amount to."""
        return JointPrediction({name: part.prediction() for name, part in self.parts.items()})
