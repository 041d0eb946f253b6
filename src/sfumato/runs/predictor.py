"""Predict images as they are in their files: any size in, predictions of the same size out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.predictions import (
    AnyPrediction,
    JointPrediction,
    PredictionInterval,
    PredictionSet,
    TaskPrediction,
    ValuePrediction,
)
from sfumato.registry import Trust
from sfumato.runs.run import Run
from sfumato.targets import ENTRIES, Image, kind_of

Sets = Mapping[str, PredictionSet | PredictionInterval]


P = TypeVar("P")


class Backend(Protocol):
    """What computes predictions at the size that the network sees: a run, or an exported file."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        ...

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size: for heights and for widths."""
        ...

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        ...

    def predict(self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int) -> AnyPrediction:
        """The calibrated prediction for inputs (B, …)."""
        ...

    def conformal_sets(self, prediction: AnyPrediction) -> Sets:
        """The conformal sets or intervals of a prediction, for each task that has some."""
        ...


@dataclass(frozen=True)
class RunBackend:
    """A run in torch.

    Args:
        run: The run.
    """

    run: Run

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.run.facts.inputs

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size."""
        (height, width), (original_height, original_width) = self.run.config.size, self.run.facts.original_size
        return height / original_height, width / original_width

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return {name: view.single_task for name, view in self.run.per_task.items()}

    def predict(self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int) -> AnyPrediction:
        """The calibrated prediction for inputs (B, …)."""
        return self.run.predict(*inputs, samples=samples, seed=seed, index=index, tile=tile)

    def conformal_sets(self, prediction: AnyPrediction) -> Sets:
        """The conformal sets or intervals of a prediction, for each task that has some."""
        return {
            name: view.conformal(part_of(prediction, name))
            for name, view in self.run.per_task.items()
            if view.conformal is not None
        }


@dataclass(frozen=True)
class Predicted:
    """A prediction at the original size, and the sets that conformal calibration makes of it.

    Args:
        prediction: The calibrated prediction, with the first input as its ``image``.
        sets: Conformal sets or intervals, for each task that has some.
    """

    prediction: Any  # AnyPrediction: the run decides which, so callers need no check
    sets: Sets


class Predictor:
    """Predicts inputs of any size: resizes them to what the network was trained on, and the prediction back.

    Args:
        backend: A :class:`RunBackend`, or one that computes the same from an exported file.

    Pitfall: Maps are interpolated back to the original size. The distribution of an interpolated pixel is that of its
    neighborhood.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu", trust: Trust | bool | str = "") -> Self:
        """A predictor for a run. Arguments as of :meth:`Run.open`."""
        return cls(RunBackend(Run.open(folder, device=device, trust=trust)))

    def __call__(
        self, *inputs: Tensor, samples: int | None = None, seed: int = 0, index: int = 0, tile: int = 0
    ) -> Predicted:
        """Predict a batch.

        Args:
            *inputs: What the network takes, such as images (B, 3, H, W), uint8 or float in [0, 1], of any size. Maps of
                one sample have one size.
            samples: Number of draws of a stochastic method. None for the number in the plan.
            seed: Seed of the draws. Default 0.
            index: Number of the image, so that its draws depend on nothing else. Default 0.
            tile: Side of the tiles that are predicted one by one, pixels of the size that the network sees. 0 for whole
                images.

        Raises:
            DataError: If inputs are missing or differ in size.
        """
        size = self._size(inputs)
        seen = (max(1, round(size[0] * self.backend.factors[0])), max(1, round(size[1] * self.backend.factors[1])))
        resized = (_resized(name, value, size, seen) for name, value in zip(self.backend.inputs, inputs))
        found = self.backend.predict(*resized, samples=samples, seed=seed, index=index, tile=tile)
        found = _at_size(found, self.backend.tasks, seen, size)
        sets = self.backend.conformal_sets(found)
        return Predicted(replace(found, image=Image().to_float(inputs[0])), sets)

    def _size(self, inputs: tuple[Tensor, ...]) -> tuple[int, int]:
        names = self.backend.inputs
        if len(inputs) != len(names):
            raise DataError(f"{len(inputs)} inputs, expected {len(names)}: {', '.join(names)}")
        sizes = {name: tuple(value.shape[-2:]) for name, value in zip(names, inputs) if _is_map(name)}
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{name} {height} × {width}" for name, (height, width) in sizes.items())
            raise DataError(f"inputs of different sizes: {found}. Expected one size for all inputs of a sample")
        height, width = next(iter(sizes.values()))
        return height, width


def part_of(prediction: JointPrediction | P, name: str) -> TaskPrediction | P:
    """One task of the prediction of several; the prediction itself if it is of one."""
    return prediction[name] if isinstance(prediction, JointPrediction) else prediction


def _is_map(name: str) -> bool:
    kind = kind_of(name, ENTRIES)
    return kind is None or kind.is_map


def _resized(name: str, value: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    kind = kind_of(name, ENTRIES) or Image()
    return value if old == new else kind.resize(value, old, new)


def _at_size(
    prediction: AnyPrediction, tasks: Mapping[str, Task], old: tuple[int, int], new: tuple[int, int]
) -> AnyPrediction:
    """A prediction at another size. Lengths in pixels grow with it."""
    if old == new:
        return prediction
    if isinstance(prediction, JointPrediction):
        parts = {name: _at_size(prediction[name], {name: tasks[name]}, old, new) for name in prediction}
        return replace(prediction, parts=parts)
    found = prediction.resized(new)
    ((_, task),) = tasks.items()
    if not isinstance(found, ValuePrediction) or not task.target.is_map:
        return found
    ones = torch.ones(found.mean.shape[1], *old)
    factor = task.target.resize(ones, old, new)[:, :1, :1].to(found.mean)
    return replace(
        found,
        mean=found.mean * factor,
        aleatoric_variance=found.aleatoric_variance * factor.square(),
        epistemic_variance=found.epistemic_variance * factor.square(),
    )
