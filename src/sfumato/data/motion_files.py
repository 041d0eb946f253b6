"""Read and write files of disparities and of optical flow: PFM, .flo, and the 16-bit PNG of KITTI.

Where a value is unknown, the file says so in its own way (0, infinity, NaN, or a very large number). Every reader
returns a mask instead, and the value 0.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.images import MAX_PIXELS, UPRIGHT, check_pixels, check_regular
from sfumato.data.stored import read_stored
from sfumato.errors import DataError, MissingDependencyError
from sfumato.storage import atomic_write

DISPARITIES = (".pfm", ".png", ".pgm", ".tif", ".tiff", ".npy")
"""Endings of the files that are read as disparities."""
FLOWS = (".flo", ".pfm", ".png", ".npy")
"""Endings of the files that are read as optical flow."""
KITTI = 1 / 256  # px; what a stored 1 stands for in the disparity maps of KITTI
_FLO = b"PIEH"  # 202021.25 as a float
_UNKNOWN = 1e9  # px; .flo files say with larger numbers that a vector is unknown
_FLOW_STEP, _FLOW_ZERO = 1 / 64, 1 << 15  # of the flow PNGs of KITTI


def read_disparity(
    path: str | Path, unit: float = 0.0, shape: tuple[int, ...] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, Tensor]:
    """Read the disparity of each pixel.

    Args:
        path: A PFM, a gray PNG, PGM or TIFF, or .npy (H, W).
        unit: The pixels that a stored 1 stands for, > 0. 0 for what is usual: 1/256 in a 16-bit PNG, as in KITTI, else
            1. Middlebury's files of 2001 have 1/8, those of 2003 at quarter size 1/4. Default 0.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Returns:
        disparity (1, H, W) float32 px, and valid (H, W) bool. A stored 0, a negative number, infinity and NaN are
        unknown: the disparity is 0 there, and not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, or does not fit the image.
    """
    path = Path(path)
    if not 0 <= unit < np.inf:
        raise DataError(f"unit is {unit}, expected the pixels that a stored 1 stands for, as in 0.25, or 0")
    if path.suffix.lower() == ".pfm":
        stored = read_pfm(path, max_pixels)
        if stored.ndim == 3:
            raise DataError(f"{path} has 3 channels, expected one: is it optical flow?")
        _check_shape(path, stored.shape, shape)
    else:
        stored = read_stored(path, shape, UPRIGHT, max_pixels)
        if stored.ndim == 3 and bool((stored[..., :3] == stored[..., :1]).all()):
            stored = stored[..., 0]  # gray that was saved as color
        if stored.ndim == 3:
            raise DataError(f"{path} has {stored.shape[2]} channels that differ, expected one that holds disparities")
    usual = KITTI if path.suffix.lower() == ".png" and stored.dtype != np.uint8 else 1.0
    found = torch.from_numpy(stored.astype(np.float32)) * (unit or usual)
    valid = found.isfinite() & (found > 0)
    if int((found.isfinite() & (found < 0)).sum()) > int(valid.sum()):
        raise DataError(
            f"{path} holds mostly negative disparities: expected x_left − x_right, so change their sign, or exchange "
            "the two views"
        )
    return found.where(valid, 0)[None], valid


def read_flow(
    path: str | Path, shape: tuple[int, ...] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, Tensor]:
    """Read the optical flow of each pixel.

    Args:
        path: A .flo; a PFM, whose third channel is passed over; a 16-bit color PNG of KITTI; or .npy (2, H, W).
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Returns:
        flow (2, H, W) float32 px (x to the right, y down), and valid (H, W) bool. Where it is not valid, the flow is 0.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, or does not fit the image.
        MissingDependencyError: If a PNG needs OpenCV, which is not installed.
    """
    path = Path(path)
    ending, marked = path.suffix.lower(), None
    if ending == ".flo":
        stored = _read_flo(path, max_pixels)
    elif ending == ".pfm":
        stored = read_pfm(path, max_pixels)
        stored = stored[..., :2] if stored.ndim == 3 else stored
    elif ending == ".png":
        counts = _read_color_counts(path, max_pixels)
        stored, marked = (counts[..., :2] - np.float32(_FLOW_ZERO)) * np.float32(_FLOW_STEP), counts[..., 2] > 0
    elif ending == ".npy":
        stored = _read_vectors(path, max_pixels)
    else:
        raise DataError(f"{path} does not end in {' '.join(FLOWS)}, so it is no file of optical flow")
    if stored.ndim != 3:
        raise DataError(f"{path} has one channel, expected two or three with optical flow")
    _check_shape(path, stored.shape[:2], shape)
    found = torch.from_numpy(np.ascontiguousarray(stored.transpose(2, 0, 1), np.float32))
    valid = (found.abs() < _UNKNOWN).all(0)  # written so that NaN is unknown too
    if marked is not None:
        valid &= torch.from_numpy(marked)
    return found.where(valid, 0), valid


def write_disparity(path: str | Path, disparity: Tensor, valid: Tensor | None = None) -> None:
    """Write disparities as a PFM, where infinity is unknown, or as a 16-bit PNG of KITTI, where 0 is.

    Args:
        path: The file, which ends in .pfm or .png. A PNG has steps of 1/256 px and holds less than 256 px.
        disparity: (1, H, W) or (H, W), px.
        valid: (H, W) bool. None if every pixel is known. Default None.

    Raises:
        DataError: If the file has another ending, or cannot hold the values.
    """
    path, values = Path(path), disparity.detach().float().cpu().reshape(disparity.shape[-2:])
    known = values.isfinite() if valid is None else valid.cpu() & values.isfinite()
    if path.suffix.lower() == ".pfm":
        return write_pfm(path, values.where(known, torch.inf).numpy())
    if path.suffix.lower() != ".png":
        raise DataError(f"{path} does not end in .pfm or .png, in which disparities are written")
    counts = (values.where(known, 0) / KITTI).round()
    if bool((counts < 0).any()) or bool((counts > 65535).any()):
        raise DataError(f"{path} cannot hold disparities below 0 or from 256 px on: write a .pfm")
    counts = counts.where(~known, counts.clamp_min(1))  # 0 would be unknown
    with atomic_write(path) as part:
        Image.fromarray(counts.numpy().astype(np.uint16)).save(part, format="PNG")
    return None


def write_flow(path: str | Path, flow: Tensor, valid: Tensor | None = None) -> None:
    """Write optical flow as a .flo, or as a 16-bit color PNG of KITTI.

    Args:
        path: The file, which ends in .flo or .png. A PNG has steps of 1/64 px and holds −512 to 511.9 px.
        flow: (2, H, W), px.
        valid: (H, W) bool. None if every pixel is known. Default None.

    Raises:
        DataError: If the file has another ending, or cannot hold the values.
        MissingDependencyError: If a PNG needs OpenCV, which is not installed.
    """
    path, values = Path(path), flow.detach().float().cpu()
    known = values.isfinite().all(0) if valid is None else valid.cpu() & values.isfinite().all(0)
    if path.suffix.lower() == ".flo":
        write_flo(path, values.where(known, 10 * _UNKNOWN))
        return
    if path.suffix.lower() != ".png":
        raise DataError(f"{path} does not end in .flo or .png, in which optical flow is written")
    counts = (values.where(known, 0) / _FLOW_STEP).round() + _FLOW_ZERO
    if bool((counts < 0).any()) or bool((counts > 65535).any()):
        raise DataError(f"{path} cannot hold vectors beyond −512 to 511.9 px: write a .flo")
    layers = torch.cat([counts, known[None].float()]).where(known, 0).permute(1, 2, 0).numpy().astype(np.uint16)
    done, encoded = _opencv(path).imencode(".png", layers[..., ::-1])
    if not done:
        raise DataError(f"{path} could not be encoded as a PNG")
    with atomic_write(path) as part:
        part.write_bytes(encoded.tobytes())


def write_flo(path: str | Path, flow: Tensor) -> None:
    """Write optical flow (2, H, W) as a .flo of little-endian float32, as it is."""
    _, height, width = flow.shape
    with atomic_write(path) as part, part.open("wb") as file:
        file.write(_FLO + np.array([width, height], "<i4").tobytes())
        file.write(flow.permute(1, 2, 0).contiguous().numpy().astype("<f4").tobytes())


def read_pfm(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a PFM as it is stored, (H, W) or (H, W, 3) float32, with the first row at the top.

    Args:
        path: The file.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no PFM, or cut off.
    """
    path = Path(path)
    check_regular(path)
    with path.open("rb") as file:
        match = re.match(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+(-?[\d.eE+-]{1,20})\s", file.read(128))
        scale = _number(match[4]) if match else 0.0
        if match is None or scale == 0:
            raise DataError(f"{path} is no PFM: expected PF or Pf, width, height and a scale in its first lines")
        width, height, channels = int(match[2]), int(match[3]), 3 if match[1] == b"PF" else 1
        check_pixels(path, height, width, max_pixels)
        file.seek(match.end())
        values = _values(path, file.read(4 * height * width * channels + 1), "<f4" if scale < 0 else ">f4")
    _check_count(path, values, height, width, channels)
    shape = (height, width, 3) if channels == 3 else (height, width)
    return values.reshape(shape)[::-1].astype(np.float32)


def write_pfm(path: str | Path, values: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) as a PFM of little-endian float32."""
    kind = "PF" if values.ndim == 3 else "Pf"
    with atomic_write(Path(path)) as part, part.open("wb") as file:
        file.write(f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode())
        file.write(np.ascontiguousarray(values[::-1], "<f4").tobytes())


def _read_flo(path: Path, max_pixels: int) -> np.ndarray:
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != _FLO:
            raise DataError(f"{path} is no .flo: expected the four letters PIEH at its begin, then width and height")
        width, height = np.frombuffer(head, "<i4", 2, 4).tolist()
        if min(width, height) < 1:
            raise DataError(
                f"{path} has {height} × {width} pixels (height × width), expected at least 1: copy it again"
            )
        check_pixels(path, height, width, max_pixels)
        values = _values(path, file.read(8 * height * width + 1), "<f4")
    _check_count(path, values, height, width, 2)
    return values.reshape(height, width, 2)


def _read_color_counts(path: Path, max_pixels: int) -> np.ndarray:
    """The counts of a 16-bit color PNG (H, W, 3) float32 in the order red, green, blue, which Pillow cuts to 8 bits."""
    check_regular(path)
    head = path.read_bytes()[:26] if path.stat().st_size < 1 << 31 else b""
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 26 or (head[24], head[25]) != (16, 2):
        raise DataError(f"{path} is no PNG with three channels of 16 bits, as which KITTI stores optical flow")
    check_pixels(path, int.from_bytes(head[20:24]), int.from_bytes(head[16:20]), max_pixels)
    cv2 = _opencv(path)
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        raise DataError(f"{path} is not a whole PNG file: copy it again, or take it away")
    return found[..., ::-1].astype(np.float32)


def _read_vectors(path: Path, max_pixels: int) -> np.ndarray:
    return read_stored(path, None, UPRIGHT, max_pixels, planes=2).transpose(1, 2, 0)


def _opencv(path: Path) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a PNG with 16 bits in each of three channels: pip install 'sfumato[geometry]' for it"
        ) from error
    return cv2


def _values(path: Path, data: bytes, kind: str) -> np.ndarray:
    """The numbers in the data; none if its length is no multiple of 4, which another check then refuses."""
    return np.frombuffer(data, kind) if len(data) % 4 == 0 else np.empty(0, kind)


def _check_count(path: Path, values: np.ndarray, height: int, width: int, channels: int) -> None:
    if values.size != height * width * channels:
        raise DataError(f"{path} does not hold the {height} × {width} values that its header names: copy it again")


def _check_shape(path: Path, found: tuple[int, ...], shape: tuple[int, ...] | None) -> None:
    if shape is not None and tuple(found) != tuple(shape):
        raise DataError(
            f"{path} has {found[0]} × {found[1]} pixels but its image has {shape[0]} × {shape[1]} (height × width): "
            "make both the same size"
        )


def _number(text: bytes) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if np.isfinite(found) else 0.0
