"""Which pixels of both views of a pair an answer depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.errors import ConfigError
from sfumato.geometry.matching import check_views

Answer = Callable[[Tensor, Tensor], Tensor]
"""Takes two views (B, 3, H, W) and returns a value for each pixel of the first (B, D, H, W), such as the disparity."""


def gradient_saliency(answer: Answer, left: Tensor, right: Tensor, point: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How much the answer at a point changes with each pixel of both views.

    Args:
        answer: A function with a gradient, as ``lambda *views: likelihood.moments(network(*views)).mean``.
        left: Left view (1, 3, H, W) in [0, 1].
        right: Right view of the same size.
        point: Row and column of the point in the left view.

    Returns:
        The sum over colors of ``|∂ answer / ∂ color|`` for both views, each (H, W), in units of the answer.

    Raises:
        ConfigError: If the point lies outside of the view, there is more than one pair, or the answer has no gradient.
        DataError: If the views differ in size.

    Source: Simonyan et al. (2014), "Deep inside convolutional networks".
    """
    row, column = _checked(left, right, point)
    views = [view.detach().clone().requires_grad_() for view in (left, right)]
    with torch.enable_grad():
        value = answer(*views)[0, :, row, column].sum()
        if not value.requires_grad:
            raise ConfigError("the answer has no gradient: call the network itself, not a prediction without gradients")
        slopes = torch.autograd.grad(value, views, allow_unused=True)
    first, second = (torch.zeros_like(left) if slope is None else slope for slope in slopes)
    return first[0].abs().sum(0), second[0].abs().sum(0)


@torch.no_grad()
def occlusion_saliency(
    answer: Answer,
    left: Tensor,
    right: Tensor,
    point: tuple[int, int],
    side: int = 15,
    step: int = 8,
    batch: int = 8,
) -> tuple[Tensor, Tensor]:
    """How much the answer at a point changes where a gray square hides a part of both views.

    The square moves over the left view. In the right view it moves along, to the left by the disparity at the point, as
    an object at the depth of the point would. So it never hides the point in one view only.

    Args:
        answer: A function that gives the disparity first, px.
        left: Left view (1, 3, H, W) in [0, 1].
        right: Right view of the same size.
        point: Row and column of the point in the left view.
        side: Side of the square, odd, px. Default 15.
        step: Distance of its places, px. Default 8.
        batch: Number of pairs that are answered at a time. Default 8.

    Returns:
        The absolute change of the answer for a square around each pixel of the left view, and around each of the right
        view, each (H, W), in units of the answer. Between the places of the square it is interpolated.

    Raises:
        ConfigError: If the point lies outside of the view, there is more than one pair, or a number is too small.
        DataError: If the views differ in size.

    Source: Zeiler and Fergus (2014), "Visualizing and understanding convolutional networks", for the gray square.
    """
    row, column = _checked(left, right, point)
    if min(side, step, batch) < 1 or side % 2 == 0:
        raise ConfigError(f"side {side}, step {step}, batch {batch}: expected an odd side, and at least 1")
    height, width = left.shape[-2:]
    whole = answer(left, right)[0, :, row, column]
    shift = round(float(whole[0]))
    rows, columns = (list(range(step // 2, size, step)) or [size // 2] for size in (height, width))
    places = [(y, x) for y in rows for x in columns]
    changes = []
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        views = [view.expand(len(part), -1, -1, -1).clone() for view in (left, right)]
        for number, (y, x) in enumerate(part):
            for view, middle in zip(views, (x, x - shift)):
                _hide(view[number], y, middle, side)
        found = answer(*views)[:, :, row, column]
        changes.append((found - whole).norm(dim=1))
    coarse = torch.cat(changes).reshape(1, 1, len(rows), len(columns))
    map_left = interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0, 0]
    columns_of = (torch.arange(width, device=left.device) + shift).clamp(0, width - 1)
    return map_left, map_left[:, columns_of]


def _hide(view: Tensor, row: int, column: int, side: int) -> None:
    """Make a square gray, in place: the mean color of the view."""
    half = side // 2
    top, left = max(row - half, 0), max(column - half, 0)
    right = column + half + 1
    if right > 0:
        view[:, top : row + half + 1, left:right] = view.mean((1, 2), keepdim=True)


def _checked(left: Tensor, right: Tensor, point: tuple[int, int]) -> tuple[int, int]:
    check_views(left, right)
    row, column = point
    if left.ndim != 4 or len(left) != 1 or not (0 <= row < left.shape[-2] and 0 <= column < left.shape[-1]):
        raise ConfigError(
            f"views have shape {tuple(left.shape)} and the point is {point}: expected one pair (1, 3, H, W) and a row "
            "and a column inside of it"
        )
    return row, column
