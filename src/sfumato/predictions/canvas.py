"""Weighted sums over the predictions of tiles, from which the prediction of the whole image is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.predictions.classes import ClassPrediction, entropy
from sfumato.predictions.joint import JointPrediction, TaskPrediction
from sfumato.predictions.values import ValuePrediction, correlations, products


class Canvas(Protocol):
    """Sums of one kind of prediction over the tiles of an image."""

    def add(self, drawn: object, rows: slice, columns: slice, weight: Tensor) -> None:
        """Add the prediction of a tile with the weight (h, w) of each of its pixels."""
        ...

    def prediction(self) -> ClassPrediction | ValuePrediction | JointPrediction:
        """The prediction of the whole image."""
        ...


@dataclass
class ClassCanvas:
    """Weighted sums of probabilities, entropies and novelty scores."""

    probs: Tensor
    aleatoric: Tensor
    weight: Tensor
    novelty: Tensor | None
    draws: int

    @classmethod
    def empty(cls, like: ClassPrediction, size: tuple[int, int]) -> ClassCanvas:
        """Sums of nothing, for an image of this height and width."""
        aleatoric, novelty = _zeros(like.aleatoric, size), _no_novelty(like, size)
        return cls(_zeros(like.probs, size), aleatoric, like.probs.new_zeros(size), novelty, like.draws)

    def add(self, drawn: object, rows: slice, columns: slice, weight: Tensor) -> None:
        """Add the prediction of a tile with the weight (h, w) of each of its pixels."""
        assert isinstance(drawn, ClassPrediction)
        self.probs[..., rows, columns] += weight * drawn.probs
        self.aleatoric[..., rows, columns] += weight * drawn.aleatoric
        self.weight[rows, columns] += weight
        _add_novelty(self.novelty, drawn, rows, columns, weight)

    def prediction(self) -> ClassPrediction:
        """The prediction of the whole image. It takes the memory of the sums."""
        probs = self.probs.div_(self.weight)
        aleatoric = torch.minimum(self.aleatoric / self.weight, entropy(probs))
        return ClassPrediction(probs, aleatoric, self.draws, novelty=_mean_novelty(self.novelty, self.weight))


@dataclass
class ValueCanvas:
    """Weighted mean of means, weighted sums of their squared deviations, of (co)variances and of novelty scores."""

    mean: Tensor
    deviation: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    weight: Tensor
    novelty: Tensor | None
    unit: str
    draws: int
    within: Tensor | None  # sums of covariances of the aleatoric part; None if values are independent
    between: Tensor | None  # and of the epistemic part

    @classmethod
    def empty(cls, like: ValuePrediction, size: tuple[int, int]) -> ValueCanvas:
        """Sums of nothing, for an image of this height and width."""
        mean, deviation, aleatoric, epistemic = (_zeros(like.mean, size) for _ in range(4))
        weight, novelty = like.mean.new_zeros(size), _no_novelty(like, size)
        shared = (like.aleatoric_correlation, like.epistemic_correlation)
        within, between = (None if each is None else _zeros(each, size) for each in shared)
        return cls(mean, deviation, aleatoric, epistemic, weight, novelty, like.unit, like.draws, within, between)

    def add(self, drawn: object, rows: slice, columns: slice, weight: Tensor) -> None:
        """Add the prediction of a tile with the weight (h, w) of each of its pixels."""
        assert isinstance(drawn, ValuePrediction)
        here = (..., rows, columns)
        before, mean = self.weight[rows, columns], self.mean[here]
        after = (before + weight).clamp_min(torch.finfo(weight.dtype).tiny)
        change, moved = drawn.mean - mean, before * weight / after
        self.deviation[here] += change.square() * moved  # Chan's formula with weights as counts
        if self.between is not None:
            self.between[here] += products(change) * moved
        for total, correlation, variance in (
            (self.within, drawn.aleatoric_correlation, drawn.aleatoric_variance),
            (self.between, drawn.epistemic_correlation, drawn.epistemic_variance),
        ):
            if total is not None and correlation is not None:
                total[here] += weight * correlation * products(variance.sqrt())
        self.mean[here] = mean + change * (weight / after)
        self.aleatoric[here] += weight * drawn.aleatoric_variance
        self.epistemic[here] += weight * drawn.epistemic_variance
        self.weight[rows, columns] = before + weight
        _add_novelty(self.novelty, drawn, rows, columns, weight)

    def prediction(self) -> ValuePrediction:
        """The prediction of the whole image."""
        epistemic, novelty = (self.epistemic + self.deviation) / self.weight, _mean_novelty(self.novelty, self.weight)
        aleatoric = self.aleatoric / self.weight
        found = ValuePrediction(self.mean, aleatoric, epistemic, self.unit, self.draws, novelty=novelty)
        if self.within is None or self.between is None:
            return found
        within = correlations(self.within / self.weight, aleatoric)
        between = correlations(self.between / self.weight, epistemic)
        return replace(found, aleatoric_correlation=within, epistemic_correlation=between)


@dataclass
class JointCanvas:
    """A canvas for each task."""

    parts: Mapping[str, ClassCanvas | ValueCanvas]

    def add(self, drawn: object, rows: slice, columns: slice, weight: Tensor) -> None:
        """Add the prediction of a tile with the weight (h, w) of each of its pixels."""
        assert isinstance(drawn, JointPrediction)
        for name, part in drawn.items():
            self.parts[name].add(part, rows, columns, weight)

    def prediction(self) -> JointPrediction:
        """The prediction of the whole image."""
        return JointPrediction({name: part.prediction() for name, part in self.parts.items()})


def empty_canvas(like: object, size: tuple[int, int]) -> Canvas:
    """Sums of nothing, for predictions such as ``like`` and an image of this height and width.

    Raises:
        ConfigError: If predictions of this kind cannot be blended.
    """
    if isinstance(like, JointPrediction):
        return JointCanvas({name: task_canvas(part, size) for name, part in like.items()})
    if isinstance(like, ClassPrediction | ValuePrediction):
        return task_canvas(like, size)
    raise ConfigError(f"a {type(like).__name__} cannot be predicted on tiles: expected a prediction of this package")


def mapped(canvas: Canvas, change: Callable[[Tensor], Tensor]) -> Canvas:
    """A canvas whose sums (…, H, W) are changed."""
    if isinstance(canvas, JointCanvas):
        return JointCanvas({name: _mapped(part, change) for name, part in canvas.parts.items()})
    assert isinstance(canvas, ClassCanvas | ValueCanvas)
    return _mapped(canvas, change)


def _mapped(canvas: ClassCanvas | ValueCanvas, change: Callable[[Tensor], Tensor]) -> ClassCanvas | ValueCanvas:
    values = ((field.name, getattr(canvas, field.name)) for field in fields(canvas))
    return replace(canvas, **{name: change(value) for name, value in values if isinstance(value, Tensor)})


def task_canvas(like: TaskPrediction, size: tuple[int, int]) -> ClassCanvas | ValueCanvas:
    """Sums of nothing, for predictions of one task."""
    return ClassCanvas.empty(like, size) if isinstance(like, ClassPrediction) else ValueCanvas.empty(like, size)


def _zeros(like: Tensor, size: tuple[int, int]) -> Tensor:
    return like.new_zeros(*like.shape[:-2], *size)


def _no_novelty(like: TaskPrediction, size: tuple[int, int]) -> Tensor | None:
    return None if like.novelty is None else _zeros(like.novelty, size)


def _add_novelty(total: Tensor | None, drawn: TaskPrediction, rows: slice, columns: slice, weight: Tensor) -> None:
    if total is not None and drawn.novelty is not None:
        total[..., rows, columns] += weight * drawn.novelty


def _mean_novelty(total: Tensor | None, weight: Tensor) -> Tensor | None:
    return None if total is None else total / weight
