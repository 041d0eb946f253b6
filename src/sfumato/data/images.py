"""Open image files within limits, and read pictures. Files of targets are read by :mod:`sfumato.data.target_files`."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sfumato.errors import DataError, MissingFileError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".gif")
"""Endings of the files that are read as images, everywhere in the package."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "PPM", "GIF")
"""Formats that are decoded, whatever the ending. Pillow would run another program for some others, such as EPS."""

LARGEST_COUNT = 65535  # of 16 bits
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112  # the EXIF entry that says how a picture is turned
UPRIGHT = 1  # its value for a picture that is stored as it is shown
_pillow = threading.RLock()


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture as RGB, turned upright as its EXIF entry says.

    Gray is repeated three times, palettes are looked up, 16-bit gray is divided by 65535, and alpha is dropped. Of an
    animation the first frame is read. Float pictures must lie in [0, 1] already.

    Args:
        path: Path of the file: PNG, JPEG, TIFF, BMP, WebP, PPM, PGM or GIF.
        max_pixels: The largest number of pixels that is read. It is checked before anything is decoded. Default 64
            million.

    Returns:
        (3, H, W): uint8 from a file with 8 bits, else float32 in [0, 1].

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no regular file, has too many pixels, cannot be read to its end, or holds values outside
            [0, 1].

    Pitfall: Pillow reads 16-bit color as 8-bit. Only 16-bit gray keeps its depth.
    """
    return read_turned_image(path, max_pixels)[0]


def read_turned_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, int]:
    """A picture as :func:`read_image` gives it, and its EXIF orientation in the file, 1 (upright) to 8."""
    picture, orientation = open_picture(Path(path), max_pixels)
    return _as_rgb(picture, str(path)), orientation


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A picture as :func:`read_image` gives it, from the bytes of its file.

    Args:
        content: The bytes.
        name: What messages call the picture.
        max_pixels: The largest number of pixels that is read. Default 64 million.

    Raises:
        DataError: As :func:`read_image`.
    """
    return _as_rgb(_decoded(io.BytesIO(content), name, max_pixels)[0], name)


def _as_rgb(picture: Image.Image, name: str) -> Tensor:
    if picture.mode[0] in "IF":  # 16-bit and 32-bit integers, floats
        gray = np.array(picture).astype(np.float32)
        gray = gray if picture.mode == "F" else gray / LARGEST_COUNT
        if not (gray.min() >= 0 and gray.max() <= 1):  # written so that NaN is refused too
            largest = 1 if picture.mode == "F" else LARGEST_COUNT
            raise DataError(f"{name} holds values outside 0 to {largest} (or NaN): rescale it, or save it as 8-bit PNG")
        return torch.from_numpy(gray).expand(3, -1, -1).contiguous()
    picture.info.pop("transparency", None)  # the alpha of palette and gray files
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def open_picture(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, int]:
    """A decoded image file, turned upright as its EXIF entry says, and the orientation that the entry named.

    Args:
        path: Path of the file.
        max_pixels: The largest number of pixels that is read.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no regular file, has too many pixels, or cannot be read to its end.
    """
    check_regular(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): change its permissions, or take it away") from error
    with stream:  # a stream, because of a path Pillow 13 maps the pixels of a turned TIFF wrongly
        return _decoded(stream, str(path), max_pixels)


def _decoded(stream: IO[bytes], name: str, max_pixels: int) -> tuple[Image.Image, int]:
    try:
        with _own_limit(), Image.open(stream, formats=FORMATS) as picture:
            check_pixels(name, picture.height, picture.width, max_pixels)
            orientation = int(picture.getexif().get(ORIENTATION, UPRIGHT))  # before load, which may turn a TIFF
            picture.load()
            kind = picture.format
            picture = ImageOps.exif_transpose(picture)
            picture.format = kind
            return picture, orientation if 1 <= orientation <= 8 else UPRIGHT
    except (DataError, MemoryError):
        raise
    # Pillow's decoders raise whatever went wrong inside them: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        reason = " ".join(re.sub(r"<_io\.[^>]*>", "it", str(error)).split())
        raise DataError(f"{name} is not a whole image file ({reason}): copy it again, or take it away") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file by its header, px, as it is stored.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no image file.
    """
    check_regular(path)
    try:
        with _own_limit(), path.open("rb") as stream, Image.open(stream, formats=FORMATS) as picture:
            return picture.height, picture.width
    except Exception as error:  # as in open_picture
        raise DataError(f"{path} is no image file: copy it again, or take it away") from error


@contextmanager
def _own_limit() -> Iterator[None]:
    """No limit and no warning of Pillow while a file is read; :func:`check_pixels` checks the size in the header."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error that follows says the same
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_pixels(path: Path | str, height: int, width: int, max_pixels: int) -> None:
    """Check that a file has at most ``max_pixels`` pixels.

    Raises:
        DataError: If not. The message names what raises the limit.
    """
    if height * width > max_pixels:
        raise DataError(
            f"{path} has {height} × {width} pixels, more than {max_pixels / 1e6:g} megapixels: make it smaller, or "
            "raise the limit (max_megapixels in sfumato.yaml, --max-megapixels of predict, max_pixels in Python)"
        )


def check_regular(path: Path) -> None:
    """Refuse what does not exist, and what reading would wait for or never end, such as a pipe.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no regular file.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is a folder, a pipe or a device, expected a regular file: put an image in its place")
