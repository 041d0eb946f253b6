"""Predict large images tile by tile. Where tiles overlap, their distributions are mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sfumato.contracts import Inputs, Likelihood, Method, Task
from sfumato.errors import ConfigError
from sfumato.predictions.aggregate import predict
from sfumato.predictions.canvas import Canvas, empty_canvas, mapped
from sfumato.predictions.joint import JointPrediction, TaskPrediction

WHOLE = 1_250_000  # pixels; a larger image is predicted on tiles, which bounds the memory of a pass to 0.5 GB
TILE = 1024  # side of these tiles, pixels

P = TypeVar("P")
Window = Callable[[slice, slice, torch.Generator], P]


def predict_tiled(
    method: Method,
    *inputs: Tensor,
    likelihood: Likelihood[P],
    tile: tuple[int, int] = (512, 512),
    overlap: int = 128,
    generator: torch.Generator | None = None,
) -> P:
    """As :func:`predict`, on overlapping tiles of the inputs, so that a pass needs memory for one tile only.

    Where tiles overlap, the prediction is the mixture of their distributions: for classes the mean of the probabilities
    and of the aleatoric entropies, for values the law of total variance. So tiles that disagree raise the epistemic
    part. Novelty scores are averaged.

    The outer quarter of an overlap, which is influenced by the border of the tile, has weight 0. The numbers are those
    of an untiled pass wherever the network looks no further than that quarter, and its pooling grid starts at multiples
    of ``tile − overlap``.

    Args:
        method: Draws outputs.
        *inputs: Tensors (B, C, H, W) of one size, which are cut. Other tensors are given to every tile as they are.
        likelihood: Says what an output means.
        tile: Height and width of a tile, pixels. Default 512 × 512.
        overlap: Overlap of neighboring tiles, pixels, smaller than a tile. Default 128.
        generator: Source of random numbers. Each tile has its own, which depends on its place only. Default: torch's.

    Returns:
        A :class:`ClassPrediction`, :class:`ValuePrediction` or :class:`JointPrediction` (B, …, H, W).

    Raises:
        ConfigError: If a tile is not larger than the overlap, inputs differ in size, or predictions are no maps of the
            size of their tile.
    """
    sizes = {leaf.shape[-2:] for leaf in inputs if _is_image(leaf)}
    if len(sizes) != 1:
        raise ConfigError(
            f"inputs have the sizes {[tuple(s) for s in sizes]}: expected images (B, C, H, W) of one size"
        )
    height, width = sizes.pop()

    def part(rows: slice, columns: slice) -> Inputs:
        return tree_map(lambda leaf: leaf[..., rows, columns] if _is_image(leaf) else leaf, inputs)

    def drawn(rows: slice, columns: slice, own: torch.Generator) -> P:
        return predict(method, *part(rows, columns), likelihood=likelihood, generator=own)

    canvas: Canvas | None = None
    for found, rows, columns, weight in predicted_tiles(drawn, (height, width), tile, overlap, generator):
        canvas = canvas or empty_canvas(found, (height, width))
        canvas.add(found, rows, columns, weight)
    assert canvas is not None
    return cast(P, canvas.prediction())


def automatic_tile(inputs: Inputs, tasks: Iterable[Task]) -> int:
    """Side of the tiles on which inputs are predicted unless a person chooses another, pixels; 0 for no tiles.

    It is 1024 for images of more than 1.25 megapixels. One value for each image is predicted from the whole image.
    """
    largest = max((leaf.shape[-2] * leaf.shape[-1] for leaf in inputs if _is_image(leaf)), default=0)
    return TILE if largest > WHOLE and all(task.target.is_map for task in tasks) else 0


def overlap_of(tile: int) -> int:
    """The overlap of tiles with this side, pixels: a quarter of it, at most 128."""
    return min(tile // 4, 128)


def predict_with_tile(
    method: Method, *inputs: Tensor, likelihood: Likelihood[P], tile: int, generator: torch.Generator | None = None
) -> P:
    """:func:`predict`, or :func:`predict_tiled` with square tiles of this side, pixels. 0 for the whole image."""
    if not tile:
        return predict(method, *inputs, likelihood=likelihood, generator=generator)
    size, overlap = (tile, tile), overlap_of(tile)
    return predict_tiled(method, *inputs, likelihood=likelihood, tile=size, overlap=overlap, generator=generator)


def predicted_bands(
    predict_window: Window[P],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[slice, P]]:
    """The numbers of :func:`predict_tiled`, some whole rows at a time, with memory for one row of tiles.

    Args:
        predict_window: Predicts the window at some rows and columns, with a generator of its own.
        size: Height and width of the whole image, pixels.
        tile: Height and width of a tile, pixels.
        overlap: Overlap of neighboring tiles, pixels.
        generator: Source of random numbers. Default: torch's.

    Yields:
        Rows of the image from top to bottom, and their prediction (B, …, rows, W).
    """
    canvas, top = None, 0
    for found, rows, columns, weight in predicted_tiles(predict_window, size, tile, overlap, generator):
        if canvas is None:
            canvas = empty_canvas(found, (min(tile[0], size[0]), size[1]))
        if done := rows.start - top:
            yield slice(top, rows.start), cast(P, mapped(canvas, lambda sums, n=done: sums[..., :n, :]).prediction())
            canvas, top = mapped(canvas, lambda sums, n=done: _moved_up(sums, n)), rows.start
        canvas.add(found, slice(0, rows.stop - rows.start), columns, weight)
    assert canvas is not None
    last = size[0] - top
    yield slice(top, size[0]), cast(P, mapped(canvas, lambda sums: sums[..., :last, :]).prediction())


def _moved_up(sums: Tensor, rows: int) -> Tensor:
    return torch.cat([sums[..., rows:, :], torch.zeros_like(sums[..., :rows, :])], -2)


def predicted_tiles(
    predict_window: Window[P],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[P, slice, slice, Tensor]]:
    """The prediction of every tile, its rows and columns, and the weight (h, w) of each of its pixels.

    Arguments as of :func:`predicted_bands`. Tiles follow one another from left to right, then from top to bottom.

    Raises:
        ConfigError: If a tile is not larger than the overlap, or predictions are no maps of the size of their tile.
    """
    if overlap < 0 or min(tile) <= overlap:
        raise ConfigError(f"tile is {tile} and overlap {overlap}: expected tiles larger than the overlap, in pixels")
    seed = int(torch.randint(2**31, (), generator=generator))
    for index, (rows, columns) in enumerate(_places(size, tile, overlap)):
        drawn = predict_window(rows, columns, torch.Generator().manual_seed(seed + index))
        tasks = list(drawn.values()) if isinstance(drawn, JointPrediction) else [cast(TaskPrediction, drawn)]
        for task in tasks:
            _check_size(task, (rows.stop - rows.start, columns.stop - columns.start))
        weight = _ramp(rows, size[0], overlap)[:, None] * _ramp(columns, size[1], overlap)
        yield drawn, rows, columns, weight.to(tasks[0].channels)


def _check_size(drawn: TaskPrediction, expected: tuple[int, int]) -> None:
    if not drawn.is_map:
        raise ConfigError(
            "the network predicts one value for each image, which cannot be put together from tiles: predict the whole "
            "image at once (no tile size)"
        )
    if drawn.event != expected:
        raise ConfigError(
            f"a tile of {expected} gave a prediction of {drawn.event}: wrap the network so that its output has the "
            "size of its input"
        )


def _is_image(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4


def _places(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, max(size[0] - overlap, 1), tile[0] - overlap):
        for left in range(0, max(size[1] - overlap, 1), tile[1] - overlap):
            yield slice(top, min(top + tile[0], size[0])), slice(left, min(left + tile[1], size[1]))


def _ramp(place: slice, size: int, overlap: int) -> Tensor:
    """Weights along one side of a tile: 1 inside and at the image's border, falling to 0 over half of the overlap."""
    where = torch.arange(place.start, place.stop) + 0.5
    half = max(overlap / 2, 1.0)
    low = (where - place.start - overlap / 4) / half if place.start else torch.ones_like(where)
    high = (place.stop - where - overlap / 4) / half if place.stop < size else torch.ones_like(where)
    return torch.minimum(low, high).clamp(0, 1)
