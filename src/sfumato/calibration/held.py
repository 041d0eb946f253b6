"""Held-out images, one after another: checked, and thinned where all of them would not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato.predictions import ClassPrediction, ValuePrediction

Held = Iterable[tuple[ClassPrediction, Tensor, Tensor]]
"""Predictions of held-out images with their targets (B, H, W) int64 and masks (B, H, W) bool."""

HeldValues = Iterable[tuple[ValuePrediction, Tensor, Tensor]]
"""Predictions of held-out images with their targets (B, D, H, W) and masks (B, H, W) bool."""

TILE, TILES = 64, 1024
"""Side of a tile in pixels, and how many are kept: 4 million pixels, about 200 MB for 19 classes."""


def checked(held: Held) -> Iterator[tuple[ClassPrediction, Tensor, Tensor]]:
    """The same, each batch looked at.

    Raises:
        ValueError: if shapes differ, valid probabilities are not finite or do not sum to 1, a valid target is not a
            class, or no pixel of all images is valid.
    """
    pixels = images = 0
    for prediction, target, valid in held:
        size, classes = prediction.total.shape, prediction.probs.shape[1]
        if target.shape != size or valid.shape != size:
            raise ValueError(
                f"target {tuple(target.shape)} and valid {tuple(valid.shape)}: expected both {tuple(size)}, the size "
                "of the prediction"
            )
        count = int(valid.sum())
        images, pixels = images + len(valid), pixels + count
        if count:
            off = (prediction.probs.sum(1) - 1).abs()[valid]
            if not float(off.max()) < 1e-3:  # NaN included
                raise ValueError(
                    f"the probabilities of a valid pixel sum to 1 ± {float(off.max()):.3g}: expected laws over the "
                    "classes, finite and summing to 1"
                )
            low, high = int(target[valid].min()), int(target[valid].max())
            if low < 0 or high >= classes:
                raise ValueError(f"a valid target is class {low if low < 0 else high}, expected 0 to {classes - 1}")
        yield prediction, target, valid
    _some(pixels, images)


def checked_values(held: HeldValues) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Mean, standard deviation and target (D, N) of the valid pixels of one image after another.

    Raises:
        ValueError: if shapes differ, a valid pixel holds what is not finite, or no pixel of all images is valid.
    """
    pixels = images = 0
    for prediction, target, valid in held:
        target = target[:, None] if target.ndim == 3 else target
        if target.shape != prediction.mean.shape or valid.shape != prediction.total.shape:
            raise ValueError(
                f"target {tuple(target.shape)} and valid {tuple(valid.shape)}: expected {tuple(prediction.mean.shape)} "
                f"and {tuple(prediction.total.shape)}"
            )
        for mean, std, truth, mask in zip(prediction.mean, prediction.std, target, valid):
            values = mean[:, mask].float(), std[:, mask].float(), truth[:, mask].float()
            if not all(bool(v.isfinite().all()) for v in values):
                raise ValueError("a valid pixel holds NaN or an infinity: mark such pixels as not valid")
            images, pixels = images + 1, pixels + values[0].shape[1]
            yield values[0], values[1].clamp_min(torch.finfo(torch.float32).tiny), values[2]
    _some(pixels, images)


def _some(pixels: int, images: int) -> None:
    if not pixels:
        raise ValueError(f"none of the {images} held-out images has a valid pixel: there is nothing to calibrate on")


def log_probs(probs: Tensor) -> Tensor:
    """``log p``, at least −80: a softmax of these gives back p."""
    return probs.float().clamp_min(1e-35).log()


@dataclass(frozen=True)
class Tiles:
    """Square pieces of held-out images.

    Args:
        logs: (N, K, 64, 64) float16, log-probabilities.
        images: (N, 3, 64, 64) float16 in [0, 1]; without channels if predictions carried no image.
        targets: (N, 64, 64) int16, 0 where not valid.
        valid: (N, 64, 64) bool.
    """

    logs: Tensor
    images: Tensor
    targets: Tensor
    valid: Tensor

    @classmethod
    def of(cls, held: Held, seed: int = 0) -> Tiles:
        """All tiles of the images or, of more than 1024, as many drawn at random, each equally likely.

        Source: Vitter (1985), algorithm R.
        """
        generator = torch.Generator().manual_seed(seed)
        kept: list[tuple[Tensor, ...]] = []
        seen = 0
        for prediction, target, valid in checked(held):
            image = prediction.probs[:, :0] if prediction.image is None else prediction.image
            maps = (log_probs(prediction.probs).half(), image.half(), target.where(valid, 0).short(), valid)
            for tile in zip(*(_cut(m.cpu()) for m in maps)):
                if not bool(tile[3].any()):
                    continue
                place = seen if seen < TILES else int(torch.randint(seen + 1, (), generator=generator))
                seen += 1
                if place < len(kept):
                    kept[place] = tuple(t.clone() for t in tile)
                elif place < TILES:
                    kept.append(tuple(t.clone() for t in tile))
        return cls(*(torch.stack(column) for column in zip(*kept)))

    def chunks(self, size: int = 32) -> Iterator[Tiles]:
        """So many tiles at a time."""
        for start in range(0, len(self.valid), size):
            yield Tiles(*(column[start : start + size] for column in vars(self).values()))

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, K) float32 and targets (N,) int64 of the valid pixels."""
        return self.logs.movedim(1, -1)[self.valid].float(), self.targets[self.valid].long()


def _cut(maps: Tensor) -> Tensor:
    """Maps (B, …, H, W) as tiles (N, …, 64, 64), filled with zeros beyond the border."""
    height, width = maps.shape[-2:]
    whole = pad(maps, (0, -width % TILE, 0, -height % TILE))
    tiles = whole.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE))  # (B, …, rows, 64, columns, 64)
    tiles = tiles.movedim((-4, -2), (1, 2))
    return tiles.flatten(0, 2)
