"""Held-out images, one after another: they are checked, and thinned out if they do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato.errors import DataError, NotFiniteError
from sfumato.predictions import ClassPrediction, ValuePrediction, check_mask, select, with_channels

Held = Iterable[tuple[ClassPrediction, Tensor, Tensor]]
"""Predictions of held-out images with their targets (B, *event) int64 and masks (B, *event) bool."""

HeldValues = Iterable[tuple[ValuePrediction, Tensor, Tensor]]
"""Predictions of held-out images with their targets (B, D, *event) and masks (B, *event) bool."""

TILE, TILES = 64, 1024
"""Side of a tile in pixels, and the largest number of tiles: 4 million pixels, about 200 MB for 19 classes."""


def checked(held: Held) -> Iterator[tuple[ClassPrediction, Tensor, Tensor]]:
    """The same batches, each checked.

    Raises:
        DataError: If the shapes differ, a valid target is not a class, or no pixel of all images is valid.
        NotFiniteError: If valid probabilities are not finite or do not sum to 1.
    """
    pixels = images = 0
    for prediction, target, valid in held:
        size, classes = prediction.aleatoric.shape, prediction.probs.shape[1]
        if target.shape != size:
            raise DataError(f"target {tuple(target.shape)}: expected {tuple(size)}, the size of the prediction")
        check_mask(valid, size, "prediction")
        count = int(valid.sum())
        images, pixels = images + len(valid), pixels + count
        if count:
            off = (prediction.probs.sum(1) - 1).abs()[valid]
            if not float(off.max()) < 1e-3:  # NaN included
                raise NotFiniteError(
                    f"the probabilities of a valid pixel sum to 1 ± {float(off.max()):.3g}: expected finite "
                    "probabilities that sum to 1"
                )
            low, high = int(target[valid].min()), int(target[valid].max())
            if low < 0 or high >= classes:
                raise DataError(f"a valid target is class {low if low < 0 else high}, expected 0 to {classes - 1}")
        yield prediction, target, valid
    _check_some(pixels, images)


def checked_values(held: HeldValues) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Mean, standard deviation and target (D, N) of the valid pixels of one image after another.

    Raises:
        DataError: If the shapes differ, or no pixel of all images is valid.
        NotFiniteError: If a valid pixel has a mean, variance or target that is not finite.
    """
    pixels = images = 0
    for prediction, target, valid in held:
        target = with_channels(target, prediction.mean)
        if target.shape != prediction.mean.shape:
            raise DataError(f"target {tuple(target.shape)}: expected {tuple(prediction.mean.shape)}, as the prediction")
        check_mask(valid, prediction.aleatoric.shape, "prediction")
        for mean, std, true, mask in zip(prediction.mean, prediction.std, prediction.near(target), valid):
            m, s, t = (select(values, mask).float() for values in (mean, std, true))
            if not all(bool(v.isfinite().all()) for v in (m, s, t)):
                raise NotFiniteError("a valid pixel holds NaN or infinity: set valid to False there")
            images, pixels = images + 1, pixels + m.shape[1]
            yield m, s.clamp_min(torch.finfo(torch.float32).tiny), t
    _check_some(pixels, images)


def _check_some(pixels: int, images: int) -> None:
    if not pixels:
        raise DataError(f"none of the {images} held-out images has a valid pixel: there is nothing to calibrate on")


def log_probs(probs: Tensor) -> Tensor:
    """``log p``, at least −80. A softmax of it gives p again."""
    return probs.float().clamp_min(1e-35).log()


@dataclass(frozen=True)
class Tiles:
    """Square tiles of held-out images.

    Args:
        logs: Log-probabilities (N, K, 64, 64), float16.
        images: Images (N, 3, 64, 64) in [0, 1], float16; without channels if predictions have no image.
        targets: Classes (N, 64, 64), int16, 0 where not valid.
        valid: (N, 64, 64) bool.
    """

    logs: Tensor
    images: Tensor
    targets: Tensor
    valid: Tensor

    @classmethod
    def of(cls, held: Held, seed: int = 0) -> Tiles:
        """All tiles of the images, or 1024 of them drawn at random, each with the same probability.

        Args:
            held: Held-out predictions. One class for each image counts as a map of one pixel.
            seed: Seed of the random choice. Default 0.

        Source: Vitter (1985), algorithm R.
        """
        generator = torch.Generator().manual_seed(seed)
        kept: list[tuple[Tensor, ...]] = []
        seen = 0
        for prediction, target, valid in checked(held):
            for tile in zip(*(_cut(m.cpu()) for m in _maps(prediction, target, valid))):
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
        """Up to ``size`` tiles at a time."""
        for start in range(0, len(self.valid), size):
            yield Tiles(*(column[start : start + size] for column in vars(self).values()))

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, K), float32, and targets (N,), int64, of the valid pixels."""
        return self.logs.movedim(1, -1)[self.valid].float(), self.targets[self.valid].long()


def _maps(prediction: ClassPrediction, target: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
    """What tiles hold, as maps (B, …, H, W)."""
    image = prediction.probs[:, :0] if prediction.image is None or not prediction.is_map else prediction.image
    maps = log_probs(prediction.probs).half(), image.half(), target.where(valid, 0).short(), valid
    return maps if prediction.is_map else tuple(m[..., None, None] for m in maps)


def _cut(maps: Tensor) -> Tensor:
    """Maps (B, …, H, W) as tiles (N, …, 64, 64), with zeros beyond the border."""
    height, width = maps.shape[-2:]
    whole = pad(maps, (0, -width % TILE, 0, -height % TILE))
    tiles = whole.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE))  # (B, …, rows, 64, columns, 64)
    tiles = tiles.movedim((-4, -2), (1, 2))
    return tiles.flatten(0, 2)
