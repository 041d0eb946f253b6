"""The one door that image files come through: pictures, labels and depths, checked, each in one form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

LARGEST_COUNT = 65535  # of 16 bits
VALUES = ("classes", "depth", "inverse_depth", "disparity")
NEAREST = {"instances", *VALUES, *(f"{name}_valid" for name in VALUES)}


def read_image(path: str | Path) -> Tensor:
    """A picture as float32 (3, H, W) in [0, 1], turned upright as its EXIF entry says.

    Gray is repeated three times, palettes are looked up, 16-bit gray is divided by 65535, alpha is dropped (not
    composited: a camera has none). Float pictures must lie in [0, 1] already.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read to its end, or holds values that have no place in [0, 1].

    Pitfall: Pillow reads 16-bit color as 8-bit; only 16-bit gray keeps its depth.
    """
    picture = _opened(Path(path))
    if picture.mode[0] in "IF":  # 16-bit and 32-bit integers, floats
        gray = np.array(picture, dtype=np.float32)
        gray = gray if picture.mode == "F" else gray / LARGEST_COUNT
        if not (gray.min() >= 0 and gray.max() <= 1):  # written so that NaN is refused too
            largest = 1 if picture.mode == "F" else LARGEST_COUNT
            raise ValueError(
                f"{path} holds values outside 0 to {largest} (or NaN): rescale it, or save it as 8-bit PNG"
            )
        return torch.from_numpy(gray).expand(3, -1, -1).contiguous()
    picture.info.pop("transparency", None)  # the alpha of palette and gray files
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


def read_labels(
    path: str | Path, classes: int, void: int | None = None, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """The class of each pixel, from one channel of ids (gray, 16-bit gray, or the indices of a palette).

    Args:
        path: a PNG or another lossless file; or .npy.
        classes: K. Ids count from 0; from 1 where ``void`` is 0.
        void: the id of pixels without a class.
        shape: (H, W) that the image has.

    Returns:
        classes (H, W) int64 in 0 … K − 1, valid (H, W) bool; class 0 where not valid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has another size than the image, or holds an id that is no class.
    """
    stored = read_channel(Path(path), shape)
    if stored.dtype.kind == "f":
        raise ValueError(f"{path} holds floats, expected class ids: save them as integers")
    ids = torch.from_numpy(stored.astype(np.int64))
    valid = torch.ones_like(ids, dtype=torch.bool) if void is None else ids != void
    first = 1 if void == 0 else 0
    unknown = ids[valid & ((ids < first) | (ids >= first + classes))].unique().tolist()
    if unknown:
        void_said = "there is no void id" if void is None else f"void is {void}"
        raise ValueError(
            f"{path} holds label ids {_few(unknown)}, but the {classes} classes have ids {first} to "
            f"{first + classes - 1} and {void_said}: correct the label, or the list of classes"
        )
    return (ids - first).where(valid, 0), valid


def read_depth(
    path: str | Path, unit: float, minimum: float, maximum: float, shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """The depth of each pixel, from 16-bit counts (or floats).

    Args:
        path: a 16-bit gray PNG, a float TIFF, or .npy; a stored 0 means missing.
        unit: meters that a stored 1 stands for, as in 0.001 for millimeters.
        minimum: smallest depth that counts, meters; nearer is taken as missing.
        maximum: largest depth that counts, meters; farther is taken as missing.
        shape: (H, W) that the image has.

    Returns:
        depth (1, H, W) float32 meters, valid (H, W) bool; depth 0 where not valid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has another size than the image, or holds NaN, infinite or negative depth.
    """
    stored = read_channel(Path(path), shape)
    if not np.isfinite(stored).all():
        raise ValueError(f"{path} holds NaN or infinite depth: write 0 where depth is missing")
    if (stored < 0).any():
        raise ValueError(f"{path} holds negative depth: write 0 where depth is missing, positive values elsewhere")
    depth = torch.from_numpy(stored.astype(np.float32)) * unit
    valid = (depth > 0) & (depth >= minimum) & (depth <= maximum)
    return depth.where(valid, 0)[None], valid


def read_channel(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The one channel of a target file as it is stored, (H, W).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has more channels, or another size than ``shape``.
    """
    if path.suffix == ".npy":
        stored = _array(path)
    else:
        picture = _opened(path)
        if len(picture.getbands()) != 1:
            raise ValueError(
                f"{path} has the channels {', '.join(picture.getbands())}, expected one that holds ids or "
                "depths: save it as an 8-bit or 16-bit gray PNG"
            )
        stored = np.array(picture)
    if shape is not None and stored.shape != tuple(shape):
        raise ValueError(
            f"{path} has {' × '.join(map(str, stored.shape))} pixels but its image has "
            f"{' × '.join(map(str, shape))} (height × width): make both the same size"
        )
    return stored


def resized(sample: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """The sample with image, classes, instances, depth, disparity, masks and intrinsics at ``size``; None leaves it.

    Images are averaged over what falls into a pixel (bilinear, antialiased). Targets take the reading nearest to the
    pixel's center: a mean over an edge is a class or a place that does not exist. Disparity is a length in pixels, and
    scales with the width.

    Args:
        sample: of tensors (…, H, W).
        size: (height, width), pixels.

    Raises:
        ValueError: unless ``size`` is two positive numbers.

    >>> resized({"image": torch.tensor([[[0.0, 1.0]]]), "depth": torch.tensor([[[1.0, 3.0]]])}, (1, 1))
    {'image': tensor([[[0.5000]]]), 'depth': tensor([[[3.]]])}
    """
    if size is None:
        return sample
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, expected (height, width), each at least 1 pixel")
    height, width = sample["image"].shape[-2:]
    rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
    out = dict(sample)
    picture = interpolate(sample["image"][None], tuple(size), mode="bilinear", antialias=True)[0]
    out["image"] = picture.clamp_(0, 1)
    for key in sample.keys() & NEAREST:
        out[key] = sample[key][..., rows[:, None], columns]
    if "disparity" in sample:
        out["disparity"] = out["disparity"] * (size[1] / width)
    if "intrinsics" in sample:
        out["intrinsics"] = _rescaled(sample["intrinsics"], size[0] / height, size[1] / width)
    return out


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    # Pillow's decoders raise whatever went wrong deep inside them: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        reason = " ".join(str(error).replace(repr(str(path)), "it").split())
        raise ValueError(f"{path} is not a whole image file ({reason}): copy it anew, or take it away") from error


def _array(path: Path) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .npy file ({error}): save it anew with numpy.save") from error
    if stored.ndim != 2 or stored.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {stored.dtype} of shape {stored.shape}, expected numbers of shape (H, W)")
    return stored


def _nearest(old: int, new: int) -> Tensor:
    """Of each new pixel, the old pixel that holds its center."""
    return ((torch.arange(new) + 0.5) * (old / new)).long().clamp_max(old - 1)


def _rescaled(intrinsics: Tensor, down: float, across: float) -> Tensor:
    """Intrinsics (3, 3) in pixels after a resize; pixel centers lie at whole numbers, as in OpenCV and kornia."""
    scale = intrinsics.new_tensor([[across], [down], [1.0]])
    shift = intrinsics.new_tensor([[0.0, 0, 0.5 * across - 0.5], [0, 0, 0.5 * down - 0.5], [0, 0, 0]])
    return intrinsics * scale + shift


def _few(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
