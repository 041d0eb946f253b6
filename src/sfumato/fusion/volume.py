"""A volume of voxels that depth and classes of many frames are fused into, each pixel with its own variance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.fusion.blocks import INSIDE, SIDE, Blocks
from sfumato.fusion.classes import PoolMoments
from sfumato.fusion.values import between_variance
from sfumato.fusion.view import View, pixel_table
from sfumato.geometry import check_poses, transform, unproject
from sfumato.storage import check_finite, read_tensors, write_tensors

HIT, MISS, SUREST = 0.85, -0.4, 3.5  # log odds of one sure measurement, and the largest of a voxel
AT_ONCE = 2048  # blocks that are updated together
SUMS = ("weight", "squares", "distance", "spread", "count", "occupied", "near", "root")
FIRST = len(SUMS)  # column of the colors; classes follow


class Volume:
    """Signed distances to surfaces, occupancy, colors and classes in voxels; only voxels near surfaces exist.

    A pixel with depth Z and variance σ² adds its distance ``min(Z − z, truncation)`` to each voxel that it sees at
    depth z, with the weight ``p = 1 / σ²``, unless the voxel lies deeper than ``truncation`` behind the surface. A
    voxel keeps ``Σ p``, ``Σ p²``, the weighted mean and the weighted squared deviations (Welford).

    The variance of a fused distance has two parts. The aleatoric one is that of the weighted mean. Frames of one camera
    share errors, so it is ``(Σ √p / Σ p)²``, the largest that it can be whatever they share; ``1 / Σ p`` if they are
    independent. The epistemic one is what frames differ by more than their variances explain, as in
    :func:`fuse_values`.

    Args:
        voxel: Side of a voxel, meters, > 0. Default 0.02.
        truncation: Largest distance that is kept, meters. 0 for 4 voxels. Default 0.
        classes: K, the number of classes; 0 for none. Default 0.
        independent: Whether errors of the frames are independent. Default False.
        gate: Leave a pixel out of a voxel whose innovation is larger than this share of innovations would be, in
            (0, 1), such as 0.999: by the χ² of its distance from the fused one, with the variances of both. It begins
            with the third frame. Default: none is left out.

    Raises:
        ConfigError: If the truncation is below 2 voxels, or a number is out of range.

    Source: Curless and Levoy (1996), "A volumetric method for building complex models from range images"; occupancy
    with the log odds of Hornung et al. (2013), "OctoMap", in expectation over the depth.
    Pitfall: Distances are along the optical axis of each frame. Where a surface is seen from the side, they are longer
    than those to the surface. Space that no depth came close to is unknown, not free.
    """

    def __init__(
        self, voxel: float = 0.02, truncation: float = 0.0, classes: int = 0, *, independent: bool = False,
        gate: float | None = None,
    ) -> None:  # fmt: skip
        if gate is not None and not 0 < gate < 1:
            raise ConfigError(f"gate is {gate}, expected a probability in (0, 1) such as 0.999")
        if not 0 < voxel < float("inf"):
            raise ConfigError(f"voxel is {voxel}, expected meters above 0, such as 0.02")
        self.truncation = truncation or 4 * voxel
        if not 2 * voxel <= self.truncation < float("inf"):
            raise ConfigError(f"truncation is {truncation:g} m, expected at least 2 voxels, {2 * voxel:g} m")
        if classes < 0:
            raise ConfigError(f"classes is {classes}, expected their number, or 0 for none")
        self.voxel, self.classes, self.independent, self.gate = voxel, classes, independent, gate
        self.frames = 0
        self.blocks = Blocks(voxel)
        self._sums = torch.zeros(0, FIRST + 3 + (classes + 2 if classes else 0))

    def sums(self, name: str) -> Tensor:
        """One of the sums of all voxels (N · 512): weight, squares, distance, spread, count, occupied,
        near (the weight of the pixels within the truncation) or root (``Σ √p``).
        """
        return self._sums[: len(self.blocks) * INSIDE, SUMS.index(name)]

    def add(self, view: View) -> None:
        """Fuse a frame.

        Raises:
            DataError: If sizes, units, variances, the pose or the number of classes do not fit.
        """
        view.check()
        if (view.classes is not None) != bool(self.classes) or (
            view.classes is not None and view.classes.probs.shape[1] != self.classes
        ):
            found = 0 if view.classes is None else view.classes.probs.shape[1]
            raise DataError(f"the frame has {found} classes and the volume {self.classes}: expected as many")
        pose = check_poses(view.world_from_camera).float()
        self._allocate(view, pose)
        table = pixel_table(view, self.classes)
        for numbers in self._visible(view, pose).split(AT_ONCE):
            self._update(numbers, view, pose, table)
        self.frames += 1

    @property
    def known(self) -> Tensor:
        """Which voxels (N · 512) a frame has measured."""
        return self.sums("count") > 0

    def variances(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """The aleatoric and the epistemic variance (V,) of the distance of known voxels (V,), m²."""
        return self.variances_of(self._sums[voxels])

    def variances_of(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The aleatoric and the epistemic variance (…) of sums (…, R) in the order of :data:`SUMS`, m²."""
        weight, squares, _, spread, count = sums[..., :5].unbind(-1)
        aleatoric = 1 / weight if self.independent else (sums[..., 7] / weight).square()
        return aleatoric, between_variance(count, weight, squares, spread)

    def rows(self, voxels: Tensor) -> Tensor:
        """All sums (…, R) of voxels (…)."""
        return self._sums[voxels]

    def class_moments(self, rows: Tensor) -> PoolMoments:
        """The class moments (…) of rows (…, R), as :meth:`rows` gives them.

        Raises:
            ConfigError: If the volume has no classes.
        """
        if not self.classes:
            raise ConfigError("the volume has no classes: make it with their number, and add frames with classes")
        return PoolMoments(rows[..., FIRST + 3], rows[..., FIRST + 5 :], rows[..., FIRST + 4])

    def occupancy(self) -> Tensor:
        """The probability (N · 512) that a voxel is occupied; 0.5 where nothing was measured."""
        return self.sums("occupied").sigmoid()

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: ``places``, the blocks (N, 3), and ``sums`` (N · 512, R) of their voxels.

        Raises:
            NotFiniteError: If a number is not finite.
            ResourceError: If the file cannot be written.
        """
        tensors = {"places": self.blocks.places, "sums": self._sums[: len(self.blocks) * INSIDE].contiguous()}
        check_finite(tensors, f"the volume for {path}")
        numbers = {name: getattr(self, name) for name in ("voxel", "truncation", "classes", "independent", "gate")}
        write_tensors(path, tensors, {"type": "Volume", "fields": json.dumps(numbers), "frames": str(self.frames)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote. More frames can be added.

        Raises:
            MissingFileError: If there is no such file.
            DataError: If it is cut off or holds something else.
        """
        tensors, metadata = read_tensors(path, advice="fuse the frames again")
        try:
            numbers = json.loads(metadata["fields"])
            found = cls(numbers.pop("voxel"), numbers.pop("truncation"), numbers.pop("classes"), **numbers)
            found.blocks.add((tensors["places"] + 0.5) * found.blocks.side)
            order = found.blocks.find(tensors["places"] * SIDE) // INSIDE
            if tensors["sums"].shape != (len(order) * INSIDE, found._sums.shape[1]) or int(order.min()) < 0:
                raise ValueError(f"{tuple(tensors['sums'].shape)} sums of {len(order)} blocks")
            found._sums = tensors["sums"].view(len(order), INSIDE, -1)[order.argsort()].flatten(0, 1).clone()
            found.frames = int(metadata["frames"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{path} holds no volume ({error}): fuse the frames again") from error
        return found

    def _allocate(self, view: View, pose: Tensor) -> None:
        """Make the blocks that the band around the depths of a frame touches."""
        focal = view.intrinsics[0, 0].item()
        mean = view.depth.mean
        farthest = mean[:, 0][view.valid].amax().item() if bool(view.valid.any()) else 1.0
        step = max(1, int(0.4 * self.blocks.side * focal / farthest))  # so that no block between two pixels is left out
        valid = view.valid[0, ::step, ::step].flatten()
        points = []
        for shift in torch.arange(-self.truncation, self.truncation + 1e-6, self.blocks.side / 2).tolist():
            moved = unproject((mean + shift).clamp_min(1e-3), view.intrinsics[None].to(mean))
            points.append(transform(moved, pose[None])[0, :, ::step, ::step].flatten(1).T[valid])
        new = self.blocks.add(torch.cat(points))
        short = len(self.blocks) * INSIDE - len(self._sums)
        if new and short > 0:  # half as many again, so that the memory is seldom copied
            more = max(short, len(self._sums) // 2)
            self._sums = torch.cat([self._sums, self._sums.new_zeros(more, self._sums.shape[1])])

    def _visible(self, view: View, pose: Tensor) -> Tensor:
        """Numbers of the blocks that the frame may see."""
        reach = 0.87 * self.blocks.side  # half of the diagonal of a block
        middle = self.blocks.corners() + self.blocks.side / 2
        x, y, z = ((middle - pose[:3, 3]) @ pose[:3, :3]).unbind(1)
        fx, fy, cx, cy = (view.intrinsics[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        height, width = view.depth.event
        far = view.depth.mean[:, 0][view.valid].amax() + self.truncation if bool(view.valid.any()) else z.new_zeros(())
        near = z.clamp_min(1e-3)
        seen = (z > -reach) & (z < far + reach)
        seen &= (fx * (x + reach) / near + cx > 0) & (fx * (x - reach) / near + cx < width)
        seen &= (fy * (y + reach) / near + cy > 0) & (fy * (y - reach) / near + cy < height)
        return (seen | (z.abs() <= reach)).nonzero()[:, 0]

    def _update(self, numbers: Tensor, view: View, pose: Tensor, table: Tensor) -> None:
        """Add a frame to some blocks."""
        height, width = view.depth.event
        corners = (self.blocks.corners()[numbers] - pose[:3, 3]) @ pose[:3, :3]
        inner = self.blocks.offsets() @ pose[:3, :3]
        x, y, z = (corners[:, None, axis] + inner[None, :, axis] for axis in range(3))
        fx, skew, cx, fy, cy = (view.intrinsics[i, j].item() for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
        near = z.clamp_min(1e-3)
        column = ((fx * x + skew * y) / near + (cx + 0.5)).floor()
        row = (fy * y / near + (cy + 0.5)).floor()
        seen = (z > 1e-3) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixel = (row * width + column).where(seen, 0).long()
        distance = table[0][pixel] - z
        kept = (seen & (distance > -self.truncation)).nonzero(as_tuple=True)  # invalid pixels have a depth of −inf
        pixel, distance = pixel[kept], distance[kept]
        voxels = numbers[kept[0]] * INSIDE + kept[1]
        sums, precision = self._sums[voxels], table[1][pixel]
        if self.gate is not None:
            passed = self._passes(sums, distance.clamp_max(self.truncation), precision, self.gate)
            pixel, distance, voxels = pixel[passed], distance[passed], voxels[passed]
            sums, precision = sums[passed], precision[passed]
        near = distance.abs() < self.truncation
        _welford(sums, distance.clamp_max(self.truncation), precision)
        occupied = sums[:, 5] + _log_odds(distance, precision, self.voxel)
        sums[:, 5] = occupied.clamp(-SUREST, SUREST)
        colors = sums[:, FIRST : FIRST + 3]
        sums[:, 6] += precision * near
        sums[:, 7] += precision.sqrt()
        if len(table) > 2:
            share = (precision / sums[:, 6]).where(near, 0)[:, None]
            colors += share * (table[2:5].T[pixel] - colors)
        if self.classes:
            sums[:, FIRST + 3 :] += table[5:].T[pixel] * near[:, None]
        self._sums[voxels] = sums

    def _passes(self, sums: Tensor, distance: Tensor, precision: Tensor, gate: float) -> Tensor:
        """Which distances (V,) are near enough to the fused ones, or have too few before them to tell."""
        aleatoric, epistemic = self.variances_of(sums)
        square = (distance - sums[:, 2]).square() / (1 / precision + aleatoric + epistemic)
        return (sums[:, 4] < 2) | (square <= torch.special.ndtri(torch.tensor((1 + gate) / 2)).square())


def _welford(sums: Tensor, distance: Tensor, precision: Tensor) -> None:
    """Add a distance (V,) with a precision (V,) to the sums (V, …) of each voxel."""
    sums[:, 0] += precision
    sums[:, 1] += precision.square()
    step = distance - sums[:, 2]
    sums[:, 2] += step * precision / sums[:, 0]
    sums[:, 3] += precision * step * (distance - sums[:, 2])
    sums[:, 4] += 1


def _log_odds(distance: Tensor, precision: Tensor, voxel: float) -> Tensor:
    """What one depth adds to the log odds that a voxel (V,) is occupied, in expectation over the depth.

    The voxel is hit with the probability that the surface lies within it, and seen through with the probability that
    the surface lies behind it.
    """
    behind = torch.special.ndtr((distance - voxel / 2) * precision.sqrt())
    not_before = torch.special.ndtr((distance + voxel / 2) * precision.sqrt())
    return HIT * (not_before - behind) + MISS * behind
