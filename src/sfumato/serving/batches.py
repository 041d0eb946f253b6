"""Samples of different sizes predicted in batches, each with the answer that it gets alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from sfumato.predictions import AnyPrediction, ClassPrediction, JointPrediction, PredictionSet, ValuePrediction
from sfumato.runs import Predicted, Predictor
from sfumato.runs.sizes import Scaling, is_map
from sfumato.serving.graph import outputs_of
from sfumato.storage import check_finite

PIXELS = 4_000_000  # of all inputs of a batch together, as the network sees them
SHARED = ("quantiles",)  # tensors of a prediction that have no batch dimension
P = TypeVar("P")


@dataclass(frozen=True, eq=False)
class Ready:
    """One sample that is ready to be predicted.

    Args:
        inputs: The inputs (1, …) at the size that the network sees.
        scaling: Both sizes.
        index: Number of the image by which random draws are seeded. It is a digest of the inputs.
        key: Samples with equal keys can be predicted in one batch.
    """

    inputs: tuple[Tensor, ...]
    scaling: Scaling
    index: int
    key: tuple[int, ...]


class Batches:
    """Prepares samples, predicts batches of them, and finishes each prediction at the original size of its sample.

    The answer for a sample depends on the sample alone: draws are seeded by its digest, and samples share a batch only
    if the back end says that this changes nothing (:attr:`sfumato.runs.Backend.multiple`).

    Args:
        predictor: What predicts.
        most: The largest number of samples in a batch. Default 8.
        samples: Number of draws of a stochastic method. None for the number in the plan.
    """

    def __init__(self, predictor: Predictor, most: int = 8, samples: int | None = None) -> None:
        self.predictor, self.samples = predictor, samples
        self.most = most if predictor.backend.multiple else 1

    def ready(self, *inputs: Tensor) -> Ready:
        """A sample, from its inputs (1, …) at their original size.

        Raises:
            DataError: If inputs are missing or differ in size.
        """
        backend = self.predictor.backend
        scaling = Scaling.of(backend.inputs, inputs, backend.factors)
        seen = scaling.inputs(backend.inputs, inputs)
        sides = (-(-side // max(1, backend.multiple)) for side in scaling.seen)
        key = (*sides, *(value.element_size() for value in inputs))  # 8-bit and float images are no one tensor
        return Ready(seen, scaling, _index(inputs), key)

    def room(self, key: tuple[int, ...]) -> int:
        """How many samples with this key fit into a batch, at least 1."""
        side = max(1, self.predictor.backend.multiple)
        return max(1, min(self.most, PIXELS // max(1, key[0] * key[1] * side * side)))

    def predict(self, samples: Sequence[Ready]) -> list[AnyPrediction]:
        """Predictions at the size that the network sees, for samples with equal keys.

        Raises:
            NotFiniteError: If a number of a prediction is not finite.
        """
        backend = self.predictor.backend
        if len(samples) == 1:
            (one,) = samples
            found = backend.predict(*one.inputs, samples=self.samples, seed=0, index=one.index, tile=None)
            return [found]
        height, width = (side * backend.multiple for side in samples[0].key[:2])
        columns = zip(*(each.inputs for each in samples), strict=True)
        inputs = [
            torch.cat([_padded(value, height, width) if is_map(name) else value for value in values])
            for name, values in zip(backend.inputs, columns, strict=True)
        ]
        found = backend.predict(*inputs, samples=self.samples, seed=0, index=0, tile=None)
        return [_part(found, place, each.scaling.seen) for place, each in enumerate(samples)]

    def finish(self, sample: Ready, found: AnyPrediction) -> Predicted:
        """The prediction at the original size of the sample, on the CPU without an image, with its conformal sets.

        Raises:
            NotFiniteError: If a number is not finite.
        """
        backend = self.predictor.backend
        found = sample.scaling.prediction(replace(found.to("cpu"), image=None), backend.tasks)
        parts = found.parts if isinstance(found, JointPrediction) else {"": found}
        for name, part in parts.items():
            check_finite(part.tensors(), f"the prediction {name}".rstrip())
        sets = backend.conformal_sets(found)
        return Predicted(found, sets)

    def __call__(self, samples: Sequence[Ready]) -> list[Predicted]:
        """Finished predictions of samples with any keys, in their order."""
        places: dict[tuple[int, ...], list[int]] = {}
        for place, sample in enumerate(samples):
            places.setdefault(sample.key, []).append(place)
        done: dict[int, Predicted] = {}
        for key, group in places.items():
            room = self.room(key)
            for start in range(0, len(group), room):
                batch = group[start : start + room]
                for place, found in zip(batch, self.predict([samples[place] for place in batch])):
                    done[place] = self.finish(samples[place], found)
        return [done[place] for place in range(len(samples))]


def outputs(prediction: AnyPrediction) -> dict[str, Tensor]:
    """The arrays (B, …) of a prediction by name; of several tasks with the name of the task before."""
    if isinstance(prediction, JointPrediction):
        return {f"{task}_{name}": value for task in prediction for name, value in outputs(prediction[task]).items()}
    return outputs_of(prediction)


def arrays_of(predicted: Predicted) -> dict[str, np.ndarray]:
    """All arrays (1, …) of a prediction by name, with the sizes of conformal sets or the widths of intervals."""
    found = {name: value.numpy() for name, value in outputs(predicted.prediction).items()}
    for task, sets in predicted.sets.items():
        name = "set_size" if isinstance(sets, PredictionSet) else "interval_width"
        found[f"{task}_{name}" if isinstance(predicted.prediction, JointPrediction) else name] = sets.size.cpu().numpy()
    return found


def _index(inputs: Sequence[Tensor]) -> int:
    digest = hashlib.blake2b(digest_size=4)
    for value in inputs:
        digest.update(value.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "big")


def _padded(value: Tensor, height: int, width: int) -> Tensor:
    """Maps (…, H, W) whose last row and column are repeated up to a height and a width."""
    rows = torch.arange(height).clamp_max(value.shape[-2] - 1)
    columns = torch.arange(width).clamp_max(value.shape[-1] - 1)
    return value[..., rows, :][..., columns]


def _part(found: P, place: int, size: tuple[int, int]) -> P:
    """The prediction of one sample of a batch, cut to its height and width."""
    if isinstance(found, JointPrediction):
        parts = {name: _part(part, place, size) for name, part in found.parts.items()}
        return cast(P, replace(found, parts=parts, image=None))
    assert isinstance(found, ClassPrediction | ValuePrediction)
    tensors = {
        each.name: value[place : place + 1]
        for each in fields(found)
        if isinstance(value := getattr(found, each.name), Tensor) and each.name not in SHARED
    }
    if found.is_map:
        tensors = {name: value[..., : size[0], : size[1]] for name, value in tensors.items()}
    return cast(P, replace(found, **tensors))  # pyright: ignore[reportArgumentType] the names are those of tensors
