"""The targets of a scene: classes, depths, instances, and correspondences between views."""

from __future__ import annotations

import numpy as np

from sfumato.data.center_offsets import centers
from sfumato.data.scenes.lens import BASELINE, intrinsics
from sfumato.data.scenes.materials import depth_sigma
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.render import View
from sfumato.data.scenes.solids import NOVEL, Solid
from sfumato.data.scenes.world import CLASSES, World

Maps = dict[str, np.ndarray]
_RIM = 0.499  # px; a picture ends at the centers of its outermost pixels, which rounding must not exclude
_SKY = np.eye(len(CLASSES), dtype=np.float32)[CLASSES.index("sky")]


def target_maps(world: World, view: View, rng: np.random.Generator) -> Maps:
    """The targets of the camera's view, and the distributions that they are drawn from."""
    class_probs = np.stack([_class_probs(solid) for solid in world.solids] + [_SKY])  # the index of the sky is −1
    base = np.array([solid.material.sigma for solid in world.solids] + [0], np.float32)[view.index]
    instance = np.array([solid.instance for solid in world.solids] + [0])[view.index]
    novel = np.array([solid.kind == NOVEL for solid in world.solids] + [False])[view.index]
    surface = view.index >= 0
    depth = np.where(surface, view.depth, np.float32(0))
    sigma = depth_sigma(base, depth)
    steps = class_probs.cumsum(1).T[:-1].take(view.index, 1)
    classes = (rng.random(surface.shape, np.float32) >= steps).sum(0)
    noisy = depth * np.exp(sigma * rng.standard_normal(surface.shape, np.float32))
    return {
        "classes": np.where(novel, 0, classes),
        "classes_valid": ~novel,
        "class_probs": class_probs.T.take(view.index, 1),
        "depth": noisy[None],
        "depth_valid": surface,
        "depth_true": depth[None],
        "depth_sigma": sigma[None],
        "inverse_depth": np.divide(1, noisy, out=np.zeros_like(noisy), where=surface)[None],
        "inverse_depth_valid": np.ones_like(surface),
        "instances": instance,
        "centers": centers(instance),
        "centers_valid": instance > 0,
        "novel": novel,
    }


def _class_probs(solid: Solid) -> np.ndarray:
    """The class distribution (K,) of a solid: its kind, unless its material is ambiguous."""
    if solid.kind == NOVEL:
        return np.full(len(CLASSES), 1 / len(CLASSES), np.float32)
    probs = solid.material.class_probs or {solid.kind: 1.0}
    return np.array([probs.get(name, 0) for name in CLASSES], np.float32)


def correspondences(left: View, right: View, later: View) -> Maps:
    """Disparity of both views and optical flow, with masks that say whether the other picture shows the point."""
    focal = np.float32(intrinsics(left.index.shape)[0, 0] * BASELINE)
    flow, flow_valid = _shift(left, later.sight)
    return {
        # Disparity is exact in this form, and 0 in the sky.
        "disparity": focal / left.depth[None],
        "disparity_valid": _shift(left, right.sight)[1],
        "disparity_right": focal / right.depth[None],
        "disparity_right_valid": _shift(right, left.sight)[1],
        "flow": flow,
        "flow_valid": flow_valid,
    }


def _shift(view: View, other: Sight) -> tuple[np.ndarray, np.ndarray]:
    """How far the points of a view move to another picture (2, H, W) px, and whether that picture shows them."""
    height, width = view.index.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    u, v, t = other.lens.place(view.points)
    across, down = np.abs(u - (width - 1) / 2), np.abs(v - (height - 1) / 2)  # from the middle
    valid = (view.index >= 0) & (t > 0) & (across <= width / 2 - _RIM) & (down <= height / 2 - _RIM)
    valid[valid] = ~other.hides(u[valid], v[valid], t[valid])
    return np.stack([u - x, v - y]) * (view.index >= 0), valid
