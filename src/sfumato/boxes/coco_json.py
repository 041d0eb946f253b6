"""Boxes as a document in the JSON format of COCO, with their uncertainty beside."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfumato.boxes.boxes import Boxes
from sfumato.sections import Json

DIGITS = 7


def coco_document(
    found: Boxes, name: str, size: tuple[int, int], classes: Sequence[str], bounds: tuple[Tensor, Tensor] | None = None
) -> dict[str, Json]:
    """The boxes of one image as COCO has them, each with its covariance.

    Beside ``bbox`` [x, y, width, height], ``score`` and ``category_id`` (from 1), each annotation has ``edges`` (left,
    top, right, bottom), their ``covariance`` (4 × 4), ``aleatoric`` and ``epistemic`` covariance, px², and the
    probability of each class ``probs``; with bounds also ``inner`` and ``outer``. Readers of COCO ignore these.

    Args:
        found: The boxes.
        name: Name of the image.
        size: Its height and width, px.
        classes: Names of the classes.
        bounds: Inner and outer edges, each (N, 4), px. Default: none.
    """
    annotations: list[Json] = []
    for n in range(len(found)):
        left, top, right, bottom = edges = _numbers(found.edges[n])
        each: dict[str, Json] = {
            "id": n + 1,
            "image_id": 1,
            "category_id": int(found.classes[n]) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "score": _numbers(found.scores[n : n + 1])[0],
            "edges": [*edges],
            "probs": [*_numbers(found.probs[n])],
        }
        for part in ("covariance", "aleatoric", "epistemic"):
            each[part] = [[*_numbers(row)] for row in getattr(found, part)[n]]
        if bounds is not None:
            each |= {"inner": [*_numbers(bounds[0][n])], "outer": [*_numbers(bounds[1][n])]}
        annotations.append(each)
    return {
        "images": [{"id": 1, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": number, "name": each} for number, each in enumerate(classes, 1)],
        "annotations": annotations,
    }


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
