"""Objects that move by themselves between two times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfumato.data.scenes.solids import Solid
from sfumato.data.scenes.world import World

SHARE = 0.5  # of objects that move


@dataclass(frozen=True)
class Motion:
    """A rigid motion for each solid: a turn about a vertical axis, then a shift. The sky, index −1, stays.

    Args:
        pivots: A point of each axis (S + 1, 3), meters; the last is that of the sky.
        shifts: (S + 1, 3), meters.
        turns: (S + 1,), radians, counter-clockwise seen from above.
    """

    pivots: np.ndarray
    shifts: np.ndarray
    turns: np.ndarray

    @property
    def moves(self) -> np.ndarray:
        """(S + 1,) bool: which solids move."""
        return (self.shifts != 0).any(1) | (self.turns != 0)

    def forward(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where points (3, H, W) meters of the solids ``index`` (H, W) are afterwards."""
        return self._applied(points, index, self.turns, self.pivots, self.pivots + self.shifts)

    def backward(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where points (3, H, W) meters of the solids ``index`` (H, W) were before."""
        return self._applied(points, index, -self.turns, self.pivots + self.shifts, self.pivots)

    def world(self, world: World, times: float) -> World:
        """The world after ``times`` such motions; a negative number goes back."""
        moves = self.moves
        solids = tuple(
            self._moved(solid, number, times) if moves[number] else solid for number, solid in enumerate(world.solids)
        )
        return World(solids, world.light)

    def _moved(self, solid: Solid, number: int, times: float) -> Solid:
        turn, pivot = times * self.turns[number], self.pivots[number]
        x, y, z = np.array(solid.center) - pivot
        c, s = np.cos(turn), np.sin(turn)
        center = pivot + times * self.shifts[number] + (c * x - s * y, s * x + c * y, z)
        return replace(solid, center=tuple(center.tolist()), yaw=solid.yaw + float(turn))

    def _applied(
        self, points: np.ndarray, index: np.ndarray, turns: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> np.ndarray:
        rows = self.moves[index]
        if not rows.any():
            return points
        found, solids = points.copy(), index[rows]
        old, new = (place.astype(np.float32).T[:, solids] for place in (before, after))
        x, y, z = points[:, rows] - old
        c, s = np.cos(turns).astype(np.float32)[solids], np.sin(turns).astype(np.float32)[solids]
        found[:, rows] = np.stack([c * x - s * y, s * x + c * y, z]) + new
        return found


def motions(solids: Sequence[Solid], rng: np.random.Generator, reach: float, rise: float = 0.0) -> Motion:
    """Random motions of about half of the objects. The solids of one object move together.

    Args:
        solids: The solids of a world.
        rng: Source of random numbers.
        reach: The longest shift, as a share of the distance from the origin of the world along y.
        rise: The share of the shift that goes up or down, for objects that float. Default 0: they stay on the ground.
    """
    count = len(solids)
    pivots, shifts, turns = np.zeros((count + 1, 3)), np.zeros((count + 1, 3)), np.zeros(count + 1)
    instances = np.array([solid.instance for solid in solids])
    for instance in range(1, int(instances.max(initial=0)) + 1):
        moving, length, angle, turn, up = rng.random() < SHARE, *rng.random(4)
        rows = np.flatnonzero(instances == instance).tolist()
        if not (moving and rows):
            continue
        pivots[rows] = pivot = np.mean([solids[row].center for row in rows], axis=0)
        step, around = reach * length * pivot[1], 2 * np.pi * angle
        shifts[rows] = (step * np.cos(around), step * np.sin(around), rise * step * (2 * up - 1))
        turns[rows] = 0.3 * (turn - 0.5)
    return Motion(pivots, shifts, turns)
