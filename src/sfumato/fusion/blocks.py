"""Voxels in blocks of 8 × 8 × 8, of which only those near a surface exist."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.errors import DataError

SIDE = 8
INSIDE = SIDE**3
LARGEST = 1 << 26  # blocks of a bounding box; beyond that poses or voxels are wrong by orders of magnitude


class Blocks:
    """Which blocks exist, and where they are.

    Args:
        voxel: Side of a voxel, meters.
    """

    def __init__(self, voxel: float) -> None:
        self.voxel = voxel
        self.places = torch.zeros(0, 3, dtype=torch.int64)  # block coordinates (N, 3)
        self._low = torch.zeros(3, dtype=torch.int64)
        self._table = torch.full((0, 0, 0), -1, dtype=torch.int64)  # numbers of blocks, −1 for none

    def __len__(self) -> int:
        return len(self.places)

    @property
    def side(self) -> float:
        """Side of a block, meters."""
        return SIDE * self.voxel

    def add(self, points: Tensor) -> int:
        """Add the blocks of points (P, 3) in meters. Returns the number of new ones.

        Raises:
            DataError: If the box around all blocks is too large.
        """
        if not len(points):
            return 0
        wanted = (points / self.side).floor().long().unique(dim=0)
        self._cover(wanted)
        index = wanted - self._low
        new = wanted[self._table[index[:, 0], index[:, 1], index[:, 2]] < 0]
        index = new - self._low
        numbers = torch.arange(len(self), len(self) + len(new))
        self._table[index[:, 0], index[:, 1], index[:, 2]] = numbers
        self.places = torch.cat([self.places, new])
        return len(new)

    def find(self, voxels: Tensor) -> Tensor:
        """The numbers (…) of voxels (…, 3), given by their whole coordinates; −1 where no block exists."""
        if not len(self):
            return torch.full(voxels.shape[:-1], -1, dtype=torch.int64)
        places = voxels.div(SIDE, rounding_mode="floor") - self._low
        size = torch.tensor(self._table.shape)
        inside = ((places >= 0) & (places < size)).all(-1)
        places = places.where(inside[..., None], 0)
        block = self._table.flatten()[(places[..., 0] * size[1] + places[..., 1]) * size[2] + places[..., 2]]
        x, y, z = voxels.remainder(SIDE).unbind(-1)
        number = block * INSIDE + (x * SIDE + y) * SIDE + z
        return number.where(inside & (block >= 0), -1)

    def offsets(self) -> Tensor:
        """The centers of the voxels of a block (512, 3) from its lowest corner, meters."""
        steps = torch.arange(SIDE)
        return (torch.cartesian_prod(steps, steps, steps) + 0.5) * self.voxel

    def corners(self) -> Tensor:
        """The lowest corner of each block (N, 3), meters."""
        return self.places * self.side

    def dense(self, values: Tensor, missing: float) -> tuple[Tensor, Tensor]:
        """Values (N · 512) as an array (X, Y, Z) of the box around all blocks, and its lowest corner (3,), meters."""
        low, high = self.places.amin(0), self.places.amax(0) + 1
        count = (high - low).tolist()
        array = values.new_full((*count, INSIDE), missing)
        x, y, z = (self.places - low).unbind(1)
        array[x, y, z] = values.view(-1, INSIDE)
        shape = [SIDE * each for each in count]
        array = array.view(*count, SIDE, SIDE, SIDE).permute(0, 3, 1, 4, 2, 5).reshape(shape)
        return array, low * self.side

    def _cover(self, wanted: Tensor) -> None:
        """Make the table large enough for blocks, with some room around them."""
        low, high = wanted.amin(0), wanted.amax(0) + 1
        size = torch.tensor(self._table.shape)
        if len(self):
            if bool((low >= self._low).all() & (high <= self._low + size).all()):
                return
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._low + size)
        low, high = low - 4, high + 4
        size = (high - low).tolist()
        if size[0] * size[1] * size[2] > LARGEST:
            meters = " × ".join(f"{each * self.side:.3g}" for each in size)
            raise DataError(
                f"the depths reach over {meters} m, too far for voxels of {self.voxel:g} m: check the units of depths "
                "and poses, or take larger voxels"
            )
        self._low = low
        self._table = torch.full(size, -1, dtype=torch.int64)
        index = self.places - low
        self._table[index[:, 0], index[:, 1], index[:, 2]] = torch.arange(len(self))
