"""What `sfumato predict` writes of boxes: a JSON file, and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.boxes import coco_document
from sfumato.predictions import TaskPrediction
from sfumato.report.box_picture import draw_boxes
from sfumato.runs import BoxFinder
from sfumato.serving.map_file import MapFile
from sfumato.storage import fields
from sfumato.targets import Image


def write_boxes(
    finder: BoxFinder,
    stored: Mapping[str, MapFile],
    firsts: Mapping[str, TaskPrediction],
    image: Tensor,
    name: str,
    opened: Callable[[str], Path],
) -> None:
    """Find boxes in the maps that were written, and write them.

    Args:
        finder: Finds the boxes.
        stored: The maps of each task.
        firsts: A prediction of each task, of some rows.
        image: The image (1, C, H, W).
        name: Name of the sample.
        opened: Gives the path of a file from the end of its name.
    """
    found = finder({key: _whole(first, stored[key]) for key, first in firsts.items()})[0]
    bounds = None if finder.bounds is None else finder.bounds(found)
    size = int(image.shape[-2]), int(image.shape[-1])
    document = coco_document(found, name, size, finder.classes, bounds)
    opened("_boxes.json").write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    draw_boxes(found, Image().to_float(image[0]), finder, opened("_boxes.png"))


def _whole(first: TaskPrediction, file: MapFile) -> TaskPrediction:
    """The prediction of all rows, read from its file."""
    names = [name for name, value in fields(first).items() if isinstance(value, Tensor) and value.ndim > 2]
    found = {name: torch.from_numpy(np.array(file.array(name))).float() for name in names if name != "image"}
    return replace(first, image=None, **found)
