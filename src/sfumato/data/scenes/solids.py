"""Shapes that are convex and symmetric about their center: bounded by slabs, by a round surface, or by both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sfumato.data.scenes.materials import Material, Vectors

NOVEL = "novel"
Triple = tuple[float, float, float]
_CORNERS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)


@dataclass(frozen=True)
class Shape:
    """``{x : |slab · x| ≤ 1 for every slab, and ‖(axis · x) over the round axes‖ ≤ 1}``."""

    slabs: tuple[Triple, ...] = ()
    round: tuple[Triple, ...] = ()

    @cached_property
    def rows(self) -> np.ndarray:
        """The slabs, then the round axes (k, 3)."""
        return np.array(self.slabs + self.round)


BALL = Shape(round=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
TUBE = Shape(((0, 0, 1),), ((1, 0, 0), (0, 1, 0)))
BOX = Shape(((1, 0, 0), (0, 1, 0), (0, 0, 1)))
GROUND = Shape(((0, 0, 1),))  # infinite
STRIP = Shape(((1, 0, 0), (0, 0, 1)))  # infinite to the front
GEM = Shape(((1, 1, 1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1)))  # an octahedron


@dataclass(frozen=True)
class Solid:
    """A shape at a place in the world.

    Args:
        shape: The shape, which is stretched by ``half`` and turned by ``yaw`` about the vertical axis.
        kind: Its class, or :data:`NOVEL`.
        material: Its material.
        center: Its center, meters; x to the east, y to the north, z up. The ground is at z = 0.
        half: Half of its extent along its own axes, meters.
        yaw: Radians, counter-clockwise seen from above.
        colors: The two colors (linear, 0 to 1) that its pattern mixes, (2, 3) float32.
        phase: Shift of the pattern, meters.
        instance: 1, 2, … for objects, 0 for all else. The solids of one object share it. Default 0.
    """

    shape: Shape
    kind: str
    material: Material
    center: Triple
    half: Triple
    yaw: float
    colors: np.ndarray
    phase: float
    instance: int = 0

    @cached_property
    def own_from_world(self) -> np.ndarray:
        """Rotation (3, 3) into the axes of the solid."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    @cached_property
    def rows(self) -> np.ndarray:
        """The slabs, then the round axes (k, 3), for offsets from the center in meters of the world."""
        return self.shape.rows / np.array(self.half) @ self.own_from_world

    @cached_property
    def corners(self) -> np.ndarray:
        """The corners of its bounding box (3, 8), meters in the world."""
        return self.own_from_world.T @ (_CORNERS * np.array(self.half)[:, None]) + np.array(self.center)[:, None]


def normal(solid: Solid, offset: Vectors) -> Vectors:
    """Outward unit normals at points of the surface, whose offsets from the center are given in meters."""
    flat = len(solid.shape.slabs)
    heights = [weighted(row, offset) for row in solid.rows.tolist()]
    x, y, z = (np.zeros_like(offset[0]) for _ in range(3))
    best: np.ndarray | float = 0.0
    if solid.shape.round:
        x, y, z = (weighted(column, heights[flat:]) for column in solid.rows[flat:].T.tolist())
        scale = 1 / np.sqrt(np.maximum(x * x + y * y + z * z, np.float32(1e-20)))
        x, y, z = x * scale, y * scale, z * scale
        best = np.sqrt(sum(h * h for h in heights[flat:]))
    for row, height in zip(solid.rows[:flat], heights):
        size = np.abs(height)
        outer, best = size > best, np.maximum(size, best)
        side = np.sign(height)
        for component, share in zip((x, y, z), (row / np.linalg.norm(row)).tolist()):
            np.copyto(component, side * np.float32(share), where=outer)
    return x, y, z


def weighted(weights: Sequence[float], vectors: Sequence[np.ndarray]) -> np.ndarray:
    """``Σ weight · vector`` in float32. Terms whose weight is 0 are left out."""
    terms = [v * np.float32(w) for w, v in zip(weights, vectors) if abs(w) > 1e-9]
    return sum(terms[1:], terms[0]) if terms else np.zeros_like(vectors[0])
