"""Read files of targets: classes by their ids or colors, probabilities, and depths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.data.images import MAX_PIXELS, UPRIGHT
from sfumato.data.stored import read_channel, read_stored
from sfumato.errors import DataError

TARGETS = (".png", ".tif", ".tiff", ".bmp", ".pgm", ".gif", ".npy")
"""Endings of the files that are read as targets. JPEG would blur one class id into another."""

Color = tuple[int, int, int]
Void = int | Color | None


def read_labels(
    path: str | Path,
    classes: int,
    void: int | None = None,
    shape: tuple[int, ...] | None = None,
    orientation: int = UPRIGHT,
) -> tuple[Tensor, Tensor]:
    """Read the class of each pixel from ids that count from 0, or from 1 if ``void`` is 0.

    Args:
        path: As of :func:`read_classes`.
        classes: K, the number of classes.
        void: The id of pixels without a class. None if there is none. Default None.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        orientation: The EXIF orientation of the image in its file, 1 to 8. Default 1, upright.

    Returns:
        classes (H, W) int64 in 0 … K − 1, valid (H, W) bool. The class is 0 where it is not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, does not fit the image, or holds an id that is no class.
    """
    first = 1 if void == 0 else 0
    ids = {first + number: number for number in range(classes)}
    return read_classes(path, ids, void=void, shape=shape, orientation=orientation)


def read_classes(
    path: str | Path,
    ids: Mapping[int, int],
    colors: Mapping[Color, int] | None = None,
    void: Void = None,
    shape: tuple[int, ...] | None = None,
    orientation: int = UPRIGHT,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, Tensor]:
    """Read the class of each pixel, from ids in one channel or from colors.

    One channel holds ids: gray, 16-bit gray, or the indices of a palette. Three channels hold colors. A GIF has no gray
    values, and programs order its palette as they like. So of a GIF the colors are read: gray ones are ids.

    Args:
        path: A PNG or another lossless image file, or .npy.
        ids: The class, 0 … K − 1, of each id.
        colors: The class of each color (red, green, blue). None if files hold ids only. Default None.
        void: The id or the color of pixels without a class. None if there is none. Default None.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        orientation: The EXIF orientation of the image in its file, 1 to 8. Default 1, upright.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Returns:
        classes (H, W) int64 in 0 … K − 1, valid (H, W) bool. The class is 0 where it is not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, does not fit the image, or holds an id or a color that is no class.
    """
    path = Path(path)
    stored = read_stored(path, shape, orientation, max_pixels)
    if stored.dtype.kind == "f":
        raise DataError(f"{path} holds floats, expected class ids: save them as integers, or name it `probabilities:`")
    colored = stored.ndim == 3
    table = {_number(color): index for color, index in (colors or {}).items()} if colored else ids
    numbers = _packed(path, stored, colors) if colored else stored
    empty = _number(void) if isinstance(void, tuple) else void
    found, valid, unknown = _looked_up(numbers, table, empty if colored == isinstance(void, tuple) else None)
    if unknown:
        raise DataError(f"{path} holds {_unknown(unknown, colored, ids, void)}")
    return torch.from_numpy(found), torch.from_numpy(valid)


def read_probabilities(
    path: str | Path,
    classes: int,
    shape: tuple[int, ...] | None = None,
    orientation: int = UPRIGHT,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read the probabilities of the classes of each pixel.

    Args:
        path: One channel with the probability of the last of two classes: 8-bit gray (255 is 1), 16-bit gray (65535 is
            1), or floats in [0, 1] in a TIFF or .npy. Or a .npy of floats (K, H, W) that add up to 1.
        classes: K, the number of classes.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        orientation: The EXIF orientation of the image in its file, 1 to 8. Default 1, upright.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Returns:
        Probabilities (K, H, W) float32 with the sum 1 over the classes.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, does not fit the image, or holds no probabilities.
    """
    path = Path(path)
    planes = classes if path.suffix.lower() == ".npy" else 0
    stored = read_stored(path, shape, orientation, max_pixels, planes)
    if stored.ndim == 3 and not planes:
        raise DataError(f"{path} has {stored.shape[2]} channels, expected one: save several probabilities as .npy")
    largest = {"u": np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1, "i": 65535}.get(stored.dtype.kind, 1)
    values = torch.from_numpy(stored.astype(np.float32)) / largest
    if not (bool((values >= 0).all()) and bool((values <= 1).all())):  # written so that NaN is refused too
        raise DataError(f"{path} holds values outside 0 to {largest} (or NaN), expected probabilities")
    if values.ndim == 2:
        if classes != 2:
            raise DataError(
                f"{path} holds one probability for each pixel, but there are {classes} classes: save floats of shape "
                f"({classes}, height, width) as .npy"
            )
        return torch.stack([1 - values, values])
    sums = values.sum(0)
    if bool(((sums - 1).abs() > 1e-2).any()):
        raise DataError(
            f"{path} holds probabilities with the sum {float(sums.min()):g} to {float(sums.max()):g}: expected 1"
        )
    return values / sums


def read_depth(
    path: str | Path,
    unit: float,
    minimum: float,
    maximum: float,
    shape: tuple[int, ...] | None = None,
    orientation: int = UPRIGHT,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, Tensor]:
    """Read the depth of each pixel from 16-bit counts or floats.

    Args:
        path: A 16-bit gray PNG, a float TIFF, or .npy. A stored 0 means missing.
        unit: The meters that a stored 1 stands for, as in 0.001 for millimeters.
        minimum: Smallest depth that counts, meters. Nearer pixels are not valid.
        maximum: Largest depth that counts, meters. Farther pixels are not valid.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        orientation: The EXIF orientation of the image in its file, 1 to 8. Default 1, upright.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Returns:
        depth (1, H, W) float32 meters, valid (H, W) bool. The depth is 0 where it is not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, does not fit the image, or holds NaN, infinite or negative depth.
    """
    stored = read_channel(Path(path), shape, orientation, max_pixels)
    if not np.isfinite(stored).all():
        raise DataError(f"{path} holds NaN or infinite depth: write 0 where depth is missing")
    if (stored < 0).any():
        raise DataError(f"{path} holds negative depth: write 0 where depth is missing, positive values elsewhere")
    depth = torch.from_numpy(stored.astype(np.float32)) * unit
    valid = (depth > 0) & (depth >= minimum) & (depth <= maximum)
    return depth.where(valid, 0)[None], valid


def _packed(path: Path, stored: np.ndarray, colors: Mapping[Color, int] | None) -> np.ndarray:
    """Each color as one number."""
    if colors is None or stored.shape[2] not in (3, 4):
        raise DataError(
            f"{path} has {stored.shape[2]} channels, expected one that holds ids: save it as an 8-bit or 16-bit gray "
            "PNG, or give the `colors:` of the classes"
        )
    red, green, blue = (stored[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _number(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _looked_up(
    stored: np.ndarray, table: Mapping[int, int], empty: int | None
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The class of each number, whether it has one, and the numbers that are not in the table.

    ``empty`` is the number that stands for no class.
    """
    valid = np.ones(stored.shape, bool) if empty is None else stored != empty
    if stored.dtype in (np.uint8, np.uint16):  # a table of all numbers takes a third of the memory of a search
        found = np.full(np.iinfo(stored.dtype).max + 1, -1, np.int64)
        for number, index in table.items():
            found[number : number + 1] = index
        classes = found[stored]
        unknown = np.unique(stored[valid & (classes < 0)]).tolist()
        classes[~valid] = 0
        return classes, valid, unknown
    known = np.array(sorted(table), np.int64)
    stored = stored.astype(np.int64)
    place = np.searchsorted(known, stored).clip(max=len(known) - 1)
    unknown = np.unique(stored[valid & (known[place] != stored)]).tolist()
    classes = np.array([table[int(number)] for number in known], np.int64)[place]
    return np.where(valid, classes, 0), valid, unknown


def _unknown(unknown: list[int], colored: bool, ids: Mapping[int, int], void: Void) -> str:
    empty = "there is no void" if void is None else f"void is {void}"
    if colored:
        listed = _few([f"({n >> 16}, {n >> 8 & 255}, {n & 255})" for n in unknown])
        return f"the colors {listed}, which are of no class, and {empty}: correct the label, or `colors:`"
    return (
        f"label ids {_few([str(n) for n in unknown])}, but the {len(ids)} classes have ids {_ranges(sorted(ids))} and "
        f"{empty}: correct the label, or name its ids, as in `classes: {{0: background, 255: vessel}}`"
    )


def _ranges(ids: list[int]) -> str:
    return f"{ids[0]} to {ids[-1]}" if ids[-1] - ids[0] == len(ids) - 1 else _few([str(number) for number in ids])


def _few(texts: list[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
