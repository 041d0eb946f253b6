"""Boxes: the class of the object whose center is near a pixel, and the distances from the pixel to the edges."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato import targets
from sfumato.tasks.semantic import Semantic
from sfumato.tasks.value import VectorTask, direction_colors

BACKGROUND = "background"
GROUPS: dict[str, tuple[str, ...]] = {"boxes": ("objects", "distances")}
"""Names that stand for several tasks that are learned together."""


@dataclass(frozen=True)
class BoxObjects(Semantic):
    """The class of the object in whose central region a pixel lies; 0 where it lies in none.

    The central region of a box is the ellipse with half its width and half its height. It holds at least the pixel at
    the center. Where regions overlap, a pixel belongs to the smallest box.

    Args:
        names: ``"background"``, then the names of the classes of objects.
        palette: A color (red, green, blue) for each name, each number in 0 … 255.

    Raises:
        ConfigError: If names and palette differ in length.

    Source: Tian et al. (2019), "FCOS: fully convolutional one-stage object detection", with center sampling.
    """

    key: ClassVar[str] = "objects"

    @classmethod
    def of(cls, classes: tuple[str, ...]) -> Self:
        """The task for these classes of objects, with a color for each.

        >>> BoxObjects.of(("cell", "plate")).names
        ('background', 'cell', 'plate')
        """
        hues = (colorsys.hsv_to_rgb(i / max(1, len(classes)), 0.7, 0.95) for i in range(len(classes)))
        colors = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]
        return cls((BACKGROUND, *classes), ((24, 24, 28), *colors))


@dataclass(frozen=True)
class EdgeDistances(VectorTask):
    """Distances (left, top, right, bottom) from a pixel to the edges of its box, known in the central region of boxes.

    Args:
        reach: Half the width of the largest box that pictures show in full color, > 0, in ``unit``. Default 20.
        unit: Unit of the distances. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.
    """

    key: ClassVar[str] = "distances"
    target: ClassVar[targets.EntryKind] = targets.EdgeDistances()
    dims: ClassVar[int] = 4

    def color(self, values: Tensor) -> Tensor:
        """Distances (4, H, W) as colors uint8 (H, W, 3): the hue is the direction to the center of the box."""
        left, top, right, bottom = values
        return direction_colors(torch.stack([right - left, bottom - top]) / 2, self.reach)
