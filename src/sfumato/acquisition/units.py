"""What is labeled as a whole: an image, a square patch, a superpixel or a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ConfigError, MissingDependencyError, similar

UNITS = ("image", "patch", "superpixel", "pixel")
MOST_PIXELS = 1024  # of one image that are candidates, and of one that are labeled


def check_unit(unit: str, side: int) -> None:
    """Check the choice of a unit.

    Raises:
        ConfigError: If there is no such unit, or its side is below 2.
    """
    if unit not in UNITS:
        raise ConfigError(f"unit is {unit!r}{similar(unit, UNITS)}, expected one of {', '.join(UNITS)}")
    if side < 2:
        raise ConfigError(f"side is {side}, expected at least 2 pixels")


def grid(height: int, width: int, side: int) -> Tensor:
    """Numbers (H, W) of square patches, row by row. Those at the right and lower edge may be smaller.

    >>> grid(2, 5, 2).tolist()
    [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2]]
    """
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    return rows[:, None] * -(-width // side) + columns


def superpixels(image: Tensor, side: int) -> Tensor:
    """Numbers (H, W) of the superpixels of an image: regions of similar color with about ``side²`` pixels.

    Args:
        image: (3, H, W), uint8 or float in [0, 1].
        side: About their height and width, pixels.

    Raises:
        MissingDependencyError: If scikit-image is not installed.

    Source: Achanta et al. (2012), "SLIC superpixels compared to state-of-the-art superpixel methods".
    """
    pixels = image.movedim(0, -1).cpu().numpy()
    count = max(1, round(pixels.shape[0] * pixels.shape[1] / side**2))
    found = _segmentation().slic(pixels, n_segments=count, compactness=10, start_label=0, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(found)).long()


def unit_numbers(
    unit: str, image: Tensor, side: int, asked: Tensor, generator: torch.Generator, most: int = MOST_PIXELS
) -> Tensor:
    """The number (H, W) of the unit that each pixel belongs to; −1 for pixels that are no candidates.

    Of single pixels a part of each image is drawn at random: then memory stays small, and neighbors are rarely chosen
    together. The number of a pixel is its place in the image, row by row.

    Args:
        unit: One of :data:`UNITS`.
        image: (3, H, W), uint8 or float in [0, 1].
        side: Side of a patch, or about that of a superpixel, pixels.
        asked: Pixels (H, W) whose label was asked for before, bool.
        generator: For the pixels that are drawn.
        most: For pixels, how many are drawn of those that were asked for and of the others. Default 1024.
    """
    height, width = image.shape[-2:]
    if unit == "image":
        return torch.zeros(height, width, dtype=torch.int64)
    if unit == "patch":
        return grid(height, width, side)
    if unit == "superpixel":
        return superpixels(image, side)
    keys = torch.rand(height * width, generator=generator)
    numbers = torch.full((height * width,), -1)
    for mask in (asked.flatten(), ~asked.flatten()):
        places = mask.nonzero()[:, 0]
        chosen = places[keys[places].topk(min(most, len(places))).indices]
        numbers[chosen] = chosen
    return numbers.view(height, width)


def _segmentation() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingDependencyError("superpixels need scikit-image: pip install 'sfumato[active]'") from error
    return segmentation
