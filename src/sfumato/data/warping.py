"""The steps of augmentation: exchange views, move pixels, recolor, mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sfumato.targets import MASK, EntryKind, Image, Warp, per_image

Tensors = dict[str, Tensor]
Kinds = Mapping[str, EntryKind]


def _is_stereo(tensors: Tensors, kinds: Kinds) -> bool:
    return any(isinstance(kinds[key], Image) and kinds[key].partner in tensors for key in tensors)


def can_flip(tensors: Tensors, kinds: Kinds) -> bool:
    """Whether a flip gives a correct sample: always for a single view, else only if each map has both views."""
    maps = [key for key in tensors if kinds[key].is_map]
    return not _is_stereo(tensors, kinds) or all(kinds[key].partner in tensors for key in maps)


def exchanged(tensors: Tensors, kinds: Kinds, flipped: Tensor) -> Tensors:
    """The batch with left and right views exchanged in the images that are flipped."""
    if not _is_stereo(tensors, kinds):
        return tensors
    partners = {key: kinds[key].partner for key in tensors if kinds[key].partner in tensors}
    flips = {key: per_image(flipped, tensors[key]) for key in partners}
    return tensors | {key: tensors[other].where(flips[key], tensors[key]) for key, other in partners.items()}


def moved(tensors: Tensors, kinds: Kinds, warp: Warp) -> Tensors:
    """All maps with their pixels moved: one warp for images and one for all others. float32 is exact for ids to 2²⁴."""
    from kornia.geometry.transform import warp_affine

    out = dict(tensors)
    for smooth in (True, False):
        keys = [key for key in tensors if kinds[key].is_map and kinds[key].smooth == smooth]
        if not keys:
            continue
        layers = [kinds[key].to_float(tensors[key]) for key in keys]
        layers = [layer if layer.ndim == 4 else layer[:, None] for layer in layers]
        mode, border = ("bilinear", "reflection") if smooth else ("nearest", "zeros")
        found = warp_affine(torch.cat(layers, 1), warp.matrix, warp.new, mode, border)
        for key, layer in zip(keys, found.split([layer.shape[1] for layer in layers], 1), strict=True):
            layer = layer if tensors[key].ndim == 4 else layer[:, 0]
            out[key] = layer if smooth or tensors[key].is_floating_point() else layer.to(tensors[key].dtype)
    return out


def recolored(image: Tensor, strengths: Tensor) -> Tensor:
    """An image with its brightness, contrast and saturation (3, B) multiplied; contrast and saturation of RGB only."""
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
    )

    brightness, contrast, saturation = strengths
    image = adjust_brightness_accumulative(image, brightness)
    if image.shape[1] == 3:
        image = adjust_contrast_with_mean_subtraction(image, contrast)
        image = adjust_saturation_with_gray_subtraction(image, saturation)
    return image.clamp(0, 1)


def masked(tensors: Tensors, kinds: Kinds, warp: Warp) -> Tensors:
    """Targets with 0 where they are not valid. What does not survive the warp is not valid, or left out if unmasked."""
    out = dict(tensors)
    for key, value in tensors.items():
        mask, holds = tensors.get(key + MASK), kinds[key].survives(warp)
        if mask is None:
            if not bool(holds.all()):
                del out[key]
            continue
        mask = mask & per_image(holds, mask)
        out[key + MASK] = mask
        out[key] = value.where(mask.reshape(*mask.shape[:1], *[1] * (value.ndim - mask.ndim), *mask.shape[1:]), 0)
    return out
