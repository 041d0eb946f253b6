"""The shapes of the world, and where rays meet them.

Every shape is convex and symmetric about its centre: slabs cut it, and a ball or a tube may round it. A ray is
within each of these between ``middle − reach`` and ``middle + reach``, hence within the body between the largest
of the former and the smallest of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sfumato.data.scenes.lens import Lens
from sfumato.data.scenes.materials import Material

FAR = 60.0  # metres: here the world ends and the sky begins
NOVEL = "novel"
Triple = tuple[float, float, float]
Span = tuple[np.ndarray, np.ndarray]
_CORNERS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)


@dataclass(frozen=True)
class Shape:
    """``{x : |slab · x| ≤ 1 for every slab, and ‖(axis · x) over the round axes‖ ≤ 1}``."""

    slabs: tuple[Triple, ...] = ()
    round: tuple[Triple, ...] = ()


BALL = Shape(round=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
TUBE = Shape(((0, 0, 1),), ((1, 0, 0), (0, 1, 0)))
BOX = Shape(((1, 0, 0), (0, 1, 0), (0, 0, 1)))
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


class Seen:
    """Solids as rays of one lens meet them.

    Args:
        solids: the world.
        lens: the family of rays.

    Attributes:
        frames: rectangles (S, 4) of u and v, lowest and highest of each, that the solids do not leave.
    """

    def __init__(self, solids: Sequence[Solid], lens: Lens) -> None:
        rows = np.concatenate([solid.rows for solid in solids])
        counts = [len(solid.rows) for solid in solids]
        centres = np.repeat([solid.centre for solid in solids], counts, 0)
        self.origin, self.direction = lens.through(rows, centres)
        self.parts = [slice(stop - count, stop) for count, stop in zip(counts, np.cumsum(counts))]
        self.flat = [len(solid.shape.slabs) for solid in solids]
        u, v, t = lens.place(np.stack([solid.corners for solid in solids], 1))  # each (S, 8)
        self.frames = np.stack([u.min(1), u.max(1), v.min(1), v.max(1)], 1)
        self.frames[(t < 0.05).any(1)] = (-np.inf, np.inf, -np.inf, np.inf)  # reaches behind the lens

    def span(self, number: int, u: np.ndarray, v: np.ndarray) -> Span:
        """Where rays enter and leave a solid, in multiples of their direction; they miss it if not near < far."""
        origin = _affine(self.origin[self.parts[number]], u, v)
        direction = _affine(self.direction[self.parts[number]], u, v)
        flat = self.flat[number]
        near, far = np.array(-np.inf, np.float32), np.array(np.inf, np.float32)
        if flat:
            inverse = 1 / (direction[:flat] + np.float32(1e-12))  # never 1 / 0, even along a slab
            middle, reach = origin[:flat] * -inverse, np.abs(inverse)
            near, far = (middle - reach).max(0), (middle + reach).min(0)
        if len(origin) > flat:
            origin, direction = origin[flat:], direction[flat:]
            square = (direction * direction).sum(0) + np.float32(1e-12)
            middle = (origin * direction).sum(0) / -square
            # From the point of closest approach, not from the far origin: b² − ac would cancel in float32.
            closest = origin + middle * direction
            inside = 1 - (closest * closest).sum(0)
            reach = np.sqrt(np.maximum(inside, 0) / square) * np.sign(inside)
            near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
        return near, far


def _affine(coefficients: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """``c₀ u + c₁ v + c₂`` (k, …) for coefficients (k, 3)."""
    a, b, c = coefficients.T.reshape(3, -1, *[1] * u.ndim)
    return a * u + (b * v + c) if coefficients[0, :2].any() or coefficients[:, :2].any() else c


def see(solids: Sequence[Solid], lens: Lens, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The first solid behind each pixel.

    Args:
        solids: the world.
        lens: of a camera.
        size: height and width of its picture, px.

    Returns:
        Depth along the optical axis in metres and index of the solid, both (H, W); ``inf`` and −1 in the sky.
    """
    height, width = size
    seen = Seen(solids, lens)
    depth, index = np.full(size, FAR, np.float32), np.full(size, -1, np.int16)
    u, v = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    low = np.ceil(np.clip(seen.frames[:, 0::2], 0, (width, height))).astype(int).tolist()
    high = np.floor(np.clip(seen.frames[:, 1::2], -1, (width - 1, height - 1))).astype(int).tolist()
    for number, ((left, top), (right, bottom)) in enumerate(zip(low, high)):
        if left > right or top > bottom:
            continue
        part = np.s_[top : bottom + 1, left : right + 1]
        near, far = seen.span(number, u[:, part[1]], v[part[0]])
        closer = (near < np.minimum(far, depth[part])) & (near > 0)
        np.copyto(depth[part], near, where=closer)
        np.copyto(index[part], np.int16(number), where=closer)
    depth[index < 0] = np.inf
    return depth, index


def hidden(solids: Sequence[Solid], lens: Lens, points: np.ndarray) -> np.ndarray:
    """Which points on surfaces (3, N) a solid hides from the lens, (N,)."""
    u, v, t = lens.place(points)
    t = t * np.float32(1 - 1e-4)  # float32 leaves a few 1e-6
    result = np.zeros(t.shape, bool)
    seen = Seen(solids, lens)
    for number, (left, right, top, bottom) in enumerate(seen.frames.astype(np.float32)):
        rows = np.flatnonzero((u > left) & (u < right) & (v > top) & (v < bottom))
        if rows.size:
            near, far = seen.span(number, u.take(rows), v.take(rows))
            result[rows] |= (near < np.minimum(far, t.take(rows))) & (near > 0)
    return result


def normal(solid: Solid, offset: np.ndarray) -> np.ndarray:
    """Outward unit normals (3, N) at points of its surface, which are given from its centre, (3, N) metres."""
    flat = len(solid.shape.slabs)
    rows = solid.rows.astype(np.float32)
    x, y, z = offset
    height = np.stack([a * x + b * y + c * z for a, b, c in rows])
    result = np.zeros_like(offset)
    best = np.float32(0)
    if solid.shape.round:
        result = np.stack([sum(r[i] * h for r, h in zip(rows[flat:], height[flat:])) for i in range(3)])
        best = np.sqrt((height[flat:] ** 2).sum(0))
    if flat:
        face = np.abs(height[:flat]).argmax(0)
        top = np.take_along_axis(height[:flat], face[None], 0)[0]
        result = np.where(np.abs(top) > best, rows.T[:, face] * np.sign(top), result)
    return result / np.sqrt((result * result).sum(0))
