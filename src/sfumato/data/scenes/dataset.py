"""The data set of procedural scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato import targets
from sfumato.contracts import Sample
from sfumato.data.generated import check_place
from sfumato.data.scenes.lens import BASELINE, camera, intrinsics, moved, pose
from sfumato.data.scenes.maps import correspondences, target_maps
from sfumato.data.scenes.render import View, render
from sfumato.data.scenes.shifts import check, shift
from sfumato.data.scenes.splits import SPLITS
from sfumato.data.scenes.world import CLASSES, PALETTE, build
from sfumato.errors import ConfigError
from sfumato.tasks import BaseTask, CenterOffsets, Depth, Disparity, Flow, InverseDepth, Semantic

# Meters above the ground. If it varied, one picture would not determine the scale of the scene, and no network could
# tell the noise of depth from that.
HEIGHT = 1.6
SIZE = (96, 128)
VIEWS = ("image", "right", "next")
POSES = ("camera", "right", "next")
WITH_VIEWS = {"right", "next", "disparity", "disparity_right", "flow", "world_from_right", "world_from_next"}


@dataclass(frozen=True)
class Scenes(Dataset[Sample]):
    """Pictures of procedural scenes whose ground truth and noise distributions are known exactly.

    The scenes are ray-cast with a pinhole camera. Scene ``i`` depends on ``(seed, i)`` only. The class of each pixel is
    an independent sample of ``class_probs``. Its depth is ``depth_true · exp(depth_sigma · ε)`` with ε ~ N(0, 1). Both
    distributions are functions of the visible material (and of distance), so the best that a network can learn is
    these distributions.

    A sample holds these tensors:

    - ``image`` (3, H, W) float32 in [0, 1];
    - ``classes`` (H, W) int64, sampled from ``class_probs`` (8, H, W); ``classes_valid`` is False where ``novel``;
    - ``depth`` and ``depth_true`` (1, H, W) meters along the optical axis, the former with noise of ``depth_sigma``
      (1, H, W); all are 0 in the sky, where ``depth_valid`` is False;
    - ``inverse_depth`` (1, H, W) 1/m, one over ``depth``; 0 and valid in the sky;
    - ``instances`` (H, W) int64, 0 where there is no object; ``centers`` (2, H, W) px, from a pixel to the centroid of
      the visible part of its instance, where ``centers_valid``; ``novel`` (H, W) bool;
    - ``intrinsics`` (3, 3) px, ``world_from_camera`` (4, 4) meters, x to the east, y to the north, z up.

    With ``views`` a sample also holds the images ``right`` and ``next``; ``disparity`` (1, H, W) px, where
    ``x_right = x − disparity``, and ``disparity_right``; ``flow`` (2, H, W) px to the next image; ``world_from_right``
    and ``world_from_next``. Their ``…_valid`` (H, W) is False in the sky and where the other picture does not show the
    point. Only the camera moves.

    Args:
        count: Number of scenes, ≥ 1.
        size: (height, width), pixels, ≥ 1. Default (96, 128).
        seed: Seed of the scenes, ≥ 0. Default 0.
        views: Whether samples hold the right view and the next frame. This takes twice the time. Default False.
        novel: Whether objects of unseen shapes and patterns are added. The rest of a scene stays the same.
            Default False.
        shift: ``fog``, ``darkness``, ``blur`` or ``noise``, see :func:`shift`. It changes images, never targets.
            Default: none.
        severity: Severity of the shift, 1 to 5.
        inputs: The entries that a network takes, some of ``image``, ``right`` and ``next``. Default ``("image",)``.

    Raises:
        ConfigError: If an argument is out of its range.
        IndexError: For an index beyond ``count``.

    Pitfall: Novel pixels have a uniform distribution in ``class_probs``. Do not compare predictions with it.
    """

    count: int
    size: tuple[int, int] = SIZE
    seed: int = 0
    views: bool = False
    novel: bool = False
    shift: str | None = None
    severity: int = 0
    inputs: tuple[str, ...] = ("image",)
    things: ClassVar[tuple[int, ...]] = tuple(map(CLASSES.index, ("box", "sphere", "cylinder", "pole")))
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    any_size: ClassVar[bool] = True
    entries: ClassVar[Mapping[str, targets.EntryKind]] = {
        "class_probs": targets.ScalarMap(dims=len(CLASSES)),
        "depth_true": targets.Depth(),
        "depth_sigma": targets.ScalarMap(),
        "novel": targets.Mask(),
    }

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count is {self.count}, expected at least 1 scene")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size is {self.size}, expected (height, width) of at least 1 px each")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")
        if not self.inputs or not set(self.inputs) <= set(VIEWS[: 3 if self.views else 1]):
            raise ConfigError(f"inputs is {self.inputs}, expected image; with views also right and next")
        if self.shift is not None:
            check(self.shift, self.severity)
        elif self.severity:
            raise ConfigError(f"severity is {self.severity} without a shift: name one, or leave severity at 0")

    @property
    def augmentation(self) -> Mapping[str, object]:
        """No zoom, which would change the distribution of depth noise, and no color, by which materials differ."""
        return {"scale": (1.0, 1.0), "color": 0.0}

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """Classes, depth in meters, its inverse, the centers of objects, disparity and flow."""
        return {
            "classes": Semantic(CLASSES, PALETTE),
            "depth": Depth(1.0, 80.0, "m"),
            "inverse_depth": InverseDepth(1.0, "1/m"),
            "centers": CenterOffsets(self.size[1] / 6),
            "disparity": Disparity(self.size[1] / 12),
            "flow": Flow(self.size[1] / 8),
        }

    def providing(self, names: Iterable[str]) -> Scenes:
        """The same scenes with views, if one of these entries is known with views only."""
        return replace(self, views=True) if WITH_VIEWS & set(names) else self

    @property
    def names(self) -> list[str]:
        """``scene-SEED-INDEX``."""
        return [f"scene-{self.seed}-{index:06d}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}: expected 0 to {self.count - 1}")
        rng, novel, noise, shifts = (np.random.default_rng((self.seed, index, stream)) for stream in range(4))
        world = build(rng, novel if self.novel else None)
        poses = _poses(rng) if self.views else _poses(rng)[:1]
        views = render(world, [camera(pose, self.size) for pose in poses], self.size)
        maps = target_maps(world, views[0], noise)
        if self.views:
            maps |= correspondences(*views)
        maps |= {f"world_from_{name}": pose.astype(np.float32) for name, pose in zip(POSES, poses)}
        maps["intrinsics"] = intrinsics(self.size).astype(np.float32)
        seeds = [int(n) for n in shifts.integers(2**62, size=3)]
        images = {name: self._image(view, seed) for name, view, seed in zip(VIEWS, views, seeds)}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in maps.items()}
        return {"name": f"scene-{self.seed}-{index:06d}", **images, **tensors}

    def _image(self, view: View, seed: int) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(view.image))
        if self.shift is None:
            return image
        depth = torch.from_numpy(view.depth)[None]
        return shift(image, self.shift, self.severity, depth=depth, generator=torch.Generator().manual_seed(seed))


def open_scenes(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> Scenes:
    """The scenes of a split.

    Args:
        root: It must be empty, because scenes need no files.
        split: ``train``, ``val``, ``novel``, or a shift and its severity, as in ``fog-3``. Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("scenes", root, split, SPLITS)
    return Scenes(size=size or SIZE, **asdict(SPLITS[split]))


def _poses(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The poses of the camera, of its right neighbor, and of the camera a moment later."""
    left = pose(np.array([0, 0, HEIGHT]), rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.02))
    right = moved(left, np.array([BASELINE, 0, 0]))
    step = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03), rng.uniform(0.15, 0.6)])
    later = moved(left, step, rng.uniform(-0.025, 0.025), rng.uniform(-0.012, 0.012))
    return left, right, later
