"""Random zoom, crop, flip and color for images and everything that is known of their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from kornia.geometry.transform import warp_affine
from torch import Tensor

Batch = dict[str, Any]

PICTURES = ("image", "right", "next")
NEARER_WHEN_ZOOMED = ("depth", "depth_true")  # meters
LONGER_WHEN_ZOOMED = ("disparity", "centers", "flow", "inverse_depth")  # pixels, and one over meters
POINTING = ("centers", "flow")  # (dx, dy): a mirror turns dx round
DX = slice(0, 4, 3)  # a student's target is dx, dy, whether they are known, the teacher's dx and dy, and their spread
OTHERS = ("classes", "class_probs", "depth_sigma", "instances", "novel")
MASKS = (
    "classes_valid", "depth_valid", "inverse_depth_valid", "disparity_valid", "centers_valid", "flow_valid",
)  # fmt: skip
TARGETS = (*OTHERS, *NEARER_WHEN_ZOOMED, *LONGER_WHEN_ZOOMED, *MASKS)


@dataclass(frozen=True)
class Augmentation:
    """Zoom, crop, mirror and recolor a batch, each image in its own way, its targets with it.

    Pixel x of an image goes to ``s x + t``, the same for all entries: images are interpolated bilinearly and continued
    by their mirror image beyond the border; targets take the nearest pixel and are invalid, and 0, beyond the border.

    A picture zoomed by s under a focal length that stays is the picture of a world s times nearer: depth is divided
    by s; its inverse, disparity, flow and center vectors are multiplied by s; intrinsics keep f and move the principal
    point.
    (Poses are left out: no camera in the old world sees the new picture.) Mirroring turns dx of vectors round; stereo
    batches are not mirrored, since their left view would become a right one.

    Args:
        crop: (height, width) of the result, pixels; None for that of the batch.
        scale: range of the zoom s, drawn log-uniformly, > 0.
        flip: whether to mirror images left to right, each with probability ½.
        color: c in [0, 1]; brightness, contrast and saturation are multiplied by factors drawn from [1 − c, 1 + c].

    Returns:
        Of a call: a new batch with ``name``, ``image`` and every target named here; other entries are left out.

    Raises:
        ValueError: for a range that makes no sense.

    All randomness comes from torch's global generator, seven numbers an image: seed it and the batch is the same.

    Source: Eigen, Puhrsch and Fergus (2014), §3.5, for depth under zoom.
    Pitfall: bilinear interpolation aliases when it shrinks; below ``scale`` 0.5 it leaves pixels out altogether.
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    color: float = 0.2

    def __post_init__(self) -> None:
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop is {self.crop}, expected (height, width), each at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise ValueError(f"scale is {self.scale}, expected 0 < smallest ≤ largest zoom, as in (0.5, 2.0)")
        if not 0 <= self.color <= 1:
            raise ValueError(f"color is {self.color}, expected a strength in [0, 1], as in 0.2")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """The batch (of ``image`` (B, 3, H, W) and more) anew; the batch given is left as it was."""
        image = batch["image"]
        # Drawn on the CPU, so that a seed means the same on every device.
        drawn = torch.rand(7, len(image)).to(image.device)
        size = self.crop or (image.shape[-2], image.shape[-1])
        mirror = 1 - 2 * ((drawn[3] < 0.5) & self.flip & ("right" not in batch)).float()
        # Mixed precision would compute where a pixel goes in bf16, to the nearest of 256 steps.
        with torch.autocast(image.device.type, enabled=False):
            zoom, matrix = self._motion(drawn[:3], mirror, image.shape[-2:], size)
            out = self._pictures(batch, matrix, size, drawn[4:]) | _targets(batch, matrix, size)
            _rescale(out, zoom, mirror)
            if "intrinsics" in batch:
                out["intrinsics"] = _moved(batch["intrinsics"], matrix)
        for key in out.keys() & set(MASKS):
            if (value := key.removesuffix("_valid")) in out:
                mask = out[key] if out[value].ndim == 3 else out[key][:, None]
                out[value] = out[value].where(mask, 0)
        return out | {key: batch[key] for key in ("name",) if key in batch}

    def _motion(self, drawn: Tensor, mirror: Tensor, old: torch.Size, new: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Zoom (B,), and the matrix (B, 2, 3) that takes a pixel to where it goes."""
        low, high = (math.log(zoom) for zoom in self.scale)
        zoom = (low + (high - low) * drawn[0]).exp()
        # The window's corner in the zoomed image: anywhere inside it, or it anywhere inside the window. Whole pixels,
        # so that a crop alone interpolates nothing.
        down = (drawn[1] * (zoom * old[0] - new[0])).round()
        across = (drawn[2] * (zoom * old[1] - new[1])).round()
        y = 0.5 * zoom - 0.5 - down  # pixel centers lie at whole numbers, the image's edge half a pixel further out
        x = 0.5 * zoom - 0.5 - across
        x = x.where(mirror > 0, new[1] - 1 - x)
        zero = torch.zeros_like(zoom)
        rows = [torch.stack([mirror * zoom, zero, x], -1), torch.stack([zero, zoom, y], -1)]
        return zoom, torch.stack(rows, 1)

    def _pictures(self, batch: Batch, matrix: Tensor, size: tuple[int, int], drawn: Tensor) -> Batch:
        keys = [key for key in PICTURES if key in batch]
        views = torch.cat([batch[key].float() for key in keys], 1)
        views = warp_affine(views, matrix, size, padding_mode="reflection")
        brightness, contrast, saturation = 1 + self.color * (2 * drawn - 1)
        out: Batch = {}
        for key, view in zip(keys, views.split(3, 1)):  # one light for all views of a scene
            view = adjust_brightness_accumulative(view, brightness)
            view = adjust_contrast_with_mean_subtraction(view, contrast)
            out[key] = adjust_saturation_with_gray_subtraction(view, saturation).clamp(0, 1)
        return out


def _targets(batch: Batch, matrix: Tensor, size: tuple[int, int]) -> Batch:
    """Every target by one warp, as channels of one picture; float32 holds ids exactly up to 2²⁴."""
    keys = [key for key in TARGETS if key in batch]
    if not keys:
        return {}
    layers = [batch[key].float() for key in keys]
    layers = [layer if layer.ndim == 4 else layer[:, None] for layer in layers]
    warped = warp_affine(torch.cat(layers, 1), matrix, size, mode="nearest")
    split = warped.split([layer.shape[1] for layer in layers], 1)
    return {key: (v if batch[key].ndim == 4 else v[:, 0]).to(batch[key].dtype) for key, v in zip(keys, split)}


def _rescale(out: Batch, zoom: Tensor, mirror: Tensor) -> None:
    factor = zoom[:, None, None, None]
    for key in out.keys() & set(NEARER_WHEN_ZOOMED):
        out[key] = out[key] / factor
    for key in out.keys() & set(LONGER_WHEN_ZOOMED):
        out[key] = out[key] * factor
    for key in out.keys() & set(POINTING):
        turned = torch.ones(out[key].shape[:2], device=mirror.device)
        turned[:, DX] = mirror[:, None]
        out[key] = out[key] * turned[:, :, None, None]


def _moved(intrinsics: Tensor, matrix: Tensor) -> Tensor:
    """The principal point goes where its pixel goes; f stays."""
    out = intrinsics.clone()
    out[:, :2, 2:] = matrix[:, :, :2] @ intrinsics[:, :2, 2:] + matrix[:, :, 2:]
    return out
