"""Boxes over an image as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from sfumato.boxes import Boxes
from sfumato.runs import BoxFinder
from sfumato.tasks import BoxObjects

SHOWN = 0.3  # least score of a box in a picture
FACTOR = 1.645  # standard deviations of bounds in a picture, if none were fitted: 90 % of each edge
Rgb = tuple[int, int, int]


def draw_boxes(found: Boxes, image: Tensor, finder: BoxFinder, path: Path) -> None:
    """Draw boxes with a score of at least 0.3, each with its inner and outer bound, class and score.

    Args:
        found: The boxes.
        image: The image (3, H, W) in [0, 1].
        finder: What found them: names of classes and bounds.
        path: The PNG file.
    """
    pixels = (image.float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    scale = max(1, 640 // max(pixels.shape[:2]))
    picture = Pillow.fromarray(np.ascontiguousarray(pixels[..., :3])).resize(
        (pixels.shape[1] * scale, pixels.shape[0] * scale)
    )
    draw = ImageDraw.Draw(picture)
    kept = found.select(found.scores >= SHOWN)
    inner, outer = kept.bounds(FACTOR) if finder.bounds is None else finder.bounds(kept)
    colors = class_colors(finder.classes)
    for n in range(len(kept)):
        color = colors[int(kept.classes[n])]
        faint: Rgb = (color[0] // 2 + 60, color[1] // 2 + 60, color[2] // 2 + 60)
        for edges, width, tone in ((inner[n], 1, faint), (outer[n], 1, faint), (kept.edges[n], 2, color)):
            draw.rectangle([scale * edge for edge in edges.tolist()], outline=tone, width=width)
        left, top = (scale * edge for edge in kept.edges[n, :2].tolist())
        text = f"{finder.classes[int(kept.classes[n])]} {kept.scores[n]:.2f}"
        draw.text((left + 2, top + 1), text, fill=color)
    picture.save(path, "PNG")


def class_colors(classes: tuple[str, ...]) -> list[Rgb]:
    """The color of each class of objects."""
    return list(BoxObjects.of(classes).palette[1:])
