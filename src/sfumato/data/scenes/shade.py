"""The colors of surfaces and of the sky.

Every surface is Lambertian, so a point has the same color in all views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sfumato.data.scenes.lens import sunshine
from sfumato.data.scenes.materials import Vectors, noise
from sfumato.data.scenes.rays import FAR, Sight
from sfumato.data.scenes.solids import Solid, normal
from sfumato.data.scenes.world import Light, World


@dataclass(frozen=True)
class Hits:
    """The points where rays end, sorted by solid.

    Args:
        points: (3, N) meters. In the sky they may be anything.
        rays: Directions (3, N) of any length.
        depth: (N,) meters, ``inf`` in the sky.
        index: The index of the solid (N,) in ascending order, −1 in the sky.
        pixel: Width of a pixel at a distance of 1 m, meters.
    """

    points: np.ndarray
    rays: np.ndarray
    depth: np.ndarray
    index: np.ndarray
    pixel: float


def colors(world: World, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Linear red, green and blue, and whether the sun shines there, (N,) each."""
    direction = hits.rays / np.sqrt((hits.rays * hits.rays).sum(0))
    color, lit = np.empty_like(direction), np.zeros(hits.index.shape, bool)
    sky = int(np.searchsorted(hits.index, 0))
    color[:, :sky] = _sky(world.light, direction[:, :sky])
    if sky < hits.index.size:
        normals, albedo = np.empty_like(direction), np.empty_like(direction)
        for number, part in _groups(hits.index, sky):
            solid, size = world.solids[number], hits.depth[part] * np.float32(hits.pixel)
            offset = tuple(x[part] - np.float32(c) for x, c in zip(hits.points, solid.center))
            outward = normal(solid, offset)
            slant = np.abs(sum(n * r[part] for n, r in zip(outward, direction)))
            share = _share(solid, offset, outward, size / np.maximum(slant, np.float32(0.08)))
            for i, (first, second) in enumerate(solid.colors.T):
                normals[i, part], albedo[i, part] = outward[i], first + (second - first) * share
        met = np.s_[..., sky:]
        lit[met], color[met] = _shade(world, hits.points[met], normals[met], albedo[met], hits.depth[met])
    return (*color, lit)


def _groups(index: np.ndarray, start: int) -> Iterator[tuple[int, slice]]:
    """The values of a sorted array from ``start`` on, and the slice of each of them."""
    stops = [*(np.flatnonzero(np.diff(index[start:])) + start + 1), len(index)]
    for begin, stop in zip([start, *stops], stops):
        yield int(index[begin]), slice(begin, stop)


def _share(solid: Solid, offset: Vectors, outward: Vectors, footprint: np.ndarray) -> np.ndarray:
    """The share of the second color of a solid (N,) at these offsets from its center."""
    c, s = solid.own_from_world[0, :2].astype(np.float32)
    own, facing = ((c * x + s * y, c * y - s * x, z) for x, y, z in (offset, outward))
    x, y, z = (p + np.float32(solid.phase) for p in own)
    return np.clip(solid.material.pattern((x, y, z), facing, footprint), 0, 1)


def _shade(
    world: World, points: np.ndarray, normals: np.ndarray, albedo: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the sun reaches surfaces (N,), and their color (3, N) from sun, sky, light from the ground, and haze."""
    light, sun = world.light, world.light.towards_sun
    cosine = normals[0] * sun[0] + normals[1] * sun[1] + normals[2] * sun[2]
    lit = cosine > 0
    rows = np.flatnonzero(lit)
    sunny = sunshine(sun.astype(float))
    lit[rows] = ~Sight(world.bodies, sunny).hides(*sunny.place(points.take(rows, 1)))
    up = np.float32(0.5) + np.float32(0.5) * normals[2]
    # Near the ground less light comes from the sky.
    corner = 1 - np.float32(0.45) * np.exp(-3 * np.maximum(points[2], 0)) * (1 - np.abs(normals[2]))
    direct = np.float32(1.1 - 0.5 * light.clouds) * cosine * lit
    above, below = up * corner, (1 - up) * corner
    haze = 1 - np.exp(-((depth * np.float32(1 / FAR)) ** 2))
    color = np.empty_like(albedo)
    for i in range(3):
        ambient = 0.35 * light.zenith[i] + 0.25 * light.horizon[i]
        seen = albedo[i] * (light.sun[i] * (direct + np.float32(0.16) * below) + ambient * above)
        color[i] = seen + (light.horizon[i] - seen) * haze
    return lit, color


def _sky(light: Light, direction: np.ndarray) -> np.ndarray:
    """Colors (3, N) of the sky in unit directions: a gradient, clouds, and a glow around the sun."""
    height = np.clip(direction[2], 0, 1)
    base = light.horizon[:, None] + (light.zenith - light.horizon)[:, None] * np.sqrt(height * (2 - height))
    above = np.maximum(height, np.float32(0.02))
    roof = (direction[0] / above, direction[1] / above, np.full_like(above, 7 * light.towards_sun[0]))
    thick = noise(roof, 0.004 / above**2, 2.5) + np.float32(light.clouds - 0.55)
    cloud = np.clip(thick * 1.6, 0, 1) * np.clip(height * 6, 0, 1) * np.float32(0.85)
    white = (0.25 + 0.75 * light.sun)[:, None]
    towards = (
        direction[0] * light.towards_sun[0] + direction[1] * light.towards_sun[1] + direction[2] * light.towards_sun[2]
    )
    glow = np.maximum(towards, 0) ** 24
    return base + (white - base) * cloud + light.sun[:, None] * glow * np.float32(0.5)
