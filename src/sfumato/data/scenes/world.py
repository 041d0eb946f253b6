"""A random world: a yard, a street or an open field, with objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sfumato.data.scenes import materials as m
from sfumato.data.scenes.rays import Bodies
from sfumato.data.scenes.solids import BALL, BOX, GEM, GROUND, NOVEL, STRIP, TUBE, Shape, Solid, Triple

CLASSES = ("sky", "ground", "path", "wall", "box", "sphere", "cylinder", "pole")
PALETTE = ((134, 190, 226), (118, 150, 72), (178, 160, 140), (186, 96, 72), (226, 168, 60), (200, 64, 110),
           (70, 110, 180), (60, 60, 72))  # fmt: skip


@dataclass(frozen=True)
class Light:
    """Linear colors of the sun and the sky (overhead and at the horizon), the direction of the sun, and the clouds."""

    sun: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    towards_sun: np.ndarray
    clouds: float


@dataclass(frozen=True)
class World:
    """All that a camera can see. The first solid is the ground."""

    solids: tuple[Solid, ...]
    light: Light

    @cached_property
    def bodies(self) -> Bodies:
        """The solids as rays meet them."""
        return Bodies(self.solids)


# sun, zenith, horizon (sRGB); lowest and highest sun (degrees); clouds
_MOODS = (
    ((1.00, 0.95, 0.86), (0.25, 0.47, 0.80), (0.74, 0.85, 0.94), 35, 65, 0.35),  # a clear day
    ((0.96, 0.93, 0.90), (0.45, 0.60, 0.78), (0.84, 0.88, 0.91), 35, 65, 0.75),  # a cloudy day
    ((1.00, 0.76, 0.50), (0.33, 0.44, 0.70), (0.97, 0.80, 0.62), 16, 28, 0.50),  # evening
    ((1.00, 0.86, 0.78), (0.42, 0.55, 0.82), (0.95, 0.85, 0.86), 20, 35, 0.45),  # morning
)


def _linear(color: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(color, np.float32) ** 2


def daylight(rng: np.random.Generator) -> Light:
    """The light of a random time of day."""
    sun, zenith, horizon, low, high, clouds = _MOODS[rng.choice(len(_MOODS), p=[0.4, 0.25, 0.2, 0.15])]
    up, around = np.radians(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi)
    towards = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], np.float32)
    return Light(_linear(sun), _linear(zenith), _linear(horizon), towards, clouds)


class _Builder:
    """The solids of a world that is being built."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.solids: list[Solid] = []
        self.width = 30.0  # half the width of the area with objects, meters
        self.instances = 0

    def add(
        self,
        shape: Shape,
        kind: str,
        material: m.Material,
        center: Triple,
        half: Triple,
        yaw: float = 0.0,
        instance: int = 0,
    ) -> None:
        colors = np.array(material.palette[self.rng.integers(len(material.palette))])
        colors = _linear(np.clip(colors * self.rng.uniform(0.9, 1.08) + self.rng.uniform(-0.025, 0.025, 3), 0, 1))
        phase = self.rng.uniform(0, 50)
        self.solids.append(Solid(shape, kind, material, center, half, yaw, colors, phase, instance))

    def pick(self, *options: m.Material, p: Sequence[float] | None = None) -> m.Material:
        return options[self.rng.choice(len(options), p=p)]

    def free_place(self, radius: float) -> tuple[float, float] | None:
        """A free place for an object of this radius (meters), mostly near and in view; None if none was found."""
        for _ in range(20):
            y = np.exp(self.rng.uniform(np.log(3.2 + radius), np.log(28)))
            x = self.rng.uniform(-0.6, 0.6) * y
            if abs(x) + radius < self.width and all(_distance(s, x, y) > radius + 0.15 for s in self.solids):
                return x, y
        return None

    def next_instance(self) -> int:
        self.instances += 1
        return self.instances


def _distance(solid: Solid, x: float, y: float) -> float:
    """From a point on the ground to a solid, meters. Flat solids are not in the way."""
    if solid.center[2] + solid.half[2] < 0.1:
        return math.inf
    dx, dy = x - solid.center[0], y - solid.center[1]
    c, s = math.cos(solid.yaw), math.sin(solid.yaw)
    return math.hypot(max(abs(c * dx + s * dy) - solid.half[0], 0), max(abs(c * dy - s * dx) - solid.half[1], 0))


def _lay_ground(b: _Builder) -> None:
    rng = b.rng
    b.add(GROUND, "ground", b.pick(m.GRASS, m.SAND, p=[0.7, 0.3]), (0, 0, -1), (200, 200, 1))
    if rng.random() < 0.65:
        b.add(STRIP, "path", m.PAVING, (rng.uniform(-1.5, 1.5), 30, 0), (rng.uniform(1.0, 2.4), 60, 0.01),
              rng.uniform(-0.25, 0.25))  # fmt: skip
    for _ in range(rng.integers(0, 3)):
        y = rng.uniform(4, 16)
        b.add(TUBE, "ground", m.GRAVEL, (rng.uniform(-0.5, 0.5) * y, y, 0),
              (rng.uniform(1.5, 4), rng.uniform(1.2, 3), 0.02), rng.uniform(0, np.pi))  # fmt: skip


def _wall(b: _Builder, x: float, y: float, length: float, height: float, yaw: float) -> None:
    material = b.pick(m.BRICK, m.FACADE, m.CONCRETE, p=[0.35, 0.4, 0.25] if height > 2.4 else [0.55, 0.0, 0.45])
    b.add(BOX, "wall", material, (x, y, height / 2), (length / 2, 0.15, height / 2), yaw)


def _street(b: _Builder) -> None:
    """Walls of different height along both sides."""
    b.width = b.rng.uniform(3.8, 8)
    for side in (-1, 1):
        y = b.rng.uniform(-2, 3)
        while y < 40:
            length = b.rng.uniform(6, 14)
            if b.rng.random() < 0.85:
                out = b.width + b.rng.uniform(0.2, 0.8)
                _wall(b, side * out, y + length / 2, length, b.rng.uniform(2, 7), np.pi / 2)
            y += length + b.rng.choice([0.0, 2.5])


def _yard(b: _Builder) -> None:
    """Two walls at the back, and one or two at the sides."""
    back, b.width = b.rng.uniform(12, 34), b.rng.uniform(6, 14)
    height = b.rng.uniform(1.6, 4.5)
    turn = b.rng.uniform(-0.15, 0.15)
    _wall(b, -b.width, back, 2 * b.width, height, turn)
    _wall(b, b.width, back - 2 * b.width * np.sin(-turn), 2 * b.width, height * b.rng.uniform(0.7, 1.3), turn)
    for side in b.rng.choice([-1, 1], b.rng.integers(1, 3), replace=False):
        _wall(b, side * b.width, back / 2 + 2, back, b.rng.uniform(1.5, 4), np.pi / 2)


def _field(b: _Builder) -> None:
    """A few single walls."""
    for _ in range(b.rng.integers(1, 4)):
        length = b.rng.uniform(4, 9)
        if place := b.free_place(length / 2):
            _wall(b, *place, length, b.rng.uniform(1.2, 3), b.rng.uniform(-0.7, 0.7))


def _box(b: _Builder) -> None:
    half = b.rng.uniform(0.25, 0.85, 3)
    if place := b.free_place(float(np.hypot(*half[:2]))):
        b.add(BOX, "box", b.pick(m.WOOD, m.PAINT, m.CONCRETE, p=[0.35, 0.3, 0.35]), (*place, half[2]), tuple(half),
              b.rng.uniform(0, np.pi), b.next_instance())  # fmt: skip


def _sphere(b: _Builder) -> None:
    r = b.rng.uniform(0.3, 0.8)
    if place := b.free_place(r):
        b.add(BALL, "sphere", b.pick(m.RUBBER, m.PAINT), (*place, r), (r, r, r), b.rng.uniform(0, np.pi),
              b.next_instance())  # fmt: skip


def _cylinder(b: _Builder) -> None:
    r, h = b.rng.uniform(0.25, 0.6), b.rng.uniform(0.35, 1.1)
    if place := b.free_place(r):
        b.add(TUBE, "cylinder", b.pick(m.STEEL, m.PAINT, m.RUST), (*place, h), (r, r, h), 0.0, b.next_instance())


def _pole(b: _Builder) -> None:
    r, h = b.rng.uniform(0.05, 0.11), b.rng.uniform(1.2, 2.6)
    if place := b.free_place(r):
        b.add(TUBE, "pole", b.pick(m.STEEL, m.WOOD, m.RUST, p=[0.5, 0.3, 0.2]), (*place, h), (r, r, h), 0.0,
              b.next_instance())  # fmt: skip


def _novel(b: _Builder) -> None:
    """An octahedron, three crossing spindles, a star of two boxes, or a pile of flattened balls."""
    size, yaw = b.rng.uniform(0.6, 1.0), b.rng.uniform(0, np.pi)
    place = b.free_place(size)
    if place is None:
        return
    material, instance = b.pick(m.NEON, m.SIGNAL), b.next_instance()
    parts = (
        ((GEM, 1.2, (1, 1, 1.2), 0.0),),
        ((BALL, 1, (1, 0.3, 0.3), 0.0), (BALL, 1, (0.3, 1, 0.3), 0.0), (BALL, 1, (0.3, 0.3, 1), 0.0)),
        ((BOX, 1, (0.7, 0.7, 1), 0.0), (BOX, 1, (0.7, 0.7, 1), np.pi / 4)),
        ((BALL, 0.35, (0.9, 0.9, 0.35), 0.0), (BALL, 0.95, (0.65, 0.65, 0.35), 0.0), (GEM, 1.6, (0.5, 0.5, 0.5), 0.0)),
    )[b.rng.integers(4)]
    for shape, height, half, turn in parts:
        b.add(shape, NOVEL, material, (*place, size * height), tuple(size * np.array(half)), yaw + turn, instance)


def build(rng: np.random.Generator, novel: np.random.Generator | None = None) -> World:
    """A random world.

    Args:
        rng: Source of random numbers for all but novel objects.
        novel: Source of random numbers for novel objects. None for a world without them. They change nothing else.
            Default None.
    """
    b = _Builder(rng)
    light = daylight(rng)
    _lay_ground(b)
    (_street, _yard, _field)[rng.choice(3, p=[0.4, 0.35, 0.25])](b)
    makers = (_box, _sphere, _cylinder, _pole)
    for maker in rng.choice(4, rng.integers(6, 12), p=[0.35, 0.2, 0.25, 0.2]):
        makers[maker](b)
    if novel is not None:
        b.rng = novel
        for _ in range(novel.integers(2, 5)):
            _novel(b)
    return World(tuple(b.solids), light)
