"""Kinds of entries that have one value or vector for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from sfumato.targets.base import EntryKind, Size, Warp, per_image


@dataclass(frozen=True)
class Image(EntryKind):
    """A picture (C, H, W), uint8 or float32 in [0, 1].

    Args:
        bands: C, the number of color channels. Default 3.
    """

    bands: int = 3
    smooth: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        """C."""
        return self.bands

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """Bilinear interpolation that averages what it shrinks. uint8 is rounded to uint8.

        >>> Image().resize(torch.tensor([[[0, 255]]], dtype=torch.uint8), (1, 2), (1, 1))
        tensor([[[128]]], dtype=torch.uint8)
        """
        del old
        pixels = value.float().reshape(-1, *value.shape[-3:])
        found = interpolate(pixels, tuple(new), mode="bilinear", antialias=True)
        found = found.reshape(*value.shape[:-2], *new)
        return found.round().clamp(0, 255).byte() if value.dtype == torch.uint8 else found.clamp(0, 1)

    def to_float(self, value: Tensor) -> Tensor:
        """float32 in [0, 1]: uint8 is divided by 255."""
        return value.float() / 255 if value.dtype == torch.uint8 else value.float()


@dataclass(frozen=True)
class ClassMap(EntryKind):
    """The class of each pixel (H, W) int64."""

    dtype: ClassVar[torch.dtype] = torch.int64

    @property
    def channels(self) -> int:
        """0: there is no channel axis."""
        return 0

    def spread(self) -> EntryKind:
        """The epistemic part of a class prediction is a plain number."""
        return ScalarMap("nats")


@dataclass(frozen=True)
class Instances(ClassMap):
    """The id of the object at each pixel (H, W) int64; 0 where there is none."""


@dataclass(frozen=True)
class Mask(ClassMap):
    """True or False for each pixel (H, W) bool."""

    dtype: ClassVar[torch.dtype] = torch.bool


@dataclass(frozen=True)
class ScalarMap(EntryKind):
    """Values (D, H, W) that neither resizing nor zooming changes, such as temperature or a probability.

    Args:
        unit: Unit of the values. Default: none.
        dims: D, the number of values of a pixel. Default 1.
    """

    unit: str = ""
    dims: int = 1

    @property
    def channels(self) -> int:
        """D."""
        return self.dims


@dataclass(frozen=True)
class Depth(EntryKind):
    """Depth along the optical axis (1, H, W). A zoom by s divides it by s.

    Source: Eigen, Puhrsch and Fergus (2014), "Depth map prediction from a single image", §3.5.
    """

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Depth divided by the zoom."""
        return value / per_image(warp.zoom, value)


@dataclass(frozen=True)
class InverseDepth(EntryKind):
    """One over the depth (1, H, W). A zoom by s multiplies it by s."""

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Inverse depth multiplied by the zoom."""
        return value * per_image(warp.zoom, value)


@dataclass(frozen=True)
class Disparity(InverseDepth):
    """How far a point moves to the left between two views of a stereo pair (1, H, W), pixels ≥ 0.

    It is the length of the shift in both views: ``x_right = x_left − disparity`` in the left view, and
    ``x_left = x_right + disparity_right`` in the right view. Zoom and width scale it.
    """

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """The nearest values, multiplied by new width / old width."""
        return super().resize(value, old, new) * (new[1] / old[1])


@dataclass(frozen=True)
class VectorMap(EntryKind):
    """Vectors (dx, dy) in the image (2, H, W), pixels, such as optical flow. Zoom scales them and a flip turns dx.

    Args:
        unit: Unit of the vectors. Default ``"px"``.
        signed: Whether a flip turns the sign of dx. False for standard deviations of vectors. Default True.
    """

    unit: str = "px"
    signed: bool = True

    @property
    def channels(self) -> int:
        """2."""
        return 2

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """The nearest vectors; dx follows the width and dy the height."""
        factor = torch.tensor([new[1] / old[1], new[0] / old[0]], device=value.device)
        return super().resize(value, old, new) * factor[:, None, None]

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Vectors multiplied by the zoom, dx also by the flip."""
        x = warp.zoom * warp.flip if self.signed else warp.zoom
        return value * torch.stack([x, warp.zoom], 1)[:, :, None, None]

    def spread(self) -> EntryKind:
        """Lengths without a sign."""
        return VectorMap(self.unit, signed=False)


@dataclass(frozen=True)
class EdgeDistances(EntryKind):
    """Distances from a pixel to the left, top, right and bottom edge of a box (4, H, W), pixels. A zoom scales them.

    A flip exchanges left and right.
    """

    @property
    def channels(self) -> int:
        """4."""
        return 4

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """The nearest distances; left and right follow the width, top and bottom the height."""
        across, down = new[1] / old[1], new[0] / old[0]
        factor = torch.tensor([across, down, across, down], device=value.device)
        return super().resize(value, old, new) * factor[:, None, None]

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Distances multiplied by the zoom, left and right exchanged by a flip."""
        mirrored = value[:, [2, 1, 0, 3]]
        return mirrored.where(per_image(warp.flip < 0, value), value) * per_image(warp.zoom, value)


@dataclass(frozen=True)
class Normals(EntryKind):
    """Unit normals of surfaces (3, H, W) in the camera's axes: x right, y down, z forward.

    A flip turns the sign of x. A zoom by s divides depth by s, so it multiplies z by s before the length is set to 1.

    Source: Eigen and Fergus (2015), "Predicting depth, surface normals and semantic labels", §4.
    """

    @property
    def channels(self) -> int:
        """3."""
        return 3

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Normals of the zoomed and flipped scene."""
        factor = torch.stack([warp.flip, torch.ones_like(warp.zoom), warp.zoom], 1)
        return normalize(value * factor[:, :, None, None], dim=1)

    def spread(self) -> EntryKind:
        """Approximately unchanged."""
        return ScalarMap(dims=3)


@dataclass(frozen=True)
class Stacked(EntryKind):
    """Several maps in one tensor, channel after channel, each with the rules of its own kind.

    Args:
        parts: Kind and number of channels of each part. A part without a channel axis has 1 channel here.

    >>> Stacked(((ClassMap(), 1), (VectorMap(), 2))).channels
    3
    """

    parts: tuple[tuple[EntryKind, int], ...]

    @property
    def channels(self) -> int:
        """The channels of all parts."""
        return sum(count for _, count in self.parts)

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """Each part by its own rule."""
        return torch.cat([kind.resize(part, old, new) for kind, part in self._split(value, -3)], -3)

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """Each part by its own rule."""
        return torch.cat([kind.warp(part, warp) for kind, part in self._split(value, 1)], 1)

    def _split(self, value: Tensor, axis: int) -> list[tuple[EntryKind, Tensor]]:
        parts = value.split([count for _, count in self.parts], axis)
        return [(kind, part) for (kind, _), part in zip(self.parts, parts, strict=True)]
