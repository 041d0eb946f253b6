"""Pictures of predicted vectors, such as optical flow: arrows with ellipses, and what the colors of vectors mean."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from sfumato.contracts import Task
from sfumato.errors import ConfigError
from sfumato.predictions import ValuePrediction

WIDTH = 960  # pixels that a picture has at least, so that ellipses of less than a pixel of the image can be seen
POINTS = 36  # corners of the polygon that an ellipse is drawn as
HALO, ARROW, RING = (20, 24, 30), (255, 255, 255), (255, 190, 40)


def draw_vectors(prediction: ValuePrediction, level: float = 0.9, step: int = 0, index: int = 0) -> np.ndarray:
    """Vectors at the points of a grid as lines, each with the ellipse of its predicted covariance around its end.

    With the probability ``level`` the true end lies inside the ellipse, if errors have a normal distribution with the
    predicted covariance. Below the lines is the image of the prediction, or gray if it has none.

    Args:
        prediction: A map of vectors of two values, in pixels.
        level: Probability of an ellipse, in (0, 1). Default 0.9.
        step: Distance of the points, pixels of the image. 0 for a twentieth of the longer side. Default 0.
        index: Which image of the batch. Default 0.

    Returns:
        Colors (H, W, 3) uint8, enlarged by a whole number so that the width is at least 960 pixels.

    Raises:
        ConfigError: If the prediction is no map of vectors of two values, or an argument is out of its range.
    """
    if not prediction.is_map or prediction.mean.shape[1] != 2:
        raise ConfigError(f"a {prediction} cannot be drawn as vectors: expected a map of two values, such as flow")
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}, expected the probability of an ellipse in (0, 1), such as 0.9")
    if step < 0:
        raise ConfigError(f"step is {step}, expected the distance of the points in pixels, or 0")
    height, width = prediction.event
    times, step = math.ceil(WIDTH / width), step or max(1, max(height, width) // 20)
    sheet = Image.fromarray(_backdrop(prediction, index)).resize((width * times, height * times), Image.Resampling.BOX)
    draw = ImageDraw.Draw(sheet)
    rows, columns = (range(size % step // 2 + step // 2, size, step) for size in (height, width))
    mean = prediction.mean[index].detach().double().cpu().numpy()
    covariance = prediction.covariance[index].detach().double().cpu().numpy()
    reach = math.sqrt(-2 * math.log1p(-level))
    for y in rows:
        for x in columns:
            start = np.array([x, y])
            end = start + mean[:, y, x]
            ring = end + reach * _ring(covariance[:, :, y, x])
            places = [[tuple(times * (point + 0.5)) for point in line] for line in ((start, end), (*ring, ring[0]))]
            for wide, colors in ((4, (HALO, HALO)), (2, (ARROW, RING))):
                for place, color in zip(places, colors, strict=True):
                    draw.line(place, color, wide)
    return np.asarray(sheet)


def color_wheel(task: Task, side: int = 97) -> np.ndarray:
    """What the colors of a task of vectors mean, as a disk (side, side, 3) uint8 on white.

    ``side`` is its width, pixels, at least 2. Its center is the zero vector; the vector from the center to the edge is
    as long as the longest that pictures show.
    """
    place = (torch.arange(side) - (side - 1) / 2) / ((side - 1) / 2)
    y, x = torch.meshgrid(place, place, indexing="ij")
    colors = task.color(torch.stack([x, y]) * task.display_range[1])
    return colors.where((torch.hypot(x, y) <= 1)[..., None], 255).numpy().astype(np.uint8)


def _backdrop(prediction: ValuePrediction, index: int) -> np.ndarray:
    """The image (H, W, 3) uint8, a little darker, so that lines can be seen on it."""
    height, width = prediction.event
    if prediction.image is None:
        return np.full((height, width, 3), 96, np.uint8)
    pixels = prediction.image[index].detach().float().cpu().clamp(0, 1).movedim(0, -1)
    gray = pixels.mean(-1, keepdim=True).expand(-1, -1, 3)
    return (255 * (0.35 * pixels + 0.35 * gray)).round().numpy().astype(np.uint8)


def _ring(covariance: np.ndarray) -> np.ndarray:
    """Points (36, 2) at the Mahalanobis distance 1 from 0."""
    values, axes = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * np.sqrt(values.clip(0)) @ axes.T
