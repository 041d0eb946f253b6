"""From the boxes of an image to the maps that a network learns."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.errors import DataError

CENTRAL = 0.5  # size of the central region of a box, as a share of its width and height


def box_entries(boxes: Tensor, size: tuple[int, int], where: str = "") -> dict[str, Tensor]:
    """The entries ``boxes``, ``objects``, ``distances`` and their masks.

    The corner of the image is at (0, 0), so the center of its first pixel is at (0.5, 0.5). A box that ends outside of
    the image is cut there. ``objects`` is 1 + the class of a box in its central region, the ellipse with half its
    width and height, and 0 elsewhere. It is not valid in a box that is to be ignored.

    Args:
        boxes: (N, 6): left, top, right, bottom, px; class, from 0; 1 for a box that is to be ignored, as a crowd, else
            0.
        size: Height and width of the image, px.
        where: What a message begins with. Default: nothing.

    Returns:
        ``boxes`` (N, 6) float32; ``objects`` (H, W) int64; ``distances`` (4, H, W) float32, px, from the center of a
        pixel to the left, top, right and bottom edge; masks.

    Raises:
        DataError: If a box is not finite, has no area, or lies outside of the image.

    >>> found = box_entries(torch.tensor([[0.0, 0.0, 3.0, 1.0, 0.0, 0.0]]), (1, 4))
    >>> found["objects"].tolist(), found["distances"][:, 0, 1].tolist()
    ([[0, 1, 0, 0]], [1.5, 0.5, 1.5, 0.5])
    """
    height, width = size
    boxes = _checked(boxes.reshape(-1, 6).double(), size, where)
    objects = torch.zeros(size, dtype=torch.int64)
    valid = torch.ones(size, dtype=torch.bool)
    distances = torch.zeros(4, *size)
    y, x = torch.arange(height).double()[:, None] + 0.5, torch.arange(width).double() + 0.5
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = area.argsort(descending=True)  # smaller boxes last, on top
    for left, top, right, bottom, _, _ in boxes[order[boxes[order, 5] > 0]].tolist():
        valid &= (x < left) | (x > right) | (y < top) | (y > bottom)
    for left, top, right, bottom, kind, _ in boxes[order[boxes[order, 5] == 0]].tolist():
        center = (left + right) / 2, (top + bottom) / 2
        across, down = CENTRAL / 2 * (right - left), CENTRAL / 2 * (bottom - top)
        inside = ((x - center[0]) / across).square() + ((y - center[1]) / down).square() <= 1
        inside[min(int(center[1]), height - 1), min(int(center[0]), width - 1)] = True
        objects[inside] = 1 + int(kind)
        valid |= inside
        rows, columns = inside.nonzero(as_tuple=True)
        at_x, at_y = x[columns], y[rows, 0]
        edges = torch.stack([at_x - left, at_y - top, right - at_x, bottom - at_y])
        distances[:, rows, columns] = edges.float()
    return {
        "boxes": boxes.float(),
        "objects": objects,
        "objects_valid": valid,
        "distances": distances,
        "distances_valid": (objects > 0) & valid,
    }


def _checked(boxes: Tensor, size: tuple[int, int], where: str) -> Tensor:
    """The boxes, cut at the border of the image."""
    height, width = size
    edges = boxes[:, :4]
    low, high = edges[:, :2], edges[:, 2:]
    limit = torch.tensor([width, height], dtype=torch.float64)
    reasons = {
        "is not finite": ~boxes.isfinite().all(1),
        "has no area": ~(high > low).all(1),
        f"lies outside of the image of {height} × {width} pixels": ((high <= 0) | (low >= limit)).any(1),
    }
    for reason, wrong in reasons.items():
        if bool(wrong.any()):
            number = int(wrong.int().argmax())
            shown = ", ".join(f"{edge:g}" for edge in edges[number].tolist())
            raise DataError(f"{where}box {number + 1} ({shown}) {reason}: correct it, or take it away")
    cut = torch.cat([low.clamp_min(0), torch.minimum(high, limit)], 1)
    return torch.cat([cut, boxes[:, 4:]], 1)
