"""Predict images as they are in their files: any size in, predictions of the same size out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from sfumato.contracts import Method, Task
from sfumato.predictions import (
    AnyPrediction,
    JointPrediction,
    PredictionInterval,
    PredictionSet,
    TaskPrediction,
)
from sfumato.registry import Trust
from sfumato.runs.run import Run
from sfumato.runs.sizes import Scaling
from sfumato.runs.state import run_state
from sfumato.targets import Image

Sets = Mapping[str, PredictionSet | PredictionInterval]


P = TypeVar("P")


class Backend(Protocol):
    """What computes predictions at the size that the network sees: a run, or an exported file."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        ...

    @property
    def state(self) -> str:
        """The state of the run that predicts, see :func:`sfumato.runs.run_state`."""
        ...

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size: for heights and for widths."""
        ...

    @property
    def multiple(self) -> int:
        """Inputs whose heights and widths have the same next multiple of this may be predicted in one batch.

        The last row and column are repeated up to it. 0 if a batch would change the predictions.
        """
        ...

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        ...

    def predict(self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None) -> AnyPrediction:
        """The calibrated prediction for inputs (B, …)."""
        ...

    def predict_bands(
        self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None
    ) -> Iterator[tuple[slice, AnyPrediction]]:
        """The same for rows from top to bottom, each with its prediction. Small inputs come whole."""
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
    def state(self) -> str:
        """The state of the run, see :func:`sfumato.runs.run_state`."""
        return run_state(self.run)

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size."""
        return self.run.plan.factors

    @property
    def multiple(self) -> int:
        """0: random draws differ between the places in a batch, and torch rounds differently for other batches."""
        return 0

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return {name: view.single_task for name, view in self.run.per_task.items()}

    def predict(self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None) -> AnyPrediction:
        """The calibrated prediction for inputs (B, …)."""
        return self.run.predict(*inputs, samples=samples, seed=seed, index=index, tile=tile)

    def predict_bands(
        self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None
    ) -> Iterator[tuple[slice, AnyPrediction]]:
        """The same for rows from top to bottom, each with its prediction. Small inputs come whole."""
        tile = self.run.automatic_tile(inputs) if tile is None else tile
        if tile:
            yield from self.run.predict_bands(*inputs, samples=samples, seed=seed, index=index, tile=tile)
        else:
            whole = self.run.predict(*inputs, samples=samples, seed=seed, index=index, tile=0)
            yield slice(0, inputs[0].shape[-2]), whole

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
        self, *inputs: Tensor, samples: int | None = None, seed: int = 0, index: int = 0, tile: int | None = None
    ) -> Predicted:
        """Predict a batch.

        Args:
            *inputs: What the network takes, such as images (B, 3, H, W), uint8 or float in [0, 1], of any size. Maps of
                one sample have one size.
            samples: Number of draws of a stochastic method. None for the number in the plan.
            seed: Seed of the draws. Default 0.
            index: Number of the image, so that its draws depend on nothing else. Default 0.
            tile: Side of the tiles that are predicted one by one, pixels of the size that the network sees. 0 for whole
                images. None for tiles of 1024 pixels where the network sees more than 1.25 megapixels. Default None.

        Raises:
            DataError: If inputs are missing or differ in size.
        """
        backend = self.backend
        scaling = Scaling.of(backend.inputs, inputs, backend.factors)
        seen = scaling.inputs(backend.inputs, inputs)
        found = backend.predict(*seen, samples=samples, seed=seed, index=index, tile=tile)
        found = scaling.prediction(found, backend.tasks)
        sets = backend.conformal_sets(found)
        return Predicted(replace(found, image=Image().to_float(inputs[0])), sets)

    def bands(
        self, *inputs: Tensor, samples: int | None = None, seed: int = 0, index: int = 0, tile: int | None = None
    ) -> Iterator[tuple[slice, Predicted]]:
        """The prediction of one sample, some whole rows of the original size at a time, from top to bottom.

        A small image comes at once. A large one is predicted on tiles, and needs memory for one row of them. Arguments
        and errors as of a call.

        Yields:
            Rows, and their prediction without an image.
        """
        backend = self.backend
        scaling = Scaling.of(backend.inputs, inputs, backend.factors)
        seen, (height, width) = scaling.inputs(backend.inputs, inputs), scaling.original
        for rows, found in backend.predict_bands(*seen, samples=samples, seed=seed, index=index, tile=tile):
            top, bottom = (round(row * height / scaling.seen[0]) for row in (rows.start, rows.stop))
            band = Scaling((bottom - top, width), (rows.stop - rows.start, scaling.seen[1]))
            found = band.prediction(replace(found, image=None), backend.tasks)
            yield slice(top, bottom), Predicted(found, backend.conformal_sets(found))


def predict_seen(
    run: Run, method: Method, inputs: Sequence[Tensor], *, seed: int = 0, index: int = 0
) -> tuple[AnyPrediction, Scaling]:
    """The prediction of a run before calibration, at the size that the network sees, for inputs of the original size.

    Args:
        run: The run.
        method: A method of the run.
        inputs: The inputs of the network (B, …) at their original size.
        seed: Seed of the draws. Default 0.
        index: Number of the image. Default 0.

    Returns:
        The prediction, and the two sizes.
    """
    names = run.facts.inputs
    scaling = Scaling.of(names, inputs, run.plan.factors)
    return run.predict_uncalibrated(method, *scaling.inputs(names, inputs), seed=seed, index=index), scaling


def part_of(prediction: JointPrediction | P, name: str) -> TaskPrediction | P:
    """One task of the prediction of several; the prediction itself if it is of one."""
    return prediction[name] if isinstance(prediction, JointPrediction) else prediction
