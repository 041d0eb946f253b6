"""The pose of the camera that took an image, in a known place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import check_poses
from sfumato.geometry.pose import angles, chordal_mean, quaternions
from sfumato.likelihoods import PoseLikelihood
from sfumato.predictions import ValuePrediction
from sfumato.targets import EntryKind, ImageValue
from sfumato.tasks.value import ValueTask, direction_colors

if TYPE_CHECKING:
    from sfumato.metrics import PoseScores

UNIT = "m, rad"
LARGEST = 10_000.0  # meters between the cameras of one place


@dataclass(frozen=True)
class CameraPose(ValueTask):
    """Position and rotation of a camera in the world, one for each image: 6 numbers, see :func:`pose_vectors`.

    A data set says with :meth:`of` where its training cameras are. The network predicts poses relative to their middle.

    Args:
        center: Mean position of the training cameras, meters. Default the origin.
        rotation: Mean of their rotations as a quaternion x, y, z, w. Default none.
        extent: Standard deviation of their positions, meters, > 0. Default 1.
        spread: Standard deviation of their rotations, radians, > 0. Default 1.

    Raises:
        ConfigError: If a number is not finite, or ``extent`` or ``spread`` is not above 0.

    Source: Kendall, Grimes and Cipolla (2015), "PoseNet".
    """

    center: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), compare=False)
    rotation: tuple[float, float, float, float] = field(default=(0.0, 0.0, 0.0, 1.0), compare=False)
    extent: float = field(default=1.0, compare=False)
    spread: float = field(default=1.0, compare=False)
    unit: str = UNIT
    key: ClassVar[str] = "pose"
    target: ClassVar[EntryKind] = ImageValue(UNIT, dims=6, invariant=False)
    dims: ClassVar[int] = 6
    default_likelihood: ClassVar[str] = "gaussian-full"
    default_network: ClassVar[str] = "pose-net"

    def __post_init__(self) -> None:
        for name in ("center", "rotation"):  # lists, as a plan stores them
            object.__setattr__(self, name, tuple(float(number) for number in getattr(self, name)))
        numbers = (*self.center, *self.rotation, self.extent, self.spread)
        whole = len(self.center) == 3 and len(self.rotation) == 4 and all(map(math.isfinite, numbers))
        if not whole or not any(self.rotation) or min(self.extent, self.spread) <= 0:
            raise ConfigError(f"{self}: expected finite numbers, a rotation that is not 0, extent and spread above 0")

    @classmethod
    def of(cls, poses: Tensor, place: str = "the poses", largest: float = LARGEST) -> Self:
        """The task for training cameras.

        Args:
            poses: Their poses (N, 4, 4), world from camera, meters.
            place: What a message calls them. Default ``the poses``.
            largest: Meters that they can be apart. Default 10,000.

        Raises:
            DataError: If a pose is no rotation and translation, axes are left-handed, or positions are further apart
                than ``largest``, as positions in millimeters are.
            MissingDependencyError: Without roma.
        """
        poses = check_poses(poses, place)
        positions, turns = poses[:, :3, 3], poses[:, :3, :3]
        width = (positions.amax(0) - positions.amin(0)).max().item()
        if width > largest:
            raise DataError(f"{place} are {width:.3g} m apart: are they in millimeters? Divide them by 1000")
        mean = chordal_mean(turns.mean(0))
        extent = (positions - positions.mean(0)).square().sum(1).mean().sqrt().item() / math.sqrt(3)
        spread = angles(turns @ mean.mT).square().mean().sqrt().item() / math.sqrt(3)
        center, rotation = (
            [float(f"{n:.7g}") for n in each.tolist()] for each in (positions.mean(0), quaternions(mean))
        )
        return cls(tuple(center), tuple(rotation), float(f"{extent or 1:.7g}"), float(f"{spread or 1:.7g}"))  # pyright: ignore[reportArgumentType] # 3 and 4 numbers

    def on_target(self, likelihood: Likelihood[ValuePrediction]) -> PoseLikelihood:
        """The likelihood of poses, given one of the 6 numbers of a tangent vector.

        Raises:
            ConfigError: If it is none of 6 values around a location.
        """
        return PoseLikelihood(likelihood, self.center, self.rotation, self.extent, self.spread)

    def scores(self) -> PoseScores:  # pyright: ignore[reportIncompatibleMethodOverride] # both are scores
        """Fresh scores of poses."""
        from sfumato.metrics import PoseScores  # here, because torchmetrics imports matplotlib

        return PoseScores()

    @property
    def display_range(self) -> tuple[float, float]:
        """Distances from the middle of the training cameras, meters."""
        return 0.0, 3 * self.extent

    def color(self, values: Tensor) -> Tensor:
        """Positions (6, H, W) as colors uint8 (H, W, 3): the hue is the direction from the middle, seen along z."""
        away = values[:2] - torch.tensor(self.center[:2]).to(values)[:, None, None]
        return direction_colors(away, 3 * self.extent)
