"""One generated place that many cameras see, with exact poses and depths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.generated import check_place
from sfumato.data.scenes.lens import camera, intrinsics, pose
from sfumato.data.scenes.render import render
from sfumato.data.scenes.world import World, build
from sfumato.errors import ConfigError
from sfumato.geometry.pose import pose_vectors
from sfumato.tasks import BaseTask, CameraPose

SIZE = (96, 128)
LOW, HIGH = np.array([-1.5, -2.0, 1.2]), np.array([1.5, 1.0, 2.0])  # where cameras are, meters
YAW, PITCH = 0.35, 0.12  # largest turns from north and from level, radians
SPLITS = {"train": (400, 0), "val": (100, 1)}  # number of cameras, and the seed of their poses


@dataclass(frozen=True)
class SceneTour(Dataset[Sample]):
    """Pictures of one place of :class:`Scenes` by cameras at random places, for the task ``pose``.

    Cameras are up to 1.5 m to the left and right of the middle, 2 m behind it and 1 m before it, 1.2 to 2 m above the
    ground, and turned by up to 20 degrees. Camera ``i`` depends on ``(place, seed, i)`` only, so cameras of two seeds
    are independent and no split is a video.

    A sample holds ``image`` (3, H, W) float32 in [0, 1]; ``depth`` (1, H, W) meters, exact, 0 in the sky, where
    ``depth_valid`` is False; ``intrinsics`` (3, 3) px; ``world_from_camera`` (4, 4) meters and ``pose`` (6,), the same
    as position and rotation vector.

    Args:
        count: Number of cameras, ≥ 1.
        size: (height, width), pixels, ≥ 1. Default (96, 128).
        seed: Seed of the cameras, ≥ 0. Default 0.
        place: Seed of the place, ≥ 0. Default 2, a street corner with a few objects.

    Raises:
        ConfigError: If an argument is out of its range.
    """

    count: int
    size: tuple[int, int] = SIZE
    seed: int = 0
    place: int = 2
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    any_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1 or len(self.size) != 2 or min(self.size) < 1 or min(self.seed, self.place) < 0:
            raise ConfigError(
                f"count is {self.count}, size {self.size}, seed {self.seed} and place {self.place}: expected at least "
                "1 camera, a height and a width of at least 1 px, and seeds of at least 0"
            )

    @cached_property
    def tasks(self) -> dict[str, BaseTask]:
        """The pose of the camera."""
        poses = torch.from_numpy(np.stack([self._pose(index) for index in range(self.count)]))
        return {"pose": CameraPose.of(poses)}

    @property
    def names(self) -> list[str]:
        """``tour-PLACE-SEED-INDEX``."""
        return [f"tour-{self.place}-{self.seed}-{index:06d}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"camera {index} of {self.count}: expected 0 to {self.count - 1}")
        own, matrix = self._pose(index), intrinsics(self.size)
        (view,) = render(self._world, [camera(own, matrix)], self.size)
        seen, world_from_camera = view.index >= 0, torch.from_numpy(own).float()
        return {
            "name": self.names[index],
            "image": torch.from_numpy(np.ascontiguousarray(view.image)),
            "depth": torch.from_numpy(np.where(seen, view.depth, np.float32(0))[None]),
            "depth_valid": torch.from_numpy(seen),
            "intrinsics": torch.from_numpy(matrix).float(),
            "world_from_camera": world_from_camera,
            "pose": pose_vectors(world_from_camera),
            "pose_valid": torch.tensor(True),
        }

    @cached_property
    def _world(self) -> World:
        return build(np.random.default_rng(self.place))

    def _pose(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.place, self.seed, index))
        return pose(rng.uniform(LOW, HIGH), rng.uniform(-YAW, YAW), rng.uniform(-PITCH, PITCH))


def open_scene_tour(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> SceneTour:
    """The cameras of a split.

    Args:
        root: It must be empty, because scenes need no files.
        split: ``train`` (400 cameras) or ``val`` (100). Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("scene-tour", root, split, SPLITS)
    count, seed = SPLITS[split]
    return SceneTour(count, size or SIZE, seed)
