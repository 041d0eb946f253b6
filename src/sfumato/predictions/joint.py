"""Predictions of several tasks from the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sfumato.contracts import Moments
from sfumato.predictions.classes import ClassPrediction
from sfumato.predictions.event import resize_maps
from sfumato.predictions.values import ValuePrediction

TaskPrediction = ClassPrediction | ValuePrediction
"""The prediction of one task."""


@dataclass(frozen=True, repr=False)
class JointPrediction(Mapping[str, TaskPrediction]):
    """A prediction for each task, all from one set of draws.

    It has no total of its own, because nats, pixels and meters do not add up. The prediction of each task has one.

    Args:
        parts: The prediction of each task, by name.
        image: Image (B, 3, H, W) in [0, 1] that pictures show; the prediction of each task gets it. Default: none.

    >>> one = ClassPrediction(torch.full((1, 2, 1, 1), 0.5), torch.zeros(1, 1, 1))
    >>> JointPrediction({"classes": one})["classes"].epistemic
    tensor([[[0.6931]]])
    """

    parts: Mapping[str, TaskPrediction]
    image: Tensor | None = None

    def __repr__(self) -> str:
        return f"JointPrediction({', '.join(f'{name}: {part}' for name, part in self.parts.items())})"

    def __getitem__(self, name: str) -> TaskPrediction:
        found = self.parts[name]
        return found if self.image is None else found.with_image(self.image)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def with_image(self, image: Tensor) -> Self:
        """The same prediction with the image (B, 3, H, W) in [0, 1] that pictures show."""
        return replace(self, image=image)

    def with_novelty(self, novelty: Tensor) -> Self:
        """The same prediction, each task with the novelty score (B, *event)."""
        return replace(self, parts={name: part.with_novelty(novelty) for name, part in self.parts.items()})

    def resampled(self, how: Callable[[Tensor], Tensor]) -> Self:
        """The same prediction at other places: ``how`` interpolates maps (B, C, H, W)."""
        image = None if self.image is None else how(self.image)
        return replace(self, parts={name: part.resampled(how) for name, part in self.parts.items()}, image=image)

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width)."""
        image = None if self.image is None else resize_maps(self.image, size)
        return replace(self, parts={name: part.resized(size) for name, part in self.parts.items()}, image=image)

    def to(self, device: torch.device | str) -> Self:
        """The same prediction on another device."""
        image = None if self.image is None else self.image.to(device)
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()}, image=image)

    def save(self, path: str | Path) -> None:
        """Write one file for each task: for ``cat.safetensors``, ``cat_classes.safetensors`` and so on."""
        path = Path(path)
        for name in self:
            self[name].save(path.with_name(f"{path.stem}_{name}{path.suffix}"))


AnyPrediction = TaskPrediction | JointPrediction
"""The prediction of one task or of several tasks."""


@dataclass(frozen=True)
class JointMoments:
    """The moments of each task.

    Args:
        parts: The moments of each task, by name.
    """

    parts: Mapping[str, Moments[TaskPrediction]]

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together, task by task."""
        return type(self)({name: part.merge(other.parts[name]) for name, part in self.parts.items()})

    def prediction(self) -> JointPrediction:
        """The prediction of each task."""
        return JointPrediction({name: part.prediction() for name, part in self.parts.items()})
