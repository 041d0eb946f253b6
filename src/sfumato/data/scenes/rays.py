"""Intersections of rays and solids.

A ray is inside a slab, or inside the round part of a shape, between ``middle − reach`` and ``middle + reach``. So it is
inside the solid between the largest lower end and the smallest upper end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfumato.data.scenes.lens import Lens
from sfumato.data.scenes.solids import Shape, Solid

FAR = 60.0  # meters; beyond it there is only sky
Span = tuple[np.ndarray, np.ndarray]


class Bodies:
    """Solids in stacked arrays, so that all of them are projected at once. The first one is the ground."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        counts = [len(solid.rows) for solid in solids]
        self.shapes: list[Shape] = [solid.shape for solid in solids]
        self.rows = np.concatenate([solid.rows for solid in solids])
        self.centers = np.array([solid.center for solid in solids]).repeat(counts, 0)
        self.stops: list[int] = np.cumsum(counts).tolist()
        self.corners = np.stack([solid.corners for solid in solids], 1)
        self.endless = np.array(counts) < 3


class Sight:
    """The solids in the coordinates of the rays of one lens.

    Args:
        bodies: The solids of the world.
        lens: The family of rays.

    Attributes:
        frames: Bounds (S, 5) of each solid: lowest and highest u, lowest and highest v, lowest t.
    """

    def __init__(self, bodies: Bodies, lens: Lens) -> None:
        self.bodies, self.lens = bodies, lens
        both = lens.through(bodies.rows, bodies.centers)
        origins, directions = (np.where(np.abs(c) < 1e-9, 0, c).tolist() for c in both)
        self.rows = list(zip(origins, directions))
        u, v, t = lens.place(bodies.corners)  # each (S, 8)
        self.frames = np.stack([u.min(1), u.max(1), v.min(1), v.max(1), t.min(1)], 1)
        behind = self.frames[:, 4] < 0.05
        self.frames[bodies.endless | behind] = (-np.inf, np.inf, -np.inf, np.inf, -np.inf)

    def span(self, number: int, u: np.ndarray, v: np.ndarray) -> Span:
        """Where rays enter and leave a solid, in multiples of their direction. They miss it unless near < far."""
        shape, stop = self.bodies.shapes[number], self.bodies.stops[number]
        start, turn = stop - len(shape.slabs) - len(shape.round), stop - len(shape.round)
        near, far = np.array(-np.inf, np.float32), np.array(np.inf, np.float32)
        for origin, direction in self.rows[start:turn]:
            inverse = 1 / (_affine(direction, u, v) + np.float32(1e-12))  # never 1 / 0, even along a slab
            middle, reach = -_affine(origin, u, v) * inverse, np.abs(inverse)
            near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
        if shape.round:
            middle, reach = _round([(_affine(o, u, v), _affine(d, u, v)) for o, d in self.rows[turn:stop]])
            near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
        return near, far

    def first(self, size: tuple[int, int]) -> Span:
        """The first solid that the ray of each pixel meets.

        Args:
            size: Height and width of the picture, px.

        Returns:
            Depth along the optical axis in meters, and index of the solid, both (H, W); ``inf`` and −1 in the sky.
        """
        height, width = size
        depth, index = np.full(size, FAR, np.float32), np.full(size, -1, np.int16)
        u, v = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
        low = np.ceil(np.clip(self.frames[:, 0:4:2], 0, (width, height))).astype(int).tolist()
        high = np.floor(np.clip(self.frames[:, 1:4:2], -1, (width - 1, height - 1))).astype(int).tolist()
        for number, ((left, top), (right, bottom)) in enumerate(zip(low, high)):
            if left > right or top > bottom:
                continue
            part = np.s_[top : bottom + 1, left : right + 1]
            near, far = self.span(number, u[:, part[1]], v[part[0]])
            closer = (near < np.minimum(far, depth[part])) & (near > 0)
            np.copyto(depth[part], near, where=closer)
            np.copyto(index[part], np.int16(number), where=closer)
        depth[index < 0] = np.inf
        return depth, index

    def hides(self, u: np.ndarray, v: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Whether a solid is in front of points on surfaces (N,), whose (u, v, t) come from :meth:`Lens.place`."""
        t = t * np.float32(1 - 1e-4)  # float32 is exact to a few 1e-6
        result = np.zeros(t.shape, bool)
        frames = self.frames.astype(np.float32)
        for number in range(1, len(frames)):  # the ground hides nothing above it
            left, right, top, bottom, front = frames[number]
            rows = np.flatnonzero((u > left) & (u < right))
            vs, ts = v.take(rows), t.take(rows)
            some = np.flatnonzero((ts > front) & (vs > top) & (vs < bottom))
            if some.size:
                rows, vs, ts = rows.take(some), vs.take(some), ts.take(some)
                near, far = self.span(number, u.take(rows), vs)
                result[rows] |= (near < np.minimum(far, ts)) & (near > 0)
        return result


def _affine(coefficients: Sequence[float], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """``a u + b v + c`` in the smallest array that holds it: terms whose factor is 0 are left out."""
    a, b, c = coefficients
    rest = b * v + np.float32(c) if b else np.float32(c)
    return a * u + rest if a else np.asarray(rest)


def _round(rows: Sequence[Span]) -> Span:
    """Middle and reach of rays inside the round part of a shape. Each row is an origin and a direction on one axis."""
    square = sum((d * d for _, d in rows), np.full((), 1e-12, np.float32))
    middle = sum((o * d for o, d in rows), np.zeros((), np.float32)) / -square
    # Computed at the point of closest approach, because b² − ac from the far origin would cancel in float32.
    inside = np.ones((), np.float32)
    for origin, direction in rows:
        closest = origin + middle * direction
        inside = inside - closest * closest
    return middle, np.sqrt(np.maximum(inside, 0) / square) * np.sign(inside)
