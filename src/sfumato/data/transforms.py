"""Resize a sample, and augment a batch: all entries together, each by the rules of its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data.warping import Kinds, Tensors, can_flip, exchanged, masked, moved, recolored
from sfumato.errors import ConfigError, DataError
from sfumato.targets import ENTRIES, EntryKind, Image, Size, Warp, kind_of


def resize(sample: Sample, size: Size | None, entries: Kinds = ENTRIES) -> Sample:
    """A sample at another size, with images averaged and targets taken from the nearest pixel.

    A target is never averaged, because a mean over an edge is a class or a place that does not exist.

    Args:
        sample: One sample, with maps (…, H, W).
        size: Height and width, pixels, each ≥ 1. None leaves the sample as it is.
        entries: The kind of each entry. An entry without a kind is left out.

    Raises:
        ConfigError: Unless ``size`` is two positive numbers.
        DataError: If the sample has no map.

    >>> resize({"image": torch.tensor([[[0.0, 1.0]]]), "depth": torch.tensor([[[1.0, 3.0]]])}, (1, 1))
    {'image': tensor([[[0.5000]]]), 'depth': tensor([[[3.]]])}
    """
    if size is None:
        return sample
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"size is {size}, expected (height, width), each at least 1 pixel")
    tensors, kinds = known_entries(sample, entries)
    old = map_size(tensors, kinds)
    out: Sample = {"name": sample["name"]} if "name" in sample else {}
    return out | {key: kinds[key].resize(value, old, size) for key, value in tensors.items()}


def tensor(sample: Mapping[str, object], key: str) -> Tensor:
    """An entry of a sample that is a tensor.

    Raises:
        DataError: If there is none.
    """
    value = sample.get(key)
    if not isinstance(value, Tensor):
        raise DataError(f"the sample {sample.get('name', '')} has no tensor {key!r}: it holds {', '.join(sample)}")
    return value


def to_float(batch: Mapping[str, object], entries: Kinds = ENTRIES) -> Tensors:
    """The tensors of a batch with every image as float32 in [0, 1]."""
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    return {
        key: kind.to_float(value) if isinstance(kind := kind_of(key, entries), Image) else value
        for key, value in tensors.items()
    }


def map_size(tensors: Mapping[str, Tensor], kinds: Kinds, where: str = "") -> Size:
    """Height and width that all maps have.

    Args:
        tensors: Entries by name.
        kinds: The kind of each of them.
        where: What a message begins with, as in ``"sample 'a': "``. Default: nothing.

    Raises:
        DataError: If there is no map, or two maps differ in size.
    """
    found = {key: (value.shape[-2], value.shape[-1]) for key, value in tensors.items() if kinds[key].is_map}
    if not found:
        raise DataError(
            f"{where}the entries {', '.join(tensors) or '(none)'} hold no map: expected an image, as in 'image'"
        )
    first, size = next(iter(found.items()))
    for key, other in found.items():
        if other != size:
            raise DataError(
                f"{where}{first} has {size[0]} × {size[1]} pixels but {key} has {other[0]} × {other[1]} "
                "(height × width): make both the same size"
            )
    return size


@dataclass(frozen=True)
class Augmentation:
    """Zoom, crop, flip and recolor a batch, each image at random, with all its entries.

    The pixel x of an image moves to ``s x + t``, which is the same for all entries of a sample. Images are interpolated
    bilinearly and continued by their mirror image beyond the border. Targets take the nearest pixel. Beyond the border
    they are not valid and 0.

    A zoom by s keeps the focal length. So the picture shows a scene whose depths are s times smaller. Each kind of
    entry in :mod:`sfumato.targets` says what that means for its values. A flip of a stereo pair exchanges the two
    views. A batch with a right view is flipped only if each of its maps exists for both views, such as ``disparity``
    and ``disparity_right``.

    All random numbers come from torch's global generator, seven for each image. So a seed determines the batch.

    Args:
        crop: Height and width of the result, pixels. None for those of the batch. Default None.
        scale: Smallest and largest zoom s > 0. It is drawn from a log-uniform distribution. Default (0.5, 2).
        flip: Whether images are mirrored left to right, each with probability ½. Default True.
        color: c in [0, 1]. Brightness, contrast and saturation are multiplied by factors drawn from [1 − c, 1 + c].
            Default 0.2.

    Raises:
        ConfigError: For a range that makes no sense.

    Source: Eigen, Puhrsch and Fergus (2014), §3.5, for depth under zoom.
    Pitfall: Bilinear interpolation aliases when it shrinks. Below ``scale`` 0.5 it leaves out pixels altogether.
    """

    crop: Size | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    color: float = 0.2

    def __post_init__(self) -> None:
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise ConfigError(f"crop is {self.crop}, expected (height, width), each at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ConfigError(f"scale is {self.scale}, expected 0 < smallest ≤ largest zoom, as in (0.5, 2.0)")
        if not 0 <= self.color <= 1:
            raise ConfigError(f"color is {self.color}, expected a strength in [0, 1], as in 0.2")

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, object], entries: Kinds = ENTRIES) -> Tensors:
        """A new batch; the given one is not changed.

        Args:
            batch: Tensors (B, …) on one device; uint8 images are allowed.
            entries: The kind of each entry. An entry without a kind is left out.

        Returns:
            The augmented entries: images as float32 in [0, 1], floating targets as float32.

        Raises:
            DataError: If the batch has no map, or maps of different sizes.
        """
        tensors, kinds = known_entries(batch, entries)
        old = map_size(tensors, kinds)
        count, device = len(next(iter(tensors.values()))), next(iter(tensors.values())).device
        # Drawn on the CPU, so that a seed means the same on every device.
        drawn = torch.rand(7, count).to(device)
        flipped = (drawn[3] < 0.5) & self.flip & can_flip(tensors, kinds)
        # Mixed precision would compute the place of a pixel in bfloat16, to the nearest of 256 steps.
        with torch.autocast(device.type, enabled=False):
            warp = self._warp(drawn[:3], flipped, old)
            found = moved(exchanged(tensors, kinds, flipped), kinds, warp)
            out = {key: kinds[key].warp(value, warp) for key, value in found.items()}
            strengths = 1 + self.color * (2 * drawn[4:] - 1)  # one light for all views of a scene
            out |= {key: recolored(out[key], strengths) for key in out if isinstance(kinds[key], Image)}
        return masked(out, kinds, warp)

    def _warp(self, drawn: Tensor, flipped: Tensor, old: Size) -> Warp:
        """Zooms, places of the crop, and the matrices that map a pixel to its new place."""
        new = self.crop or old
        low, high = (math.log(zoom) for zoom in self.scale)
        zoom = (low + (high - low) * drawn[0]).exp()
        flip = 1 - 2 * flipped.float()
        # The crop lies anywhere inside the zoomed image, or the image anywhere inside the crop. Its place is a whole
        # number of pixels, so that a crop alone interpolates nothing.
        down = (drawn[1] * (zoom * old[0] - new[0])).round()
        across = (drawn[2] * (zoom * old[1] - new[1])).round()
        y = 0.5 * zoom - 0.5 - down  # pixel centers are at whole numbers; the image's edge is half a pixel further out
        x = 0.5 * zoom - 0.5 - across
        x = x.where(flip > 0, new[1] - 1 - x)
        zero = torch.zeros_like(zoom)
        rows = [torch.stack([flip * zoom, zero, x], -1), torch.stack([zero, zoom, y], -1)]
        return Warp(torch.stack(rows, 1), zoom, flip, old, new)


def known_entries(sample: Mapping[str, object], entries: Kinds) -> tuple[Tensors, dict[str, EntryKind]]:
    """The tensors that have a kind, and their kinds."""
    found = {key: (value, kind_of(key, entries)) for key, value in sample.items() if isinstance(value, Tensor)}
    kinds = {key: kind for key, (_, kind) in found.items() if kind is not None}
    return {key: found[key][0] for key in kinds}, kinds
