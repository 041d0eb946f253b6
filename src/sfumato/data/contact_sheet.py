"""One picture of several samples, each with its target drawn over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.contracts import Sample, Task
from sfumato.errors import DataError
from sfumato.storage import atomic_write

CELL = 256  # pixels: the longer side of an image in the picture
GAP, COLUMNS = 8, 4
OPACITY = 0.5  # of a target over its image


def save_contact_sheet(samples: Sequence[Sample], tasks: Mapping[str, Task], path: Path, image: str = "image") -> None:
    """Write a PNG with four samples in a row: the image, and below it the image with the target of each task over it.

    Pixels without a valid target are dark.

    Args:
        samples: At least one sample with the entry ``image``.
        tasks: What can be predicted, by the key of the target.
        path: The file.
        image: The entry that is shown. Default ``image``.

    Raises:
        DataError: If there is no sample with such an image.
    """
    columns = [_column(sample, tasks, image) for sample in samples if isinstance(sample.get(image), Tensor)]
    if not columns:
        raise DataError(f"no sample has an entry {image!r} to show")
    height = max(column.shape[0] for column in columns)
    width = max(column.shape[1] for column in columns)
    rows = []
    for start in range(0, len(columns), COLUMNS):
        row = np.full((height + GAP, COLUMNS * (width + GAP), 3), 255, np.uint8)
        for number, column in enumerate(columns[start : start + COLUMNS]):
            left = number * (width + GAP)
            row[: column.shape[0], left : left + column.shape[1]] = column
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        Image.fromarray(np.concatenate(rows)).save(part, "PNG")


def _column(sample: Sample, tasks: Mapping[str, Task], image: str) -> np.ndarray:
    """The image of a sample above its targets, uint8 (height, width, 3)."""
    value = sample[image]
    assert isinstance(value, Tensor)
    shown = (value.float() / 255 if value.dtype == torch.uint8 else value.float())[:3]
    shown = shown if len(shown) == 3 else shown[:1].expand(3, -1, -1)
    pictures = [shown]
    for task in tasks.values():
        target, valid = task.target_and_mask(sample)
        if valid.shape == shown.shape[1:]:
            color = task.color(target).permute(2, 0, 1).float() / 255
            pictures.append(((1 - OPACITY) * shown + OPACITY * color).where(valid, shown / 4))
    scale = CELL / max(shown.shape[1:])
    size = [max(1, round(scale * side)) for side in shown.shape[1:]]
    sized = [interpolate(picture[None], size, mode="bilinear", antialias=True)[0] for picture in pictures]
    gap = torch.ones(3, GAP, size[1])
    stacked = torch.cat([part for picture in sized for part in (picture, gap)][:-1], 1)
    return (stacked.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
