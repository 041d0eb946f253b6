"""What is known of the cameras of a rectified stereo pair, and the files in which data sets say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.data.images import check_regular
from sfumato.errors import DataError
from sfumato.geometry import check_intrinsics

LARGEST = 1 << 20  # bytes of a calibration file
MILLIMETER = 0.001


@dataclass(frozen=True)
class Camera:
    """A camera, and where its right neighbor is.

    Args:
        matrix: The camera matrix (3, 3) px, with pixel centers at whole numbers.
        baseline: Distance to the right camera, meters. 0 if there is none, or it is unknown. Default 0.
        offset: Principal point of the right camera minus that of the left one along x, px. Default 0.
        size: Height and width of the pictures that the matrix is for, px. None if it is not known. Default None.
    """

    matrix: np.ndarray
    baseline: float = 0.0
    offset: float = 0.0
    size: tuple[int, int] | None = None

    def check(self, size: tuple[int, int], place: str) -> None:
        """Check that the camera can have taken pictures of this size.

        Args:
            size: Height and width of the pictures, px.
            place: Where the numbers come from, for the message.

        Raises:
            DataError: If the principal point is outside of the picture, or the camera is one of another size.
        """
        if self.size not in (None, size):
            raise DataError(
                f"{place}: the intrinsics are those of pictures of {self.size[0]} × {self.size[1]} pixels, and the "
                f"pictures have {size[0]} × {size[1]} (height × width): scale the one or the other"
            )
        try:
            check_intrinsics(torch.from_numpy(self.matrix)[None], size)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error

    def depth(self, disparity: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Depth (1, H, W) meters of disparities (1, H, W) px, and where it is known (H, W): ``Z = f B / (d + offset)``.

        Raises:
            DataError: If the baseline is unknown.
        """
        if not self.baseline > 0:
            raise DataError("meters need the distance between the two cameras, which the calibration does not hold")
        shift = disparity + self.offset
        known = valid & (shift[0] > 0)
        scale = float(self.matrix[0, 0]) * self.baseline
        return (scale / shift.where(known, 1)).where(known, 0), known

    def poses(self) -> dict[str, Tensor]:
        """``world_from_camera`` and ``world_from_right`` (4, 4), with the world in the axes of the left camera.

        Empty if the baseline is unknown, or the two cameras have different principal points, since samples hold one
        camera matrix.
        """
        if not self.baseline > 0 or self.offset:
            return {}
        right = torch.eye(4)
        right[0, 3] = self.baseline
        return {"world_from_camera": torch.eye(4), "world_from_right": right}


def read_middlebury_camera(path: Path) -> tuple[Camera, int]:
    """The camera in ``calib.txt`` of Middlebury 2014 and 2021, and the number of disparities (``ndisp``, 0 if none).

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be understood.
    """
    entries = _entries(path, "=")
    left, right = (_numbers(path, entries, f"cam{n}", 9).reshape(3, 3) for n in (0, 1))
    baseline = float(_numbers(path, entries, "baseline", 1)[0]) * MILLIMETER
    disparities = int(_numbers(path, entries, "ndisp", 1)[0]) if "ndisp" in entries else 0
    sides = [int(_numbers(path, entries, name, 1)[0]) for name in ("height", "width") if name in entries]
    size = (sides[0], sides[1]) if len(sides) == 2 else None
    return Camera(left, baseline, float(right[0, 2] - left[0, 2]), size), disparities


def read_kitti_camera(path: Path, left: str, right: str) -> Camera:
    """The camera in a calibration file of KITTI.

    Args:
        path: The file.
        left: The entry of the left camera's projection (3, 4), such as ``P2`` or ``P_rect_02``.
        right: That of the right one.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be understood.
    """
    entries = _entries(path, ":")
    one, other = (_numbers(path, entries, name, 12).reshape(3, 4) for name in (left, right))
    if not one[0, 0] > 0:
        raise DataError(f"{path} has the focal length {one[0, 0]:g}, expected above 0")
    name, size = left.replace("P_", "S_"), None  # the raw data give the size of rectified pictures as S_rect_02
    if name != left and name in entries:
        width, height = _numbers(path, entries, name, 2).tolist()
        size = (round(height), round(width))
    baseline = float(one[0, 3] - other[0, 3]) / float(one[0, 0])
    return Camera(one[:, :3].copy(), baseline, float(other[0, 2] - one[0, 2]), size)


def read_matrix(path: Path, rows: int) -> Tensor:
    """A square matrix (rows, rows) of a text file.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it does not hold as many finite numbers.
    """
    words = _text(path).split()
    try:
        values = torch.tensor([float(word) for word in words])
    except ValueError:
        values = torch.empty(0)
    if len(values) != rows**2 or not values.isfinite().all():
        raise DataError(f"{path} does not hold {rows} × {rows} finite numbers: copy it again")
    return values.reshape(rows, rows)


def _text(path: Path) -> str:
    check_regular(path)
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} is larger than {LARGEST >> 20} MiB, expected a few lines of text")
    return path.read_text(encoding="utf-8", errors="replace")


def _entries(path: Path, sign: str) -> dict[str, str]:
    """The lines ``NAME sign VALUE`` of a file."""
    parts = (line.partition(sign) for line in _text(path).splitlines())
    return {name.strip(): value for name, found, value in parts if found}


def _numbers(path: Path, entries: dict[str, str], name: str, count: int) -> np.ndarray:
    words = re.sub(r"[\[\];,]", " ", entries.get(name, "")).split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(f"{path} does not hold {name} with {count} finite numbers: copy it again")
    return values
