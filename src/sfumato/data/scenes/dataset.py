"""The embedded data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.data.center_offsets import centers
from sfumato.data.scenes.lens import BASELINE, camera, intrinsics, moved, pose
from sfumato.data.scenes.materials import depth_sigma
from sfumato.data.scenes.render import View, render
from sfumato.data.scenes.shifts import check, shift
from sfumato.data.scenes.solids import NOVEL, Solid
from sfumato.data.scenes.world import CLASSES, PALETTE, World, build
from sfumato.tasks import CenterOffsets, Depth, InverseDepth, Semantic

# Meters above the ground. Were it to vary, one picture would leave the scale of the world open, and no network could
# tell the noise of depth from that.
HEIGHT = 1.6
Sample = dict[str, Any]
Maps = dict[str, np.ndarray]
_RIM = 0.499  # px; a picture ends at the centers of its outermost pixels, which rounding must not exclude
_SKY = np.eye(len(CLASSES), dtype=np.float32)[CLASSES.index("sky")]


@dataclass(frozen=True)
class Scenes(Dataset[Sample]):
    """Pictures of a made-up world whose every truth is known.

    Ray-cast with a pinhole camera; scene ``i`` depends on ``(seed, i)`` only. Each pixel's class is an independent
    draw from ``class_probs``, and its depth target is ``depth_true · exp(depth_sigma · ε)`` with ε ~ N(0, 1): both
    laws are functions of the visible material (and of distance), so a network can learn them and nothing better.

    Args:
        count: number of scenes, ≥ 1.
        size: height and width, px, ≥ 1.
        seed: ≥ 0; another seed, other scenes.
        views: whether samples hold the right view and the next frame, with disparity and flow (twice the time).
        novel: whether unseen shapes with unseen patterns stand among the others, which stay as they are without.
        shift: ``fog``, ``darkness``, ``blur`` or ``noise``, see :func:`shift`; it changes images, never targets.
        severity: of the shift, 1 to 5.

    Returns:
        Samples, of these tensors:
        ``image`` (3, H, W) in [0, 1];
        ``classes`` (H, W) int64, drawn from ``class_probs`` (8, H, W); ``classes_valid`` is False where ``novel``;
        ``depth`` and ``depth_true`` (1, H, W) meters along the optical axis, the former noisy with ``depth_sigma``
        (1, H, W); all 0 in the sky, where ``depth_valid`` is False; ``inverse_depth`` (1, H, W), 1 over ``depth``, and
        0 in the sky, which is as good a value as any;
        ``instances`` (H, W) int64, 0 where no thing is; ``centers`` (2, H, W) px, from a pixel to the centroid of
        what is seen of its instance, where ``centers_valid``; ``novel`` (H, W);
        ``intrinsics`` (3, 3) px, ``world_from_camera`` (4, 4) meters, x to the east, y to the north, z up.
        With ``views``: ``right``, ``disparity`` (1, H, W) px, ``x_right = x − d``; ``next``, ``flow`` (2, H, W) px;
        their ``…_valid`` (H, W) is False in the sky and where the other picture does not show that point;
        ``world_from_right``, ``world_from_next``. The world stands still, only the camera moves.

    Raises:
        ValueError: if an argument is out of its range.
        IndexError: beyond ``count``.

    Pitfall: in ``class_probs`` a novel pixel has the uniform law, which nothing should be compared with.
    """

    count: int
    size: tuple[int, int] = (96, 128)
    seed: int = 0
    views: bool = False
    novel: bool = False
    shift: str | None = None
    severity: int = 0
    things: ClassVar[tuple[int, ...]] = tuple(map(CLASSES.index, ("box", "sphere", "cylinder", "pole")))

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}, expected at least 1 scene")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {self.size}, expected (height, width) of at least 1 px each")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        if self.shift is not None:
            check(self.shift, self.severity)
        elif self.severity:
            raise ValueError(f"severity is {self.severity} without a shift: name one, or leave severity at 0")

    @property
    def augmentation(self) -> dict[str, Any]:
        """Neither zoom, under which the law of depth's noise would change, nor color, by which materials differ."""
        return {"scale": (1.0, 1.0), "color": 0.0}

    @property
    def tasks(self) -> dict[str, Any]:
        """Classes, depth in meters and its inverse, and where the centers of things are."""
        return {
            "classes": Semantic(CLASSES, PALETTE),
            "depth": Depth(1.0, 80.0, "m"),
            "inverse_depth": InverseDepth(1.0, "1/m"),
            "centers": CenterOffsets(self.size[1] / 6),
        }

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}: expected 0 to {self.count - 1}")
        rng, novel, targets, shifts = (np.random.default_rng((self.seed, index, stream)) for stream in range(4))
        world = build(rng, novel if self.novel else None)
        poses = _poses(rng) if self.views else _poses(rng)[:1]
        lenses = [camera(pose, self.size) for pose in poses]
        views = render(world, lenses, self.size)
        maps = _targets(world, views[0], targets)
        if self.views:
            maps |= _correspondences(*views)
        maps |= {f"world_from_{n}": p.astype(np.float32) for n, p in zip(("camera", "right", "next"), poses)}
        maps["intrinsics"] = intrinsics(self.size).astype(np.float32)
        noise = [int(n) for n in shifts.integers(2**62, size=3)]
        images = {n: self._image(view, k) for n, view, k in zip(("image", "right", "next"), views, noise)}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in maps.items()}
        return {"name": f"scene-{self.seed}-{index:06d}", **images, **tensors}

    def _image(self, view: View, noise: int) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(view.image))
        if self.shift is None:
            return image
        depth = torch.from_numpy(view.depth)[None]
        return shift(image, self.shift, self.severity, depth=depth, generator=torch.Generator().manual_seed(noise))


def _poses(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the camera, of its right neighbor, and of itself a moment later."""
    left = pose(np.array([0, 0, HEIGHT]), rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.02))
    right = moved(left, np.array([BASELINE, 0, 0]))
    step = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03), rng.uniform(0.15, 0.6)])
    later = moved(left, step, rng.uniform(-0.025, 0.025), rng.uniform(-0.012, 0.012))
    return left, right, later


def _targets(world: World, view: View, rng: np.random.Generator) -> Maps:
    """What a network is to learn of the camera's view, and the laws that this is drawn from."""
    laws = np.stack([_law(solid) for solid in world.solids] + [_SKY])  # the sky's index is −1
    base = np.array([solid.material.sigma for solid in world.solids] + [0], np.float32)[view.index]
    instance = np.array([solid.instance for solid in world.solids] + [0])[view.index]
    novel = np.array([solid.kind == NOVEL for solid in world.solids] + [False])[view.index]
    met = view.index >= 0
    depth = np.where(met, view.depth, np.float32(0))
    sigma = depth_sigma(base, depth)
    drawn = (rng.random(met.shape, np.float32) >= laws.cumsum(1).T[:-1].take(view.index, 1)).sum(0)
    noisy = depth * np.exp(sigma * rng.standard_normal(met.shape, np.float32))
    return {
        "classes": np.where(novel, 0, drawn),
        "classes_valid": ~novel,
        "class_probs": laws.T.take(view.index, 1),
        "depth": noisy[None],
        "depth_valid": met,
        "depth_true": depth[None],
        "depth_sigma": sigma[None],
        "inverse_depth": np.divide(1, noisy, out=np.zeros_like(noisy), where=met)[None],
        "inverse_depth_valid": np.ones_like(met),
        "instances": instance,
        "centers": centers(instance),
        "centers_valid": instance > 0,
        "novel": novel,
    }


def _law(solid: Solid) -> np.ndarray:
    """The class distribution (K,) of a solid: its kind, unless its material leaves that open."""
    if solid.kind == NOVEL:
        return np.full(len(CLASSES), 1 / len(CLASSES), np.float32)
    law = solid.material.law or {solid.kind: 1.0}
    return np.array([law.get(name, 0) for name in CLASSES], np.float32)


def _correspondences(view: View, right: View, later: View) -> Maps:
    """Where the right and the next camera see what the first one sees, and whether they do."""
    height, width = size = view.index.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    maps: Maps = {}
    for name, sight in (("disparity", right.sight), ("flow", later.sight)):
        u, v, t = sight.lens.place(view.points)
        beside, above = np.abs(u - (width - 1) / 2), np.abs(v - (height - 1) / 2)  # the middle
        valid = (view.index >= 0) & (t > 0) & (beside <= width / 2 - _RIM) & (above <= height / 2 - _RIM)
        valid[valid] = ~sight.hides(u[valid], v[valid], t[valid])
        maps[name], maps[f"{name}_valid"] = np.stack([u - x, v - y]) * (view.index >= 0), valid
    focal = intrinsics(size)[0, 0]
    maps["disparity"] = np.float32(focal * BASELINE) / view.depth[None]  # exact, and 0 in the sky
    return maps
