"""COCO: annotations in one JSON file, with uncertainty in their ``attributes``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sfumato.acquisition.annotations import Annotation, Names, Picture, expecting
from sfumato.acquisition.areas import Area, from_runs, polygon, runs_of
from sfumato.errors import DataError, MissingDependencyError


def to_coco(pictures: Sequence[Picture], annotations: Sequence[Annotation], labels: Sequence[str]) -> str:
    """Annotations as JSON. Rectangles are polygons, other areas are uncompressed runs with ``iscrowd: 1``.

    Args:
        pictures: The images.
        annotations: The annotations.
        labels: The names of the classes.

    Source: Lin et al. (2014), "Microsoft COCO", and the format of its files. Readers ignore ``attributes``.
    """
    images = [{"id": number, "file_name": each.name, "height": each.height, "width": each.width}
              for number, each in enumerate(pictures, 1)]  # fmt: skip
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(labels, 1)]
    found = [_entry(number, each, pictures[each.picture], labels) for number, each in enumerate(annotations, 1)]
    return json.dumps({"images": images, "categories": categories, "annotations": found}, allow_nan=False)


def _entry(number: int, each: Annotation, picture: Picture, labels: Sequence[str]) -> dict[str, Any]:
    left, top, width, height = each.area.box
    right, bottom = left + width, top + height
    plain = each.area.is_rectangle
    shape: Any = [[left, top, right, top, right, bottom, left, bottom]] if plain else {
        "size": [picture.height, picture.width],
        "counts": runs_of(each.area.full(picture.height, picture.width).ravel(order="F")),
    }  # fmt: skip
    return {
        "id": number, "image_id": each.picture + 1, "category_id": labels.index(each.label) + 1, "segmentation": shape,
        "bbox": [left, top, width, height], "area": each.area.size, "iscrowd": int(not plain),
        "attributes": dict(each.attributes),
    }  # fmt: skip


def from_coco(content: Any, names: Names) -> list[Annotation]:
    """The annotations of a COCO file.

    Args:
        content: What the JSON holds.
        names: The images of the pool.

    Raises:
        DataError: If an entry is missing or cannot be used.
    """
    found: list[Annotation] = []
    with expecting("the images, categories and annotations of COCO"):
        places = {each["id"]: names[str(each["file_name"])] for each in content["images"]}
        labels = {each["id"]: str(each["name"]) for each in content["categories"]}
        for each in content["annotations"]:
            picture = places[each["image_id"]]
            mask = _mask(each["segmentation"], names.pictures[picture])
            if mask.any():
                found.append(Annotation(picture, labels[each["category_id"]], Area.of(mask)))
    return found


def _mask(shape: Any, picture: Picture) -> np.ndarray:
    height, width = picture.height, picture.width
    if isinstance(shape, dict):
        if list(shape["size"]) != [height, width]:
            raise DataError(
                f"a mask of {picture.name} has the size {shape['size']}, the image has [{height}, {width}]: annotate "
                "the image at its own size"
            )
        if isinstance(shape["counts"], str):
            return _compressed(shape)
        return from_runs([int(each) for each in shape["counts"]], height * width).reshape(width, height).T
    found = np.zeros((height, width), bool)
    for corners in shape:
        numbers = [float(each) for each in corners]
        found |= polygon(list(zip(numbers[::2], numbers[1::2], strict=True)), height, width)
    return found


def _compressed(shape: Any) -> np.ndarray:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise MissingDependencyError(
            "compressed masks need faster-coco-eval: pip install 'sfumato[detection]'"
        ) from error
    return mask.decode({"size": shape["size"], "counts": shape["counts"].encode()}).astype(bool)
