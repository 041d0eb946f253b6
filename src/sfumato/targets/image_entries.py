"""Kinds of entries that belong to a whole image: its camera, its pose, its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.targets.base import EntryKind, Size, Warp


@dataclass(frozen=True)
class Intrinsics(EntryKind):
    """The camera matrix (3, 3) in pixels, whose pixel centers are at whole numbers. Zoom keeps the focal length."""

    is_map: ClassVar[bool] = False

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """Focal lengths and principal point follow height and width."""
        down, across = new[0] / old[0], new[1] / old[1]
        scale = value.new_tensor([[across], [down], [1.0]])
        shift = value.new_tensor([[0.0, 0, 0.5 * across - 0.5], [0, 0, 0.5 * down - 0.5], [0, 0, 0]])
        return value * scale + shift

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """The principal point moves with its pixel and the skew turns with a flip. Focal lengths stay."""
        out = value.clone()
        out[:, :2, 2:] = warp.matrix[:, :, :2] @ value[:, :2, 2:] + warp.matrix[:, :, 2:]
        out[:, 0, 1] = value[:, 0, 1] * warp.flip
        return out

    def blank(self, size: Size) -> Tensor:
        """Zeros (3, 3)."""
        del size
        return torch.zeros(3, 3)


@dataclass(frozen=True)
class ImageValue(EntryKind):
    """Values of the whole image (D,) float32, or its class () int64. Resizing leaves them as they are.

    Args:
        unit: Unit of the values. Default: none.
        dims: D, the number of values; 0 for a class. Default 1.
        invariant: Whether zoom, crop and flip leave the value as it is. If False, it counts only in images that
            augmentation has not moved. Default True.
    """

    unit: str = ""
    dims: int = 1
    invariant: bool = True
    is_map: ClassVar[bool] = False

    @property
    def channels(self) -> int:
        """D."""
        return self.dims

    @property
    def movable(self) -> bool:
        """As the argument ``invariant`` says."""
        return self.invariant

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """The value as it is."""
        del old, new
        return value

    def survives(self, warp: Warp) -> Tensor:
        """Every image, or those that the warp leaves as they are."""
        return super().survives(warp) if self.invariant else warp.identity

    def blank(self, size: Size) -> Tensor:
        """Zeros (D,), or class 0."""
        del size
        return torch.zeros(self.dims) if self.dims else torch.zeros((), dtype=torch.int64)


@dataclass(frozen=True)
class Pose(EntryKind):
    """A camera pose (4, 4), world from camera. It holds only in images that augmentation has not moved.

    A zoomed image shows a scene with other depths, and a flipped image shows a mirrored scene. No camera in the
    original scene sees either of them.
    """

    is_map: ClassVar[bool] = False

    @property
    def movable(self) -> bool:
        """False."""
        return False

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """The pose as it is."""
        del old, new
        return value

    def survives(self, warp: Warp) -> Tensor:
        """The images that the warp leaves as they are."""
        return warp.identity

    def blank(self, size: Size) -> Tensor:
        """Zeros (4, 4)."""
        del size
        return torch.zeros(4, 4)


@dataclass(frozen=True)
class Boxes(EntryKind):
    """Boxes (N, 6): left, top, right and bottom edge in pixels, class from 0, and 1 where it is to be ignored, else 0.

    The corner of an image is at (0, 0), so the center of its first pixel is at (0.5, 0.5). Boxes may end outside of a
    crop.
    """

    is_map: ClassVar[bool] = False

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """Edges follow width and height."""
        across, down = new[1] / old[1], new[0] / old[0]
        return value * value.new_tensor([across, down, across, down, 1, 1])

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """The edges of the boxes (B, N, 6) after a warp."""
        corners = value[..., :4].unflatten(-1, (2, 2)) - 0.5  # the matrix is of pixel centers at whole numbers
        moved = corners @ warp.matrix[:, None, :, :2].mT + warp.matrix[:, None, None, :, 2] + 0.5
        ordered = torch.cat([moved.amin(-2), moved.amax(-2)], -1)  # a flip exchanges left and right
        return torch.cat([ordered, value[..., 4:]], -1)

    def blank(self, size: Size) -> Tensor:
        """No box."""
        del size
        return torch.zeros(0, 6)
