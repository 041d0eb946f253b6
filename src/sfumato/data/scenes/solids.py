"""The shapes of the world: convex and symmetric about their centre, cut by slabs, or rounded, or both."""

from __future__ import annotations

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


BALL = Shape(round=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
TUBE = Shape(((0, 0, 1),), ((1, 0, 0), (0, 1, 0)))
BOX = Shape(((1, 0, 0), (0, 1, 0), (0, 0, 1)))
GROUND = Shape(((0, 0, 1),))  # endless
STRIP = Shape(((1, 0, 0), (0, 0, 1)))  # endless ahead
GEM = Shape(((1, 1, 1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1)))  # an octahedron


@dataclass(frozen=True)
class Solid:
    """A shape put into the world.

    Args:
        shape: one of the above, stretched by ``half`` and turned by ``yaw`` about the vertical.
        kind: its class, or :data:`NOVEL`.
        material: what it is made of.
        centre: metres; x to the east, y to the north, z up, the ground at z = 0.
        half: half its extent along its own axes, metres.
        yaw: radians, counter-clockwise from above.
        colours: the two colours (linear, 0 to 1) that its pattern mixes, (2, 3) float32.
        phase: shifts the pattern, metres.
        instance: 1, 2, … for things that stand around, 0 for the rest. Solids of one thing share it.
    """

    shape: Shape
    kind: str
    material: Material
    centre: Triple
    half: Triple
    yaw: float
    colours: np.ndarray
    phase: float
    instance: int = 0

    @cached_property
    def own_from_world(self) -> np.ndarray:
        """Rotation (3, 3) into the axes of the solid."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    @cached_property
    def rows(self) -> np.ndarray:
        """Slabs and then round axes (k, 3) that act on metres in the world, from the centre."""
        return np.array(self.shape.slabs + self.shape.round) / np.array(self.half) @ self.own_from_world

    @cached_property
    def corners(self) -> np.ndarray:
        """The corners of a cuboid around it (3, 8), metres in the world."""
        return self.own_from_world.T @ (_CORNERS * np.array(self.half)[:, None]) + np.array(self.centre)[:, None]


def normal(solid: Solid, offset: Vectors) -> Vectors:
    """Outward unit normals at points of its surface, which are given from its centre, metres."""
    flat = len(solid.shape.slabs)
    heights = [a * offset[0] + b * offset[1] + c * offset[2] for a, b, c in solid.rows.astype(np.float32)]
    result, best = [np.zeros_like(offset[0]) for _ in range(3)], np.float32(0)
    if solid.shape.round:
        result = [
            sum((h * np.float32(r) for h, r in zip(heights[flat:], c)), np.float32(0)) for c in solid.rows[flat:].T
        ]
        scale = 1 / np.sqrt(sum((x * x for x in result), np.float32(1e-20)))
        result = [x * scale for x in result]
        best = np.sqrt(sum((h * h for h in heights[flat:]), np.float32(0)))
    for row, height in zip(solid.rows[:flat], heights):
        outer, side = np.abs(height) > best, np.sign(height)
        best = np.maximum(best, np.abs(height))
        for x, r in zip(result, (row / np.linalg.norm(row)).astype(np.float32)):
            np.copyto(x, side * r, where=outer)
    return result[0], result[1], result[2]
