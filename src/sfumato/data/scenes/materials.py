"""Materials: their colors and patterns, the probabilities of their classes, and the noise of their depth.

A material is visible. So the noise of a pixel's class (:attr:`Material.class_probs`) and of its depth
(:attr:`Material.sigma`) is a function of what the picture shows, which a network can learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Vectors = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y and z, (N,) each
# from position (meters), normal and width of a pixel on the surface (N,) meters to the share of the second color (N,)
Pattern = Callable[[Vectors, Vectors, np.ndarray], np.ndarray]
Color = tuple[float, float, float]
TEXTURES = ("rich", "poor", "repetitive")
"""How a surface looks: unlike itself everywhere, almost of one color, or the same again after some distance."""
RICH, POOR, REPETITIVE = range(3)


@dataclass(frozen=True)
class Material:
    """The material of a solid.

    Args:
        pattern: The function that mixes two colors over the surface.
        palette: Pairs of colors (sRGB, 0 to 1). Each solid takes one pair.
        sigma: Standard deviation of the logarithm of depth at 10 m, see :func:`depth_sigma`.
        class_probs: Probabilities of classes, for a material whose class is ambiguous. Default: the kind of the solid.
        texture: The index in :data:`TEXTURES`, which says how well a point can be found in another picture. Default 0.
    """

    pattern: Pattern
    palette: tuple[tuple[Color, Color], ...]
    sigma: float
    class_probs: dict[str, float] = field(default_factory=dict)
    texture: int = 0


def depth_sigma(sigma: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The standard deviation of log-depth: ``sigma · (½ + depth / 20 m)``. Far surfaces have more noise."""
    return sigma * (0.5 + depth / 20)


# Wave vectors of plane waves in irregular directions, with wavelengths from 1 down to 1/7. Their sum looks like noise
# and is fast. A wave is left out where a pixel is larger than the wavelength.
_TURNS = np.linspace(0, 4.4, 7)
_TILT = np.array([0.1, 0.9, -0.5, 0.4, -0.8, 0.6, -0.2])
_WAVES = np.stack([np.cos(_TURNS**2) * np.cos(_TILT), np.sin(_TURNS**2) * np.cos(_TILT), np.sin(_TILT)], 1)
_WAVES = (2 * np.pi * np.geomspace(1, 7, 7)[:, None] * _WAVES).astype(np.float32)


def fade(footprint: np.ndarray, size: float) -> np.ndarray:
    """1 where a pixel is smaller than details of this size (meters), down to 0 where it is larger."""
    return 1 / (1 + (footprint * (1.5 / size)) ** 2)


def noise(position: Vectors, footprint: np.ndarray, size: float) -> np.ndarray:
    """Smooth noise (N,) around 0, almost all within ±1. Its largest features are ``size`` meters wide."""
    total = np.zeros_like(footprint)
    x, y, z = (p * np.float32(1 / size) for p in position)
    for i, (a, b, c) in enumerate(_WAVES):
        wave = np.sin(a * x + b * y + c * z + np.float32(1.7 * i) + total)  # the waves before it shift its phase
        total += np.float32(0.5 / (1 + 0.35 * i)) * wave * fade(footprint, size / (1 + i))
    return total * np.float32(0.6)


def surface(position: Vectors, normal: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Two coordinates along the face of a solid: across and up, or both horizontal on top."""
    x, y, z = position
    steep, east = np.abs(normal[2]) < 0.7, np.abs(normal[0]) > np.abs(normal[1])
    return np.where(steep & east, y, x), np.where(steep, z, y)


def _fraction(value: np.ndarray) -> np.ndarray:
    return value - np.floor(value)  # five times faster than % 1


def hashed(a: np.ndarray, b: np.ndarray | float = 0.0) -> np.ndarray:
    """A number in [0, 1) for a pair of whole numbers."""
    return _fraction(np.sin(a * np.float32(12.9898) + b * np.float32(4.1414)) * np.float32(437.585))


def speckle(size: float) -> Pattern:
    """An irregular pattern, as of grass, sand or rust."""

    def pattern(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
        return 0.5 + 0.5 * noise(position, footprint, size)

    return pattern


def tiles(width: float, height: float, joint: float, offset: float = 0.0, variety: float = 0.3) -> Pattern:
    """Bricks, slabs or planks: rectangles of slightly different shades, with joints of the second color."""

    def pattern(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
        across, up = surface(position, normal)
        row = np.floor(up / height)
        column = across / width + offset * (row - 2 * np.floor(row / 2))
        inside_u, inside_v = _fraction(column) * width, up - row * height
        edge = np.minimum(np.minimum(inside_u, width - inside_u), np.minimum(inside_v, height - inside_v))
        shade = variety * hashed(np.floor(column), row)
        lines = (edge < joint / 2).astype(np.float32)
        mean = 1 - (1 - joint / width) * (1 - joint / height)
        faded = fade(footprint, min(width, height))
        return (shade + (1 - shade) * lines) * faded + (variety / 2 + mean) * (1 - faded)

    return pattern


def windows(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
    """A façade with windows of the second color."""
    across, up = surface(position, normal)
    u, v = _fraction(across / 2.2), _fraction((up + 0.6) / 2.6)
    pane = (np.abs(u - 0.5) < 0.24) & (np.abs(v - 0.55) < 0.27)
    bars = (np.abs(u - 0.5) < 0.02) | (np.abs(v - 0.6) < 0.02)
    return pane * (1 - 0.6 * bars) * (np.abs(normal[2]) < 0.7) * fade(footprint, 1.0) + 0.0 * u


def bands(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
    """Segments around the vertical axis, as of a beach ball."""
    angle = np.arctan2(normal[1], normal[0])
    return 0.5 + 0.5 * np.clip(np.sin(4 * angle) * 6, -1, 1) * fade(footprint, 0.25)


def brushed(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
    """Bright and dark streaks that depend on the normal, as of metal."""
    return 0.5 + 0.5 * np.sin(5 * normal[0] + 3 * normal[1] + 2 * normal[2])


def checker(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
    """Cubes of two colors."""
    x, y, z = (np.sin(p * np.float32(np.pi / 0.22)) for p in position)
    return 0.5 + 0.5 * np.clip(x * y * z * 12, -1, 1) * fade(footprint, 0.22)


def stripes(position: Vectors, normal: Vectors, footprint: np.ndarray) -> np.ndarray:
    """Slanted stripes of two colors."""
    wave = np.sin((position[0] + position[1] + 1.6 * position[2]) * np.float32(np.pi / 0.2))
    return 0.5 + 0.5 * np.clip(wave * 4, -1, 1) * fade(footprint, 0.2)


GRASS = Material(
    speckle(0.7), (((0.30, 0.46, 0.16), (0.52, 0.62, 0.28)), ((0.24, 0.42, 0.20), (0.42, 0.58, 0.24))), 0.20
)
SAND = Material(
    speckle(1.1), (((0.74, 0.62, 0.42), (0.88, 0.78, 0.58)), ((0.66, 0.52, 0.36), (0.80, 0.68, 0.50))), 0.12
)
PAVING = Material(tiles(0.9, 0.9, 0.05, 0.5, 0.35), (((0.66, 0.64, 0.62), (0.42, 0.41, 0.41)),), 0.08)
GRAVEL = Material(speckle(0.28), (((0.36, 0.34, 0.40), (0.80, 0.76, 0.80)),), 0.28, {"ground": 0.7, "path": 0.3})
BRICK = Material(tiles(0.5, 0.2, 0.04, 0.5, 0.45), (((0.64, 0.27, 0.19), (0.80, 0.74, 0.68)),
                                                     ((0.56, 0.22, 0.20), (0.74, 0.70, 0.66))), 0.12)  # fmt: skip
FACADE = Material(windows, (((0.90, 0.82, 0.64), (0.20, 0.27, 0.36)), ((0.87, 0.66, 0.52), (0.22, 0.26, 0.34)),
                            ((0.86, 0.88, 0.88), (0.22, 0.30, 0.38)), ((0.66, 0.76, 0.80), (0.18, 0.24, 0.32))),
                  0.08, texture=REPETITIVE)  # fmt: skip
CONCRETE = Material(tiles(1.2, 0.6, 0.05, 0.0, 0.25), (((0.52, 0.54, 0.54), (0.32, 0.33, 0.34)),), 0.16,
                    {"wall": 0.4, "box": 0.6})  # fmt: skip
WOOD = Material(tiles(8.0, 0.16, 0.03, 0.3, 0.45), (((0.66, 0.45, 0.25), (0.30, 0.18, 0.10)),
                                                     ((0.56, 0.35, 0.20), (0.26, 0.15, 0.09))), 0.12)  # fmt: skip
PAINT = Material(speckle(1.5), (((0.20, 0.38, 0.72), (0.26, 0.45, 0.78)), ((0.90, 0.70, 0.16), (0.95, 0.78, 0.24)),
                                ((0.88, 0.87, 0.84), (0.94, 0.93, 0.90)), ((0.16, 0.48, 0.42), (0.22, 0.56, 0.48)),
                                ((0.72, 0.16, 0.16), (0.80, 0.22, 0.20))), 0.08, texture=POOR)  # fmt: skip
RUBBER = Material(bands, (((0.92, 0.90, 0.86), (0.78, 0.18, 0.20)), ((0.92, 0.90, 0.86), (0.16, 0.36, 0.66)),
                          ((0.94, 0.78, 0.24), (0.18, 0.42, 0.36))), 0.20)  # fmt: skip
STEEL = Material(brushed, (((0.42, 0.46, 0.52), (0.84, 0.88, 0.92)),), 0.48, texture=POOR)
RUST = Material(speckle(0.35), (((0.34, 0.15, 0.08), (0.78, 0.42, 0.18)),), 0.36, {"cylinder": 0.7, "pole": 0.3})
# For novel objects only. Their patterns and colors occur nowhere else.
NEON = Material(
    checker,
    (((0.95, 0.10, 0.75), (0.10, 0.06, 0.14)), ((0.10, 0.95, 0.90), (0.50, 0.08, 0.70))),
    0.20,
    texture=REPETITIVE,
)
SIGNAL = Material(
    stripes,
    (((0.55, 0.98, 0.10), (0.45, 0.05, 0.70)), ((0.98, 0.35, 0.85), (0.05, 0.80, 0.85))),
    0.20,
    texture=REPETITIVE,
)
