"""The targets of a scene: classes, depths, instances, and correspondences between views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sfumato.data.center_offsets import centers
from sfumato.data.scenes.materials import POOR, depth_sigma
from sfumato.data.scenes.motion import Motion
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.render import View
from sfumato.data.scenes.solids import NOVEL, Solid
from sfumato.data.scenes.world import CLASSES, World

Maps = dict[str, np.ndarray]
PIXELS = np.float32(5)  # standard deviation of measured disparity and flow for a material with sigma 1
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


def instance_boxes(world: World, view: View, things: Sequence[int]) -> Tensor:
    """The boxes (N, 6) of the visible part of each object, px; class, the place in ``things``; 1 for a novel shape."""
    instance = np.array([solid.instance for solid in world.solids] + [0])[view.index]
    rows = []
    for number in np.unique(instance[instance > 0]).tolist():
        y, x = np.nonzero(instance == number)
        kind = next(solid.kind for solid in world.solids if solid.instance == number)
        place = 0 if kind == NOVEL else things.index(CLASSES.index(kind))
        rows.append([x.min(), y.min(), x.max() + 1, y.max() + 1, place, kind == NOVEL])
    return torch.tensor(np.array(rows, np.float64).reshape(-1, 6))


def _class_probs(solid: Solid) -> np.ndarray:
    """The class distribution (K,) of a solid: its kind, unless its material is ambiguous."""
    if solid.kind == NOVEL:
        return np.full(len(CLASSES), 1 / len(CLASSES), np.float32)
    probs = solid.material.class_probs or {solid.kind: 1.0}
    return np.array([probs.get(name, 0) for name in CLASSES], np.float32)


def disparities(left: View, right: View, shift: float) -> Maps:
    """Disparity of both views of a stereo pair, where the other view shows it, and where it does not.

    Args:
        left: The view of the left camera.
        right: That of the right camera.
        shift: Focal length times baseline, px · meters.
    """
    found: Maps = {}
    for key, view, other in (("disparity", left, right), ("disparity_right", right, left)):
        found[key] = np.float32(shift) / view.depth[None]  # exact in this form, and 0 in the sky
        found |= _masks(key, view, _shift(view, other.sight, view.points)[1])
    return found


def flows(now: View, later: View, motion: Motion) -> Maps:
    """Optical flow from a view to a later one and back, with masks as of :func:`disparities`; and what moves by itself.

    Args:
        now: A view.
        later: A view at the next time.
        motion: How the solids move from the one to the other.
    """
    flow, seen = _shift(now, later.sight, motion.forward(now.points, now.index))
    back, seen_back = _shift(later, now.sight, motion.backward(later.points, later.index))
    maps = {"flow": flow, "flow_back": back, "moving": motion.moves[now.index]}
    return maps | _masks("flow", now, seen) | _masks("flow_back", later, seen_back)


def measured_maps(world: World, view: View, maps: Maps, rng: np.random.Generator) -> Maps:
    """Disparity and flow of a view as a sensor measures them, of those in ``maps``; their noise, and the exact values.

    The noise has a Laplace distribution whose standard deviation is 5 px times ``sigma`` of the material.
    """
    base = np.array([solid.material.sigma for solid in world.solids] + [0], np.float32)[view.index]
    found: Maps = {}
    for key in ("disparity", "flow"):
        if key in maps:
            sigma = np.repeat(PIXELS * base[None], len(maps[key]), 0)
            noise = rng.laplace(scale=np.sqrt(0.5), size=maps[key].shape).astype(np.float32)  # of variance 1
            found |= {key: maps[key] + sigma * noise, f"{key}_true": maps[key], f"{key}_sigma": sigma}
    return found


def textures(world: World, view: View) -> np.ndarray:
    """The index of the texture of each pixel (H, W), of :data:`~sfumato.data.scenes.materials.TEXTURES`."""
    return np.array([solid.material.texture for solid in world.solids] + [POOR])[view.index]


def _masks(key: str, view: View, seen: np.ndarray) -> Maps:
    return {f"{key}_valid": seen, f"{key}_occluded": (view.index >= 0) & ~seen}


def _shift(view: View, other: Sight, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the points of a view move to another picture (2, H, W) px, and whether that picture shows them.

    ``points`` (3, H, W) are where the points of the view are when the other picture is taken, meters.
    """
    height, width = view.index.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    u, v, t = other.lens.place(points)
    across, down = np.abs(u - (width - 1) / 2), np.abs(v - (height - 1) / 2)  # from the middle
    valid = (view.index >= 0) & (t > 0) & (across <= width / 2 - _RIM) & (down <= height / 2 - _RIM)
    valid[valid] = ~other.hides(u[valid], v[valid], t[valid])
    return np.stack([u - x, v - y]) * (view.index >= 0), valid
