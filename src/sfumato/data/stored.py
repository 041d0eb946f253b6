"""Read files of targets as they are stored, turned upright, and check that they fit their image.

A target and its image are compared as they are shown, each turned as its own EXIF entry says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.data.images import MAX_PIXELS, UPRIGHT, check_pixels, check_regular, open_picture
from sfumato.errors import DataError


def read_channel(
    path: Path, shape: tuple[int, ...] | None = None, orientation: int = UPRIGHT, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read the one channel of a target file as it is stored, (H, W), turned upright.

    Args:
        path: The file.
        shape: (H, W) of the image, which the file must have. None for any. Default None.
        orientation: The EXIF orientation of the image in its file, 1 to 8. Default 1, upright.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, has several channels, or does not fit the image.
    """
    stored = read_stored(path, shape, orientation, max_pixels)
    if stored.ndim != 2:
        raise DataError(
            f"{path} has {stored.shape[2]} channels, expected one that holds ids, depths or a mask: save it as an "
            "8-bit or 16-bit gray PNG"
        )
    return stored


def read_stored(
    path: Path, shape: tuple[int, ...] | None, orientation: int, max_pixels: int, planes: int = 0
) -> np.ndarray:
    """A target file as it is stored, (H, W) or (H, W, channels), turned upright. Arguments as of :func:`read_channel`.

    Args:
        path: The file.
        shape: (H, W) of the image.
        orientation: The EXIF orientation of the image.
        max_pixels: The largest number of pixels that is read.
        planes: Number of planes that a .npy file (planes, H, W) may have instead. Default 0: none.
    """
    if path.suffix.lower() == ".npy":
        stored, own = _array(path, max_pixels, planes), UPRIGHT
        _check_fits(path, stored.shape[-2:], shape, own, orientation)
        return stored
    picture, own = open_picture(path, max_pixels)
    stored = _colors_of_gif(picture) if picture.format == "GIF" and picture.mode == "P" else np.array(picture)
    _check_fits(path, stored.shape[:2], shape, own, orientation)
    return stored


def _colors_of_gif(picture: Image.Image) -> np.ndarray:
    """(H, W) if all colors are gray, else (H, W, 3)."""
    colors = np.array(picture.convert("RGB"))
    return colors[..., 0] if bool((colors == colors[..., :1]).all()) else colors


def _check_fits(path: Path, found: tuple[int, ...], shape: tuple[int, ...] | None, own: int, orientation: int) -> None:
    """Check that a target has the size of its image, and that it is known on which pixels it was drawn."""
    if shape is None:
        return
    turned = own == UPRIGHT != orientation
    told_apart = orientation >= 5 and shape[0] != shape[1]  # turned by 90 degrees, so that height and width change
    if found == tuple(shape) and (told_apart or not turned):
        return
    if turned and found in (tuple(shape), tuple(shape)[::-1]):
        raise DataError(
            f"the EXIF entry of its image says that the image is stored turned or mirrored (orientation "
            f"{orientation}), but {path} has no such entry, so it may be drawn on the stored pixels or on the shown "
            "ones: save the image upright, without the entry (`mogrify -auto-orient` does), if the label fits what is "
            "shown, or remove the entry (`exiftool -Orientation=`) if it fits the stored pixels"
        )
    sizes = " × ".join(map(str, found)), " × ".join(map(str, shape))
    exif = " as the EXIF orientation shows them" if (own, orientation) != (UPRIGHT, UPRIGHT) else ""
    raise DataError(
        f"{path} has {sizes[0]} pixels but its image has {sizes[1]} (height × width){exif}: make both the same size"
    )


def _array(path: Path, max_pixels: int, planes: int) -> np.ndarray:
    check_regular(path)
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, so that a header cannot ask for memory
    except MemoryError:
        raise
    except Exception as error:  # numpy reads the header with a parser that may fail in many ways
        raise DataError(f"{path} is not a whole .npy file ({error}): save it again with numpy.save") from error
    expected = f"({planes}, H, W)" if planes and getattr(stored, "ndim", 2) != 2 else "(H, W)"
    if not isinstance(stored, np.ndarray) or stored.ndim not in ((2, 3) if planes else (2,)):
        shape = stored.shape if isinstance(stored, np.ndarray) else "an archive"
        raise DataError(f"{path} has the shape {shape}, expected numbers of shape {expected}")
    if stored.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {stored.dtype}, expected numbers of shape {expected}")
    if planes and stored.ndim == 3 and len(stored) != planes:
        raise DataError(f"{path} has the shape {stored.shape}, expected ({planes}, height, width)")
    check_pixels(path, stored.shape[-2], stored.shape[-1], max_pixels)
    return np.array(stored)
