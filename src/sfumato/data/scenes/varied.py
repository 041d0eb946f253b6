"""Scenes for matching: cameras and surfaces vary, and objects hang in the air.

A third of the worlds are those of :func:`~sfumato.data.scenes.world.build` with other surfaces. The others are a wall
with shapes of any orientation in front of it, as on a table that is seen from near.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sfumato.data.scenes import materials as m
from sfumato.data.scenes.lens import camera, intrinsics, moved, pose
from sfumato.data.scenes.materials import POOR, REPETITIVE, RICH, Material, Pattern, Vectors
from sfumato.data.scenes.motion import Motion, motions
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.solids import BALL, BOX, GEM, GROUND, TUBE, Shape, Solid
from sfumato.data.scenes.world import World, build, daylight

LARGEST = 0.25  # widths of the picture; almost no disparity is larger
NOISE = 0.03  # largest standard deviation of the noise of pictures in [0, 1]
_NEAREST = 0.7  # meters; nothing is nearer, but for the ground
_SHARES = (0.7, 0.15, 0.15)  # of surfaces that are rich, poor and repetitive


@dataclass(frozen=True)
class Setting:
    """What is photographed, and how.

    Args:
        world: The world at the first time.
        motion: How its objects move until the next time.
        matrix: The camera matrix (3, 3), px.
        poses: ``world_from_camera`` of the ``camera``, and of ``right``, ``next`` and ``previous``.
        baseline: Meters from the left to the right camera.
    """

    world: World
    motion: Motion
    matrix: np.ndarray
    poses: dict[str, np.ndarray]
    baseline: float


def varied(rng: np.random.Generator, moving: np.random.Generator, size: tuple[int, int]) -> Setting:
    """A random setting whose focal length, principal point, baseline, camera height and surfaces vary.

    Args:
        rng: Source of random numbers for the world and the camera.
        moving: That of motions.
        size: Height and width of the pictures, px.
    """
    focal = float(np.exp(rng.uniform(np.log(0.7), np.log(1.6))))
    matrix = intrinsics(size, focal, (rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)))
    height = rng.uniform(0.7, 2.4)
    hanging = rng.random() < 2 / 3
    if hanging:
        world = _hanging(rng, height, focal, size[0] / size[1])
        left = pose(np.array([0, 0, height]), rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06))
    else:
        world = _resurfaced(build(rng), rng, focal)
        left = pose(np.array([0, 0, height]), rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.02))
    near = _nearest(world, left, matrix, size)
    baseline = rng.uniform(0.04, 0.22) * near / focal
    return _moving(moving, world, matrix, left, baseline, near, rise=1.0 if hanging else 0.0)


def _moving(
    rng: np.random.Generator, world: World, matrix: np.ndarray, left: np.ndarray, baseline: float, near: float,
    rise: float,
) -> Setting:  # fmt: skip
    """The setting with random motions of objects and camera, from almost none to large ones."""
    pace = float(np.exp(rng.uniform(np.log(0.1), 0)))
    motion = motions(world.solids, rng, 0.12 * pace, rise)
    poses = {"camera": left, "right": moved(left, np.array([baseline, 0, 0]))}
    for name, sign in (("next", 1), ("previous", -1)):
        step = pace * near * rng.uniform((-0.08, -0.05, -0.05), (0.08, 0.05, 0.12))
        turns = pace * rng.uniform(-0.05, 0.05, 2)
        poses[name] = moved(left, sign * step, *(sign * turns))
    return Setting(world, motion, matrix, poses, baseline)


def _nearest(world: World, left: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> float:
    """The distance that almost no pixel is nearer than, meters."""
    scale = np.diag([24 / size[1], 24 / size[1], 1])
    small = (max(1, round(24 * size[0] / size[1])), 24)
    depth, _ = Sight(world.bodies, camera(left, scale @ matrix)).first(small)
    return float(np.quantile(np.minimum(depth, 60), 0.01))


def _resurfaced(world: World, rng: np.random.Generator, focal: float) -> World:
    """The same solids, most of them with a random surface."""
    solids = []
    for solid in world.solids:
        distance = math.hypot(*solid.center[:2]) if max(solid.half) < 100 else 5.0
        solids.append(_dressed(solid, rng, max(distance, 2.0) / focal) if rng.random() < 0.7 else solid)
    return World(tuple(solids), world.light)


def _hanging(rng: np.random.Generator, height: float, focal: float, aspect: float) -> World:
    """A wall, the ground, and shapes in front of the wall that hang anywhere in view."""
    back = rng.uniform(2.5, 12)
    blank = np.zeros((2, 3), np.float32)
    plain = replace(m.PAINT, class_probs={})
    solids = [
        Solid(GROUND, "ground", plain, (0, 0, -1), (200, 200, 1), 0.0, blank, rng.uniform(0, 50)),
        Solid(BOX, "wall", plain, (0, back + 0.5, 0), (60, 0.5, 60), rng.uniform(-0.5, 0.5), blank, rng.uniform(0, 50)),
    ]
    for instance in range(1, int(rng.integers(8, 25)) + 1):
        y = float(np.exp(rng.uniform(np.log(_NEAREST + 0.4), np.log(back))))
        x, z = rng.uniform(-0.55, 0.55) * y / focal, height + rng.uniform(-0.55, 0.55) * aspect * y / focal
        reach = min(float(np.exp(rng.uniform(np.log(0.04), np.log(0.3)))) * y / focal, y - _NEAREST)
        shape, kind = _shape(rng)
        half = (reach, reach, reach) if shape.slabs and len(shape.rows) == 3 else tuple(reach * rng.uniform(0.4, 1, 3))
        solids.append(
            Solid(shape, kind, plain, (x, y, z), (half[0], half[1], half[2]), rng.uniform(0, np.pi), blank,
                  rng.uniform(0, 50), instance)
        )  # fmt: skip
    light = daylight(rng)
    return World(tuple(_dressed(s, rng, max(s.center[1], 1.0) / focal) for s in solids), light)


def _shape(rng: np.random.Generator) -> tuple[Shape, str]:
    """A ball, a tube, a gem, or most often a box of any orientation, from a cube to a thin plate."""
    kind = rng.choice(4, p=[0.15, 0.1, 0.1, 0.65])
    if kind < 3:
        return ((BALL, "sphere"), (TUBE, "cylinder"), (GEM, "box"))[kind]
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    extents = np.array([1, rng.uniform(0.4, 1), np.exp(rng.uniform(np.log(0.03), 0))])
    extents = extents / (np.abs(axes) * extents[:, None]).sum(0).max()  # inside of the cube that bounds a shape
    rows = axes / extents[:, None]
    return Shape(tuple((float(a), float(b), float(c)) for a, b, c in rows)), "box"


def _dressed(solid: Solid, rng: np.random.Generator, unit: float) -> Solid:
    """A solid with a random surface. ``unit`` is the length at its distance that fills the width of a picture, m."""
    texture = int(rng.choice(3, p=_SHARES))
    pattern = _PATTERNS[texture](rng, unit)
    colors = rng.uniform(0.05, 0.95, (2, 3))
    if texture == POOR:
        colors[1] = np.clip(colors[0] + rng.uniform(-0.03, 0.03, 3), 0, 1)
    else:
        while np.abs(colors[0] - colors[1]).mean() < 0.3:
            colors[1] = rng.uniform(0.05, 0.95, 3)
    material = Material(pattern, (), 0.1, solid.material.class_probs, texture)
    return replace(solid, material=material, colors=colors.astype(np.float32) ** 2, phase=rng.uniform(0, 50))


def _rich(rng: np.random.Generator, unit: float) -> Pattern:
    """Patches, noise or both, from coarse to fine."""
    size = unit * float(np.exp(rng.uniform(np.log(0.03), np.log(0.15))))
    bricks = m.tiles(size, size * rng.uniform(0.3, 1), size / 12, 0.5, 0.7)
    return contrasted((m.speckle(size), mosaic(size), mosaic(size, 0.5), bricks)[rng.integers(4)], 2.0)


def _poor(rng: np.random.Generator, unit: float) -> Pattern:
    return m.speckle(unit * rng.uniform(0.3, 1))


def _repetitive(rng: np.random.Generator, unit: float) -> Pattern:
    """Stripes, squares or tiles that return after 1/25 to 1/12 of the width of a picture."""
    period = unit * rng.uniform(0.04, 0.085)
    return (waves(period, rng.uniform(0, np.pi)), m.tiles(period, period, period / 5, 0.0, 0.0), squares(period))[
        rng.integers(3)
    ]


_PATTERNS: dict[int, Callable[[np.random.Generator, float], Pattern]] = {
    RICH: _rich, POOR: _poor, REPETITIVE: _repetitive,
}  # fmt: skip


def contrasted(pattern: Pattern, factor: float) -> Pattern:
    """A pattern whose distance from the mean of both colors is multiplied."""
    return lambda position, normal, footprint: 0.5 + factor * (pattern(position, normal, footprint) - 0.5)


def mosaic(size: float, grain: float = 0.0) -> Pattern:
    """Cells of random shades, and smaller cells in them. ``grain`` in [0, 1] is the share of smooth noise."""

    def pattern(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
        across, up = m.surface(position, normal)
        total = np.zeros_like(across)
        for width, share in ((size, 0.4), (size / 2.6, 0.3), (size / 7.1, 0.3)):
            shade = m.hashed(np.floor(across / np.float32(width)), np.floor(up / np.float32(width)))
            fade = m.fade(footprint, width)
            total += np.float32(share) * (shade * fade + np.float32(0.5) * (1 - fade))
        if not grain:
            return total
        return (1 - grain) * total + grain * (0.5 + 0.5 * m.noise(position, footprint, size / 2))

    return pattern


def waves(period: float, angle: float) -> Pattern:
    """Stripes of two colors along a face."""
    c, s = 2 * math.pi / period * math.cos(angle), 2 * math.pi / period * math.sin(angle)

    def pattern(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
        across, up = m.surface(position, normal)
        wave = np.sin(np.float32(c) * across + np.float32(s) * up)
        return 0.5 + 0.5 * np.clip(wave * 3, -1, 1) * m.fade(footprint, period / 2)

    return pattern


def squares(period: float) -> Pattern:
    """A checkerboard along a face."""
    rate = np.float32(2 * math.pi / period)

    def pattern(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
        across, up = m.surface(position, normal)
        return 0.5 + 0.5 * np.clip(6 * np.sin(rate * across) * np.sin(rate * up), -1, 1) * m.fade(footprint, period / 2)

    return pattern
