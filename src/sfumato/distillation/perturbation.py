"""Change images so that a teacher is asked where it is uncertain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sfumato.data.transforms import known_entries, map_size
from sfumato.errors import ConfigError
from sfumato.targets import EntryKind, Image, Size

NOISE = (0.02, 0.5)  # standard deviation of the noise, where images lie in [0, 1]
BLUR = (0.002, 0.02)  # standard deviation of the Gaussian in shares of the longer side
LIGHT = (0.15, 2.0)  # factor of the brightness
SATURATION = (-1.0, 2.0)  # 0 makes an image gray, −1 turns colors to their complements
TINT = (0.6, 1.7)  # factor of the brightness of each channel
SIDES = (0.25, 0.75)  # height and width of a pasted rectangle in shares of those of the image


@dataclass(frozen=True)
class Perturbation:
    """Noise, blur, strong changes of color and CutMix for some images of an augmented batch.

    An image is chosen with probability ``share``, and then each of the four changes with probability ½. Standard
    deviations and factors are drawn from log-uniform distributions: noise of 0.02 to 0.5, a Gaussian blur of 0.2 to 2 %
    of the longer side, brightness times 0.15 to 2 and that of each channel times 0.6 to 1.7. The saturation is drawn
    from [−1, 2]. CutMix pastes a rectangle of another image of the batch, with its targets and masks, at the same
    place; its height and width are ¼ to ¾ of those of the image. It is left out in batches of one image, and where an
    input or a target belongs to an image as a whole. All views of a scene are changed alike.

    All random numbers depend on torch's global generator, so its seed determines the batch.

    Args:
        share: The probability that an image is changed, in [0, 1]. Default ½.

    Raises:
        ConfigError: If ``share`` is outside [0, 1].

    Source: Yun et al. (2019) for CutMix; Beyer et al. (2022), "Knowledge distillation: a good teacher is patient and
    consistent", for asking the teacher about the very image that the student sees.
    Pitfall: The noise of one seed differs between the CPU and a GPU.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}, expected a probability in [0, 1], as in 0.5")

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], entries: Mapping[str, EntryKind]) -> dict[str, Tensor]:
        """A new batch; the given one is not changed.

        Args:
            batch: Tensors (B, …) on one device, images as float32 in [0, 1].
            entries: The kind of each entry. An entry without a kind is kept as it is.

        Raises:
            DataError: If the batch has no map, or maps of different sizes.
        """
        tensors, kinds = known_entries(batch, entries)
        size = map_size(tensors, kinds)
        images = [key for key, kind in kinds.items() if isinstance(kind, Image)]
        first = next(iter(tensors.values()))
        count, device = len(first), first.device
        # Drawn on the CPU, so that a seed means the same on every device.
        channels = max((kinds[key].channels for key in images), default=0)
        drawn, tints = torch.rand(13, count), torch.rand(count, channels)
        step, seed = (int(number) for number in torch.randint(2**62, (2,)))
        # A picture of noise is drawn where it is used: to draw it on the CPU would take longer than a step of a GPU.
        generator = torch.Generator(device).manual_seed(seed)
        chosen = (drawn[0] < self.share) & (drawn[1:5] < 0.5)
        blurred, colored, noisy = (rows.nonzero()[:, 0].to(device) for rows in chosen[:3])
        pasted, drawn, tints = chosen[3].to(device), drawn.to(device), tints.to(device)
        out = dict(batch)
        # Mixed precision would round pixels to 8 bits, and their places too.
        with torch.autocast(device.type, enabled=False):
            for key in images:
                image = tensors[key].clone()
                if len(blurred):
                    image[blurred] = _blur(image[blurred], _between(BLUR, drawn[5, blurred]) * max(size))
                image[colored] = _recolor(image[colored], drawn[6:8, colored], tints[colored])
                noise = torch.randn((len(noisy), *image.shape[1:]), generator=generator, device=device)
                image[noisy] += _of(_between(NOISE, drawn[8, noisy])) * noise
                out[key] = image.clamp(0, 1)
            if count > 1 and all(kind.is_map for kind in kinds.values()):
                inside = _rectangles(drawn[9:13], size) & pasted[:, None, None]
                for key in tensors:
                    other = out[key].roll(1 + step % (count - 1), 0)
                    where = inside.view(count, *[1] * (other.ndim - 3), *size)
                    out[key] = torch.where(where, other, out[key])
        return out


def _of(values: Tensor) -> Tensor:
    """A number for each image (B,), to be combined with images (B, C, H, W)."""
    return values[:, None, None, None]


def _between(ends: tuple[float, float], drawn: Tensor) -> Tensor:
    """A log-uniform number from a uniform one."""
    low, high = map(math.log, ends)
    return (low + (high - low) * drawn).exp()


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image (B, C, H, W) with its own standard deviation (B,), px. The border is repeated."""
    count, channels, height, width = image.shape
    reach = math.ceil(3 * BLUR[1] * max(height, width))
    offsets = torch.arange(-reach, reach + 1, device=image.device)
    weights = (-0.5 * (offsets / sigma[:, None]).square()).exp()
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    planes = image.reshape(1, count * channels, height, width)
    planes = conv2d(pad(planes, (0, 0, reach, reach), "replicate"), weights[..., None], groups=count * channels)
    planes = conv2d(pad(planes, (reach, reach, 0, 0), "replicate"), weights[:, :, None], groups=count * channels)
    return planes.view_as(image)


def _recolor(image: Tensor, drawn: Tensor, tints: Tensor) -> Tensor:
    """Saturation and brightness of images (B, C, H, W), from uniform numbers (2, B) and (B, at least C)."""
    gray = image.mean(1, keepdim=True)
    saturation = SATURATION[0] + (SATURATION[1] - SATURATION[0]) * _of(drawn[0])
    tint = _between(TINT, tints[:, : image.shape[1]])[:, :, None, None]
    return (gray + saturation * (image - gray)) * tint * _of(_between(LIGHT, drawn[1]))


def _rectangles(drawn: Tensor, size: Size) -> Tensor:
    """Masks (B, H, W) of rectangles inside the images, from uniform numbers (4, B)."""
    low, high = SIDES
    axes = []
    for extent, place, length in zip(drawn[:2], drawn[2:], size, strict=True):
        side = (low + (high - low) * extent[:, None]) * length
        start = place[:, None] * (length - side)
        middles = torch.arange(length, device=drawn.device) + 0.5
        axes.append((middles >= start) & (middles < start + side))
    return axes[0][:, :, None] & axes[1][:, None, :]
