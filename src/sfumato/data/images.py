"""Read and check image files: pictures, class ids and depths. Nothing else in the package opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sfumato.errors import DataError, MissingFileError

LARGEST_COUNT = 65535  # of 16 bits


def read_image(path: str | Path) -> Tensor:
    """Read a picture as RGB, turned upright as its EXIF entry says.

    Gray is repeated three times, palettes are looked up, 16-bit gray is divided by 65535, and alpha is dropped. Float
    pictures must lie in [0, 1] already.

    Args:
        path: Path of the file, in any format that Pillow reads.

    Returns:
        (3, H, W): uint8 from a file with 8 bits, else float32 in [0, 1].

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read to its end, or holds values outside [0, 1].

    Pitfall: Pillow reads 16-bit color as 8-bit. Only 16-bit gray keeps its depth.
    """
    picture = _opened(Path(path))
    if picture.mode[0] in "IF":  # 16-bit and 32-bit integers, floats
        gray = np.array(picture, dtype=np.float32)
        gray = gray if picture.mode == "F" else gray / LARGEST_COUNT
        if not (gray.min() >= 0 and gray.max() <= 1):  # written so that NaN is refused too
            largest = 1 if picture.mode == "F" else LARGEST_COUNT
            raise DataError(f"{path} holds values outside 0 to {largest} (or NaN): rescale it, or save it as 8-bit PNG")
        return torch.from_numpy(gray).expand(3, -1, -1).contiguous()
    picture.info.pop("transparency", None)  # the alpha of palette and gray files
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_labels(
    path: str | Path, classes: int, void: int | None = None, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Read the class of each pixel from one channel of ids: gray, 16-bit gray, or the indices of a palette.

    Args:
        path: A PNG or another lossless image file, or .npy.
        classes: K, the number of classes. Ids count from 0, or from 1 if ``void`` is 0.
        void: The id of pixels without a class. None if there is none. Default None.
        shape: (H, W) of the image, which the file must have. None for any. Default None.

    Returns:
        classes (H, W) int64 in 0 … K − 1, valid (H, W) bool. The class is 0 where it is not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, has another size than the image, or holds an id that is no class.
    """
    stored = read_channel(Path(path), shape)
    if stored.dtype.kind == "f":
        raise DataError(f"{path} holds floats, expected class ids: save them as integers")
    ids = torch.from_numpy(stored.astype(np.int64))
    valid = torch.ones_like(ids, dtype=torch.bool) if void is None else ids != void
    first = 1 if void == 0 else 0
    unknown = ids[valid & ((ids < first) | (ids >= first + classes))].unique().tolist()
    if unknown:
        void_id = "there is no void id" if void is None else f"void is {void}"
        raise DataError(
            f"{path} holds label ids {_few(unknown)}, but the {classes} classes have ids {first} to "
            f"{first + classes - 1} and {void_id}: correct the label, or the list of classes"
        )
    return (ids - first).where(valid, 0), valid


def read_depth(
    path: str | Path, unit: float, minimum: float, maximum: float, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Read the depth of each pixel from 16-bit counts or floats.

    Args:
        path: A 16-bit gray PNG, a float TIFF, or .npy. A stored 0 means missing.
        unit: The meters that a stored 1 stands for, as in 0.001 for millimeters.
        minimum: Smallest depth that counts, meters. Nearer pixels are not valid.
        maximum: Largest depth that counts, meters. Farther pixels are not valid.
        shape: (H, W) of the image, which the file must have. None for any. Default None.

    Returns:
        depth (1, H, W) float32 meters, valid (H, W) bool. The depth is 0 where it is not valid.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, has another size than the image, or holds NaN, infinite or negative depth.
    """
    stored = read_channel(Path(path), shape)
    if not np.isfinite(stored).all():
        raise DataError(f"{path} holds NaN or infinite depth: write 0 where depth is missing")
    if (stored < 0).any():
        raise DataError(f"{path} holds negative depth: write 0 where depth is missing, positive values elsewhere")
    depth = torch.from_numpy(stored.astype(np.float32)) * unit
    valid = (depth > 0) & (depth >= minimum) & (depth <= maximum)
    return depth.where(valid, 0)[None], valid


def read_channel(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read the one channel of a target file as it is stored, (H, W).

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, has several channels, or another size than ``shape``.
    """
    if path.suffix == ".npy":
        stored = _array(path)
    else:
        picture = _opened(path)
        if len(picture.getbands()) != 1:
            raise DataError(
                f"{path} has the channels {', '.join(picture.getbands())}, expected one that holds ids or "
                "depths: save it as an 8-bit or 16-bit gray PNG"
            )
        stored = np.array(picture)
    if shape is not None and stored.shape != tuple(shape):
        raise DataError(
            f"{path} has {' × '.join(map(str, stored.shape))} pixels but its image has "
            f"{' × '.join(map(str, shape))} (height × width): make both the same size"
        )
    return stored


def _check_regular(path: Path) -> None:
    """Refuse what does not exist, and what reading would wait for or never end, such as a pipe."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is a folder, a pipe or a device, expected a regular file: put an image in its place")


def _opened(path: Path) -> Image.Image:
    _check_regular(path)
    try:
        with Image.open(path) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    # Pillow's decoders raise whatever went wrong inside them: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        reason = " ".join(str(error).replace(repr(str(path)), "it").split())
        raise DataError(f"{path} is not a whole image file ({reason}): copy it again, or take it away") from error


def _array(path: Path) -> np.ndarray:
    _check_regular(path)
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole .npy file ({error}): save it again with numpy.save") from error
    if stored.ndim != 2 or stored.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {stored.dtype} of shape {stored.shape}, expected numbers of shape (H, W)")
    return stored


def _few(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
