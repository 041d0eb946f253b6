"""How well pixels of the left view of a stereo pair match the right view at each disparity, and how sure that is.

A volume (B, planes, H, W) holds the cost ≥ 0 of the disparities 0, 1, 2, … px of each pixel of the left view: the
number of differences of :func:`census_costs`, or ``−log_softmax`` of the scores of a network. Nothing is learned here.
All scores of uncertainty are larger where a match is less sure.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import ConfigError, DataError

GRAY = (0.299, 0.587, 0.114)


def shifted(right: Tensor, planes: int) -> list[Tensor]:
    """Maps (B, C, H, W), moved to the right by 0 to ``planes − 1`` pixels, 0 where nothing is known."""
    width = right.shape[-1]
    wide = F.pad(right, (planes - 1, 0))
    return [wide[..., planes - 1 - plane : planes - 1 - plane + width] for plane in range(planes)]


def group_correlation(left: Tensor, right: Tensor, planes: int, groups: int) -> Tensor:
    """The mean product of the features of both views within each group of channels (B, groups, planes, H, W).

    Args:
        left: Features (B, C, H, W), C a multiple of ``groups``.
        right: Features of the same shape.
        planes: Number of disparities, from 0 in steps of one pixel of these maps.
        groups: Number of groups.

    Source: Guo et al. (2019), "Group-wise correlation stereo network".

    >>> one = torch.ones(1, 2, 1, 3)
    >>> group_correlation(one, one, planes=2, groups=1)[0, 0, 1]  # at disparity 1 nothing is known of the first column
    tensor([[0., 1., 1.]])
    """
    return torch.stack([(left * moved).unflatten(1, (groups, -1)).mean(2) for moved in shifted(right, planes)], 2)


def concatenation(left: Tensor, right: Tensor, planes: int) -> Tensor:
    """The features of both views side by side (B, 2 C, planes, H, W), those of the right view moved by each disparity.

    Source: Kendall et al. (2017), "End-to-end learning of geometry and context for deep stereo regression".
    """
    return torch.stack([torch.cat([left, moved], 1) for moved in shifted(right, planes)], 2)


def census_costs(left: Tensor, right: Tensor, planes: int, window: tuple[int, int] = (7, 9), box: int = 9) -> Tensor:
    """The number of pixels of a window that are brighter than its center in one view and not in the other.

    Args:
        left: Left view (B, 3, H, W) in [0, 1].
        right: Right view of the same size.
        planes: Number of disparities ≥ 3, from 0.
        window: Height and width of the window, odd, px. Default (7, 9).
        box: Side of the square over which costs are averaged, odd, px. Default 9.

    Returns:
        Costs (B, planes, H, W), 0 to the number of pixels of the window. Where the match lies beyond the border of the
        right view, it is the cost of the nearest pixel in the row whose match does not.

    Raises:
        ConfigError: If a number is out of its range.
        DataError: If the views differ in size.

    Source: Zabih and Woodfill (1994), "Non-parametric local transforms for computing visual correspondence".
    """
    if planes < 3 or min(*window, box) < 1 or not all(side % 2 for side in (*window, box)):
        raise ConfigError(f"planes {planes}, window {window}, box {box}: expected at least 3 planes and odd sides")
    check_views(left, right)
    signs, others = (_brighter(view, window) for view in (left, right))
    most = float(signs.shape[1])
    costs = []
    for plane, moved in enumerate(shifted(others, planes)):
        cost = 0.5 * (most - (signs * moved).sum(1, keepdim=True))
        cost[..., :plane] = cost[..., plane : plane + 1]
        costs.append(F.avg_pool2d(cost, box, 1, box // 2, count_include_pad=False))
    return torch.cat(costs, 1)


def _brighter(view: Tensor, window: tuple[int, int]) -> Tensor:
    """1 or −1 (B, N, H, W) for each of the N other pixels of the window: whether it is brighter than the center."""
    gray = (view * view.new_tensor(GRAY).view(3, 1, 1)).sum(1, keepdim=True)
    height, width = gray.shape[-2:]
    down, across = (side // 2 for side in window)
    wide = F.pad(gray, (across, across, down, down), mode="replicate")
    places = [(y, x) for y in range(window[0]) for x in range(window[1]) if (y, x) != (down, across)]
    return torch.cat([1 - 2 * (wide[..., y : y + height, x : x + width] <= gray).float() for y, x in places], 1)


def cheapest(costs: Tensor) -> Tensor:
    """The disparity (B, 1, H, W) with the least cost, refined by the parabola through it and its neighbors, px."""
    place = costs.argmin(1, keepdim=True)
    inner = place.clamp(1, costs.shape[1] - 2)
    before, here, after = (costs.gather(1, inner + step) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = (0.5 * (before - after) / bend.clamp_min(1e-6)).clamp(-0.5, 0.5)
    return place + shift.where((place == inner) & (bend > 1e-6), 0.0)


def right_costs(costs: Tensor) -> Tensor:
    """The costs of the right view (B, planes, H, W), read from those of the left one: ``C_right(x, d) = C(x + d, d)``.

    Beyond the right border of the left view they are the largest cost of the volume.
    """
    width, most = costs.shape[-1], float(costs.max())
    planes = [F.pad(costs[:, d : d + 1, :, d:], (0, min(d, width)), value=most) for d in range(costs.shape[1])]
    return torch.cat([plane[..., :width] for plane in planes], 1)


def peak_ratio(costs: Tensor) -> Tensor:
    """The least cost divided by the least one that is not beside it (B, H, W), in [0, 1].

    Source: Hu and Mordohai (2012), "A quantitative evaluation of confidence measures for stereo vision" (PKRN).
    """
    first, second = _two_least(costs)
    return (first + 1e-6) / (second + 1e-6)  # 1 where both are 0


def narrow_margin(costs: Tensor) -> Tensor:
    """The least cost minus the least one that is not beside it (B, H, W), ≤ 0.

    Source: Hu and Mordohai (2012), the margin MMN with the opposite sign.
    """
    first, second = _two_least(costs)
    return first - second


def mass_outside(costs: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability of all disparities but the cheapest and its neighbors (B, H, W), in [0, 1].

    Args:
        costs: Costs (B, planes, H, W).
        temperature: The distribution is the softmax of ``−cost / temperature``, > 0. Default 1.

    Raises:
        ConfigError: If the temperature is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}, expected above 0")
    law = (-costs.float() / temperature).softmax(1)
    return (law * _apart(costs)).sum(1)


def view_difference(left: Tensor, right: Tensor) -> Tensor:
    """How much the disparities of both views differ at a match (B, H, W), px ≥ 0: the left–right check.

    Args:
        left: Disparity of the left view (B, 1, H, W), px.
        right: Disparity of the right view (B, 1, H, W), px.

    Pitfall: A match that lies beyond the right view is compared with the pixel at its border.
    """
    across = torch.arange(left.shape[-1], device=left.device, dtype=left.dtype)
    place = (across - left).round().clamp(0, left.shape[-1] - 1).long()
    return (left - right.gather(3, place))[:, 0].abs()


def _apart(costs: Tensor) -> Tensor:
    """Which planes are neither the cheapest one nor beside it (B, planes, H, W)."""
    places = torch.arange(costs.shape[1], device=costs.device).view(-1, 1, 1)
    return (places - costs.argmin(1, keepdim=True)).abs() > 1


def _two_least(costs: Tensor) -> tuple[Tensor, Tensor]:
    return costs.amin(1), costs.where(_apart(costs), torch.inf).amin(1)


def check_views(left: Tensor, right: Tensor) -> None:
    """Check that both views of a stereo pair have one size.

    Raises:
        DataError: If they differ.
    """
    if left.shape != right.shape:
        raise DataError(
            f"the left view has shape {tuple(left.shape)} and the right view {tuple(right.shape)}: the views of a "
            "stereo pair have one size"
        )
