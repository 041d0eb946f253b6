"""From the disparity of a stereo pair to depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError


class HasInterval(Protocol):
    """A prediction of values."""

    @property
    def mean(self) -> Tensor:
        """The mean (B, D, *event)."""
        ...

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of the central interval, each (B, D, *event)."""
        ...


@dataclass(frozen=True)
class DepthInterval:
    """Depths along the optical axis, each (B, 1, H, W), in the unit of the baseline.

    Args:
        near: The near end of the interval.
        depth: The depth of the predicted disparity.
        far: The far end of the interval. It is farther from ``depth`` than the near end is.
    """

    near: Tensor
    depth: Tensor
    far: Tensor


def stereo_baseline(world_from_camera: Tensor, world_from_right: Tensor) -> Tensor:
    """The distance (B,) of the cameras of a rectified pair, from their poses (B, 4, 4), in the unit of the poses.

    Raises:
        DataError: If the right camera is not to the right of the left one, along its x axis and with the same axes.
    """
    turn, across = world_from_camera[:, :3, :3], world_from_right[:, :3, 3] - world_from_camera[:, :3, 3]
    offset = (turn.mT @ across[:, :, None])[:, :, 0]
    found = offset[:, 0]
    straight = offset[:, 1:].abs().amax(1) <= 1e-3 * found.abs()
    parallel = (world_from_right[:, :3, :3] - turn).abs().amax((1, 2)) <= 1e-3
    if not bool((straight & parallel & (found > 0)).all()):
        raise DataError(
            f"the right camera is at {offset[0].tolist()} as the left one sees it (x right, y down, z forward): "
            "expected it to the right, with parallel axes. Swap or rectify the views"
        )
    return found


def disparity_to_depth(
    prediction: HasInterval,
    intrinsics: Tensor | None,
    baseline: Tensor | float | None,
    level: float = 0.9,
    farthest: float = 1000.0,
) -> DepthInterval:
    """Depth ``Z = f B / d`` and its interval, from a prediction of disparity.

    The ends of the interval of disparity become those of depth, so the interval is not symmetric: an error of one pixel
    moves a far point away by more than it would bring it near. ``σ_Z = Z² σ_d / f B`` holds for small errors only.

    Args:
        prediction: A prediction of disparity (B, 1, H, W), px.
        intrinsics: Camera matrices (B, 3, 3), px, at the size of the prediction.
        baseline: Distance of the cameras, > 0, one number or (B,). Depths have its unit.
        level: Coverage of the interval in (0, 1). Default 0.9.
        farthest: Largest depth, > 0. All beyond, also a disparity of 0 or less, counts as this far. Default 1000.

    Raises:
        ConfigError: If ``level`` or ``farthest`` is out of its range.
        DataError: Without a focal length and a baseline above 0.

    >>> from sfumato.predictions import ValuePrediction
    >>> one = torch.ones(1, 1, 1, 1)
    >>> found = disparity_to_depth(ValuePrediction(8 * one, 4 * one, 0 * one), 80 * torch.eye(3)[None], 0.5)
    >>> [round(x.item(), 2) for x in (found.near, found.depth, found.far)]  # 40 / (8 + 3.29), 40 / 8, 40 / (8 − 3.29)
    [3.54, 5.0, 8.49]
    """
    if not farthest > 0:
        raise ConfigError(f"farthest is {farthest}, expected a depth above 0")
    if intrinsics is None or baseline is None:
        missing = "focal length" if intrinsics is None else "baseline"
        raise DataError(f"depth needs a focal length and a baseline, and there is no {missing}: give the calibration")
    wide = torch.as_tensor(baseline, dtype=prediction.mean.dtype, device=prediction.mean.device).reshape(-1)
    focal = intrinsics.to(prediction.mean)[:, 0, 0]
    scale = focal * wide
    if not bool((scale.isfinite() & (focal > 0) & (wide > 0)).all()):
        raise DataError(
            f"depth needs a focal length and a baseline above 0, got {focal.tolist()} px and {wide.tolist()}: give the "
            "calibration of the cameras"
        )
    low, high = prediction.interval(level)
    scale = scale.view(-1, 1, 1, 1)
    near, depth, far = ((scale / d.clamp_min(1e-9)).clamp_max(farthest) for d in (high, prediction.mean, low))
    return DepthInterval(near, depth, far)
