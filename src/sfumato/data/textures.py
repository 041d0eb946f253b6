"""Generated pictures of nothing in particular: images without labels for distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.generated import check_place
from sfumato.errors import ConfigError
from sfumato.tasks import BaseTask

SIZE = (96, 128)
SPLITS: dict[str, tuple[int, int]] = {"train": (512, 0), "val": (100, 1)}  # number of pictures, and seed
Picture = np.ndarray  # (3, H, W) float32, about [0, 1] before it is clipped


@dataclass(frozen=True)
class Textures(Dataset[Sample]):
    """Pictures of noise, gratings, overlapping shapes and gradients, and mixtures of two of them. They have no labels.

    Noise has the amplitudes ``f^−β`` at the frequency f, with β between 0 (white) and 2 (clouds); natural images have
    about 1. Overlapping shapes ("dead leaves") have sizes with a power law, so that edges occur at all scales. Picture
    ``i`` depends on ``(seed, i)`` and the size only.

    A sample holds ``name`` and ``image`` (3, H, W) uint8.

    Args:
        count: Number of pictures, ≥ 1.
        size: (height, width), pixels, ≥ 1. Default (96, 128).
        seed: Seed of the pictures, ≥ 0. Default 0.

    Raises:
        ConfigError: If an argument is out of its range.
        IndexError: For an index beyond ``count``.

    Source: Baradad et al. (2021), "Learning to see by looking at noise", for such pictures as training images.
    """

    count: int
    size: tuple[int, int] = SIZE
    seed: int = 0
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    tasks: ClassVar[Mapping[str, BaseTask]] = {}
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    any_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count is {self.count}, expected at least 1 picture")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size is {self.size}, expected (height, width) of at least 1 px each")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")

    @property
    def names(self) -> list[str]:
        """``texture-SEED-INDEX``."""
        return [self._name(index) for index in range(self.count)]

    def _name(self, index: int) -> str:
        return f"texture-{self.seed}-{index:06d}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"texture {index} of {self.count}: expected 0 to {self.count - 1}")
        rng = np.random.default_rng((self.seed, index))
        picture = _mixture(rng, self.size) if rng.random() < 0.5 else _picture(rng, self.size)
        image = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
        return {"name": self._name(index), "image": torch.from_numpy(image)}


def open_textures(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> Textures:
    """The pictures of a split.

    Args:
        root: It must be empty, because textures need no files.
        split: ``train`` (512 pictures) or ``val`` (100). Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("textures", root, split, SPLITS)
    count, seed = SPLITS[split]
    return Textures(count, size or SIZE, seed)


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    kinds = (_noise, _noise, _gratings, _shapes, _shapes, _gradient)
    return kinds[rng.integers(len(kinds))](rng, size)


def _mixture(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """One picture in the spots of a cloud and another one elsewhere."""
    first, second, cloud = _picture(rng, size), _picture(rng, size), _field(rng, size, rng.uniform(1.0, 2.0))
    return np.where(cloud > rng.normal(0, 0.5), first, second)


def _field(rng: np.random.Generator, size: tuple[int, int], slope: float) -> np.ndarray:
    """Noise (H, W) whose amplitudes fall as ``f^−slope``, with mean 0 and standard deviation 1."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is 0
    amplitude = np.exp(np.float32(-slope) * np.log(frequency.astype(np.float32)))
    white = np.fft.rfft2(rng.standard_normal(size, np.float32))
    field = np.fft.irfft2(white * amplitude, s=size).astype(np.float32)
    return field / max(float(field.std()), 1e-6)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """Noise of one slope in three colors that are more or less alike."""
    slope, mixing = rng.uniform(0, 2), rng.normal(0, 1, (3, 3)).astype(np.float32)
    mixing[:, 0] += rng.choice((-2, 2))  # a part that all colors share, as brightness
    fields = np.stack([_field(rng, size, slope) for _ in range(3)])
    mixed = np.tensordot(mixing / np.linalg.norm(mixing, axis=1, keepdims=True), fields, 1)
    return _color(rng) + np.float32(rng.uniform(0.05, 0.35)) * mixed


def _gratings(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """One to three waves between two colors each, straight or bent, smooth or with sharp edges."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.zeros((3, *size), np.float32)
    waves = int(rng.integers(1, 4))
    for _ in range(waves):
        angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(max(size) / 2 + 4)))
        phase = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)
        wave = np.sin(phase + rng.uniform(0, 3) * _field(rng, size, 2.0)).astype(np.float32)
        share = np.clip(0.5 + np.float32(np.exp(rng.uniform(-0.7, 3))) * wave, 0, 1)
        picture += _color(rng) * share + _color(rng) * (1 - share)
    return picture / np.float32(waves)


def _shapes(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """Rectangles and ellipses on top of each other. Their sizes s have a density that falls as ``s^−2``."""
    picture = np.broadcast_to(_color(rng), (3, *size)).copy()
    smallest, largest = 0.02 * max(size), 0.5 * max(size)
    for _ in range(int(rng.integers(20, 200))):
        extent = smallest / (1 - rng.random() * (1 - smallest / largest))
        half = np.maximum(1, 0.5 * extent * np.exp(rng.normal(0, 0.4, 2)))
        middle = rng.uniform((0, 0), size)
        low = np.maximum(0, np.floor(middle - half)).astype(int)
        high = np.minimum(size, np.ceil(middle + half) + 1).astype(int)
        y, x = (np.arange(a, b, dtype=np.float32) for a, b in zip(low, high))
        v, u = (y[:, None] - middle[0]) / half[0], (x[None] - middle[1]) / half[1]
        inside = v * v + u * u <= 1 if rng.random() < 0.5 else (abs(v) <= 1) & (abs(u) <= 1)
        part = picture[:, low[0] : high[0], low[1] : high[1]]
        np.copyto(part, _color(rng) * (1 + np.float32(rng.uniform(-0.3, 0.3)) * u), where=inside)
    return picture + np.float32(rng.choice((0.0, rng.uniform(0, 0.2)))) * _field(rng, size, 1.0)


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> Picture:
    """A gradient between two colors, along a line or around a point, with some noise."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij")
    angle, (across, up) = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, 2)
    line = 0.5 + 0.4 * (np.cos(angle) * x + np.sin(angle) * y)
    share = line if rng.random() < 0.5 else np.hypot(x - across, y - up) / 2
    picture = _color(rng) * share + _color(rng) * (1 - share)
    return picture.astype(np.float32) + np.float32(rng.uniform(0, 0.08)) * _field(rng, size, rng.uniform(0, 2))


def _color(rng: np.random.Generator) -> np.ndarray:
    """A color (3, 1, 1), often a grayish one."""
    gray, spread = rng.uniform(0, 1), rng.uniform(0, 0.4)
    return np.clip(gray + spread * rng.uniform(-1, 1, (3, 1, 1)), 0, 1).astype(np.float32)
