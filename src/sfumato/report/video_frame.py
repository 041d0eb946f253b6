"""One frame of a video of predictions: maps side by side, or the best guess over the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sfumato.contracts import Task
from sfumato.predictions import ClassPrediction, TaskPrediction
from sfumato.report.pictures import color_table, display_maps, rgb, scale_end
from sfumato.report.prediction_figure import INK, LINE, PAPER, small_font

LARGEST = 640  # pixels: the width of one map
OPACITY = 0.65  # of a best guess that is certain
EPISTEMIC = 0.25  # the end of its scale, as a share of that of the total


@dataclass(frozen=True)
class VideoPainter:
    """Draws the predictions of one video, all with the same scale of colors.

    Args:
        task: The task that is drawn.
        end: The total uncertainty with the brightest color: log K nats for classes, else a standard deviation.
    """

    task: Task
    end: float

    @classmethod
    def starting_with(cls, task: Task, first: TaskPrediction) -> VideoPainter:
        """A painter whose scale suits the first prediction; for classes it is that of all."""
        if isinstance(first, ClassPrediction):
            return cls(task, math.log(first.probs.shape[1]))
        return cls(task, scale_end([display_maps(first)["total"]]))

    def side_by_side(self, image: Tensor, prediction: TaskPrediction) -> np.ndarray:
        """Image, best guess, total and epistemic uncertainty in a row, with their names: uint8 (H, W, 3).

        The scale of the total ends at :attr:`end`, that of the epistemic part at a quarter of it.

        Args:
            image: The frame (3, H, W), float in [0, 1].
            prediction: Its prediction (1, …, H, W).
        """
        maps = display_maps(prediction)
        unit = "nats" if isinstance(prediction, ClassPrediction) else f"σ, {prediction.unit or 'units'}"
        parts = {"image": rgb(image), self.task.key: self._best(prediction)}
        for name, end in (("total", self.end), ("epistemic", EPISTEMIC * self.end)):
            parts[f"{name}, 0 to {end:.2g} {unit}"] = _heat(maps[name], end)
        pictures = [_narrowed(each) for each in parts.values()]
        return np.concatenate([_headings(tuple(parts), pictures[0].shape[1]), np.concatenate(pictures, 1)])

    def overlay(self, image: Tensor, prediction: TaskPrediction) -> np.ndarray:
        """The best guess over the image, more transparent where the total uncertainty is larger: uint8 (H, W, 3)."""
        sure = 1 - (display_maps(prediction)["total"][0] / self.end).clamp(0, 1)
        opacity = OPACITY * sure[..., None].numpy()
        mixed = (1 - opacity) * rgb(image) + opacity * self._best(prediction)
        return _narrowed(mixed.round().astype(np.uint8))

    def _best(self, prediction: TaskPrediction) -> np.ndarray:
        return self.task.color(prediction.best[0].detach().cpu()).numpy()


DRAWINGS: dict[str, Callable[[VideoPainter, Tensor, TaskPrediction], np.ndarray]] = {
    "side-by-side": VideoPainter.side_by_side,
    "overlay": VideoPainter.overlay,
}
"""The ways to draw a frame, by name."""


def _narrowed(pixels: np.ndarray) -> np.ndarray:
    """A picture of at most 640 pixels of width; classes are not mixed."""
    step = math.ceil(pixels.shape[1] / LARGEST)
    return pixels[::step, ::step]


def _headings(names: tuple[str, ...], width: int) -> np.ndarray:
    strip = Image.new("RGB", (width * len(names), LINE), PAPER)
    draw = ImageDraw.Draw(strip)
    for place, name in enumerate(names):
        draw.text((place * width + 4, 2), name, INK, small_font())
    return np.array(strip)


def _heat(values: Tensor, end: float) -> np.ndarray:
    levels = (values[0] / end).clamp(0, 1).mul(255).round().to(torch.uint8)
    return color_table()[levels.numpy()]
