"""The event of a prediction: a map (H, W), or empty where there is one value for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.storage import Stored


class EventPrediction(Stored):
    """What predictions of one task share: their event, their image and their novelty score."""

    @property
    def channels(self) -> Tensor:
        """Probabilities or means (B, C, *event)."""
        raise NotImplementedError

    @property
    def event(self) -> tuple[int, ...]:
        """(H, W) of a map; empty if there is one distribution for each image."""
        return tuple(self.channels.shape[2:])

    @property
    def is_map(self) -> bool:
        """Whether there is a distribution for each pixel."""
        return len(self.event) == 2

    def resampled(self, how: Callable[[Tensor], Tensor]) -> Self:
        """The same prediction at other places.

        Args:
            how: Takes maps (B, C, H, W) to maps (B, C, H', W') by interpolation.
        """
        raise NotImplementedError

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width), see :meth:`resampled`. What is no map stays as it is."""
        return self.resampled(lambda maps: resize_maps(maps, size)) if self.is_map else self

    def with_image(self, image: Tensor) -> Self:
        """The same prediction with the image (B, 3, H, W) in [0, 1] that pictures show."""
        return replace(self, image=image)  # pyright: ignore[reportArgumentType, reportCallIssue] a dataclass field

    def with_novelty(self, novelty: Tensor) -> Self:
        """The same prediction with a novelty score (B, *event)."""
        return replace(self, novelty=novelty)  # pyright: ignore[reportArgumentType, reportCallIssue] a dataclass field


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, H, W) or (B, C, H, W) at another size, by bilinear interpolation with averaging where they shrink."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    four = maps if maps.ndim == 4 else maps[:, None]
    return interpolate(four, size=size, mode="bilinear", antialias=True).reshape(*maps.shape[:-2], *size)


def resample_all(maps: dict[str, Tensor | None], how: Callable[[Tensor], Tensor]) -> dict[str, Tensor | None]:
    """The maps (B, H, W) or (B, C, H, W) by name at other places. None stays None."""
    return {
        name: None if values is None else how(values) if values.ndim == 4 else how(values[:, None])[:, 0]
        for name, values in maps.items()
    }


def over_channels(values: Tensor, like: Tensor) -> Tensor:
    """Values (C,) in the type of a tensor (B, C, *event) and in a shape (C, 1, …) that multiplies its channels."""
    return values.to(like).view(-1, *[1] * (like.ndim - 2))


def with_channels(target: Tensor, like: Tensor) -> Tensor:
    """A target (B, *event) or (B, D, *event) as (B, D, *event), given a prediction's mean of this shape."""
    return target.unsqueeze(1) if target.ndim == like.ndim - 1 else target


def shape_text(event: tuple[int, ...]) -> str:
    """The event in the text of a prediction, such as `` × 96 × 128``; empty for one value for each image."""
    return "".join(f" × {size}" for size in event)
