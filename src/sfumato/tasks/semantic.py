"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.targets import ClassMap, EntryKind
from sfumato.tasks.base import BaseTask

if TYPE_CHECKING:
    from sfumato.metrics import ClassScores


@dataclass(frozen=True)
class Semantic(BaseTask):
    """The class of each pixel.

    Args:
        names: Names of the K ≥ 2 classes, in the order of their ids 0 … K − 1.
        palette: K colors (red, green, blue), each number in 0 … 255.

    Raises:
        ConfigError: If names and palette differ in length.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    key: ClassVar[str] = "classes"
    kind: ClassVar[str] = "class"
    target: ClassVar[EntryKind] = ClassMap()
    default_likelihood: ClassVar[str] = "categorical"
    dims: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette):
            raise ConfigError(
                f"{len(self.names)} class names but {len(self.palette)} colors: give each class one color"
            )

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self.names)

    def scores(self) -> ClassScores:
        """Fresh scores of class predictions."""
        from sfumato.metrics import ClassScores  # here, because torchmetrics imports matplotlib

        return ClassScores(self.classes)

    @property
    def display_range(self) -> tuple[float, float]:
        """The first and the last class."""
        return 0.0, self.classes - 1.0

    def color(self, values: Tensor) -> Tensor:
        """Labels (H, W) in the colors of the palette, uint8 (H, W, 3). Ids without a color are black."""
        palette = torch.tensor([*self.palette, (0, 0, 0)], dtype=torch.uint8)
        known = (values >= 0) & (values < self.classes)
        return palette[values.cpu().where(known.cpu(), self.classes)]
