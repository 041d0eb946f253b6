"""Notice stereo pairs whose views are exchanged, by where their points match."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato.errors import DataError
from sfumato.targets import Image

WIDTH = 128  # px; larger pictures are reduced to it, because the sign of a disparity needs no detail
SWAPPED = 0.8  # the share of negative disparities from which a pair counts as exchanged
LEAST = 50  # matches that are needed to judge a pair
_WINDOW = 9  # px
_CLEAR = 0.6  # a match is clear if its cost is below this share of the best cost elsewhere
_TEXTURE = 0.02  # smallest standard deviation in a window, of gray in [0, 1]


def negative_share(left: Tensor, right: Tensor) -> float:
    """The share of points whose disparity is negative, among those that match clearly and not at the same place.

    Windows of gray, reduced to a width of 128 px, are compared by their absolute differences from their mean, up to a
    quarter of the width to both sides. A match is clear if all others, but for its neighbors, cost far more.

    Args:
        left: The left view (3, H, W), uint8 or float32 in [0, 1].
        right: The right view, of the same size.

    Returns:
        The share in [0, 1]; NaN if too few points match clearly to say so.
    """
    views = torch.stack([_reduced(left), _reduced(right)])[:, None]
    reach = views.shape[-1] // 4
    if reach < 4 or min(views.shape[-2:]) < _WINDOW:
        return float("nan")
    mean = avg_pool2d(views, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    first, second = views - mean
    texture = avg_pool2d(first[None] ** 2, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)[0, 0].sqrt()
    width = first.shape[-1]
    inner = slice(reach, width - reach)  # where both sides can be searched equally far
    shifts = range(-reach, reach + 1)
    costs = torch.stack([(first[..., inner] - second[..., reach - s : width - reach - s]).abs() for s in shifts])
    costs = avg_pool2d(costs, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)[:, 0]
    best, place = costs.min(0)
    near = (torch.arange(len(costs)).view(-1, 1, 1) - place).abs() <= 2
    clear = (best < _CLEAR * costs.masked_fill(near, torch.inf).amin(0)) & (texture[:, inner] > _TEXTURE)
    disparity = place[clear] - reach
    behind, before = int((disparity < 0).sum()), int((disparity > 0).sum())
    return behind / (behind + before) if behind + before >= LEAST else float("nan")


def check_views(sample: Mapping[str, Tensor | str]) -> None:
    """Check that the views ``image`` and ``right`` of a sample are not exchanged. Samples without both pass.

    Raises:
        DataError: If at least 80 % of the points that match clearly lie further to the right in the right view.
    """
    left, right = sample.get("image"), sample.get("right")
    if not (isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape):
        return
    share, name = negative_share(left, right), sample.get("name", "")
    if share >= SWAPPED:
        raise DataError(
            f"the views of sample {name!r} seem to be exchanged: {share:.0%} of the points that match clearly lie "
            "further to the right in the right view, expected further to the left. Exchange the two views"
        )


def _reduced(image: Tensor) -> Tensor:
    """Gray (H, W) in [0, 1] with a width of at most 128 px."""
    height, width = image.shape[-2:]
    if width > WIDTH:
        image = Image().resize(image, (height, width), (max(1, round(height * WIDTH / width)), WIDTH))
    return Image().to_float(image).mean(0)
