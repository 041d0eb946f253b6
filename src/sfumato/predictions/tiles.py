"""Large images, piece by piece: what is blended are the moments of the pieces' laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sfumato.contracts import Likelihood, Method
from sfumato.predictions.aggregate import predict
from sfumato.predictions.classes import ClassPrediction, entropy
from sfumato.predictions.joint import JointPrediction
from sfumato.predictions.values import ValuePrediction


def predict_tiled(
    method: Method,
    *inputs: Any,
    likelihood: Likelihood,
    tile: tuple[int, int] = (512, 512),
    overlap: int = 128,
    generator: torch.Generator | None = None,
) -> Any:
    """As :func:`predict`, on overlapping tiles of the inputs, so that a pass needs memory for one tile only.

    Where tiles overlap, the prediction is that of the mixture of their laws: of classes the mean of probabilities and
    of aleatoric entropies, of values the law of total variance. So tiles that disagree raise the epistemic part.

    The outer quarter of an overlap, which sees the tile's border, counts nothing. Hence the numbers are those of an
    untiled pass wherever the network looks no further than that quarter and its pooling grid starts anew at multiples
    of ``tile − overlap``.

    Args:
        method: draws outputs.
        *inputs: tensors (B, C, H, W) of one size, which are cut; anything else is handed to every tile.
        likelihood: says what an output means.
        tile: height and width, pixels.
        overlap: of neighboring tiles, pixels, smaller than a tile.
        generator: source of randomness; each tile has its own, which depends on its place only.

    Returns:
        A :class:`ClassPrediction`, :class:`ValuePrediction` or :class:`JointPrediction` (B, …, H, W).

    Raises:
        ValueError: if a tile is not larger than the overlap, inputs differ in size, or outputs are not of their tile's.
    """
    sizes = {leaf.shape[-2:] for leaf in inputs if _cut(leaf)}
    if len(sizes) != 1:
        raise ValueError(f"inputs are of sizes {[tuple(s) for s in sizes]}: expected images (B, C, H, W) of one size")
    height, width = sizes.pop()

    def part(rows: slice, columns: slice) -> Any:
        return tree_map(lambda leaf: leaf[..., rows, columns] if _cut(leaf) else leaf, inputs)

    canvas: Any = None
    for drawn, *place in predicted_tiles(method, part, (height, width), likelihood, tile, overlap, generator):
        canvas = canvas or CANVAS[type(drawn)].empty(drawn, (height, width))
        canvas.add(drawn, *place)
    return canvas.prediction()


def predicted_tiles(
    method: Method,
    part: Callable[[slice, slice], Any],
    size: tuple[int, int],
    likelihood: Likelihood,
    tile: tuple[int, int],
    overlap: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[Any, slice, slice, Tensor]]:
    """The prediction of every tile, its rows and columns, and the weight of each of its pixels.

    Args:
        method: draws outputs.
        part: the inputs at some rows and columns.
        size: height and width of the whole.
        likelihood: says what an output means.
        tile: height and width.
        overlap: of neighboring tiles.
        generator: as for :func:`predict_tiled`.

    Raises:
        ValueError: if a tile is not larger than the overlap, or outputs are not of their tile's size.
    """
    if overlap < 0 or min(tile) <= overlap:
        raise ValueError(f"tile is {tile} and overlap {overlap}: expected tiles larger than what they share, in pixels")
    seed = int(torch.randint(2**31, (), generator=generator))
    for index, (rows, columns) in enumerate(_places(size, tile, overlap)):
        own = torch.Generator().manual_seed(seed + index)
        drawn: Any = predict(method, *part(rows, columns), likelihood=likelihood, generator=own)
        expected = rows.stop - rows.start, columns.stop - columns.start
        total = (next(iter(drawn.values())) if isinstance(drawn, JointPrediction) else drawn).total
        if total.shape[-2:] != expected:
            raise ValueError(
                f"a tile of {expected} gave a prediction of {tuple(total.shape[-2:])}: wrap the network so that "
                "its output has its input's size"
            )
        weight = _ramp(rows, size[0], overlap)[:, None] * _ramp(columns, size[1], overlap)
        yield drawn, rows, columns, weight.to(total)


def _cut(leaf: Any) -> bool:
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


@dataclass
class _Classes:
    """Weighted sums of laws and of entropies."""

    probs: Tensor
    aleatoric: Tensor
    weight: Tensor
    draws: int

    @classmethod
    def empty(cls, like: ClassPrediction, size: tuple[int, int]) -> _Classes:
        batch, classes = like.probs.shape[:2]
        probs, aleatoric = like.probs.new_zeros(batch, classes, *size), like.probs.new_zeros(batch, *size)
        return cls(probs, aleatoric, like.probs.new_zeros(size), like.draws)

    def add(self, drawn: ClassPrediction, rows: slice, columns: slice, weight: Tensor) -> None:
        self.probs[..., rows, columns] += weight * drawn.probs
        self.aleatoric[..., rows, columns] += weight * drawn.aleatoric
        self.weight[rows, columns] += weight

    def prediction(self) -> ClassPrediction:
        probs = self.probs / self.weight
        return ClassPrediction(probs, torch.minimum(self.aleatoric / self.weight, entropy(probs)), self.draws)


@dataclass
class _Values:
    """Weighted mean of means, weighted sums of their squared deviations and of variances."""

    mean: Tensor
    deviation: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    weight: Tensor
    unit: str
    draws: int

    @classmethod
    def empty(cls, like: ValuePrediction, size: tuple[int, int]) -> _Values:
        maps = (like.mean.new_zeros(*like.mean.shape[:2], *size) for _ in range(4))
        mean, deviation, aleatoric, epistemic = maps
        return cls(mean, deviation, aleatoric, epistemic, like.mean.new_zeros(size), like.unit, like.draws)

    def add(self, drawn: ValuePrediction, rows: slice, columns: slice, weight: Tensor) -> None:
        here = (..., rows, columns)
        before, mean = self.weight[rows, columns], self.mean[here]
        after = (before + weight).clamp_min(torch.finfo(weight.dtype).tiny)
        change = drawn.mean - mean
        self.deviation[here] += change.square() * (before * weight / after)  # Chan's merge, with weights for counts
        self.mean[here] = mean + change * (weight / after)
        self.aleatoric[here] += weight * drawn.aleatoric_variance
        self.epistemic[here] += weight * drawn.epistemic_variance
        self.weight[rows, columns] = before + weight

    def prediction(self) -> ValuePrediction:
        epistemic = (self.epistemic + self.deviation) / self.weight
        return ValuePrediction(self.mean, self.aleatoric / self.weight, epistemic, self.unit, self.draws)


@dataclass
class _Tasks:
    """A canvas for each task."""

    parts: dict[str, Any]

    @classmethod
    def empty(cls, like: JointPrediction, size: tuple[int, int]) -> _Tasks:
        return cls({name: CANVAS[type(part)].empty(part, size) for name, part in like.items()})

    def add(self, drawn: JointPrediction, rows: slice, columns: slice, weight: Tensor) -> None:
        for name, part in drawn.items():
            self.parts[name].add(part, rows, columns, weight)

    def prediction(self) -> JointPrediction:
        return JointPrediction({name: part.prediction() for name, part in self.parts.items()})


CANVAS: dict[type, Any] = {ClassPrediction: _Classes, ValuePrediction: _Values, JointPrediction: _Tasks}
