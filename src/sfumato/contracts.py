"""The architecture in one file: read this first.

A **method** draws the outputs of a network; a **likelihood** says what an output means; a **prediction** holds
the meaning, split into aleatoric and epistemic; everything after it (calibrate, score, report, serve) speaks only of
predictions.

Shapes: ``B`` images, ``C`` output channels, ``K`` classes, ``D`` value dimensions, ``H × W`` pixels, ``S`` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

# What is fitted after training takes: inputs of a network, a target and where it is known; and the loss of each pixel
# (B, H, W) of an output, a target and where it is known, as a likelihood's ``nll``.
Batch = tuple[tuple[Any, ...], Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Prediction(Protocol):
    """What comes out: a law for every pixel whose uncertainty is split in two parts that add up."""

    @property
    def total(self) -> Tensor:
        """Total uncertainty (B, H, W): ``aleatoric + epistemic``."""
        ...

    @property
    def aleatoric(self) -> Tensor:
        """The part the world causes, that more data would not remove. (B, H, W)"""
        ...

    @property
    def epistemic(self) -> Tensor:
        """The part the network causes, because it has not learned this. (B, H, W)"""
        ...

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width)."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same prediction on another device."""
        ...


class Calibrator(Protocol):
    """What is put right after training, fitted on held-out images: a prediction in, the same kind out."""

    fitted_on: Any  # the images that it must not be scored on, by name

    def __call__(self, prediction: Any) -> Any:
        """The prediction, corrected."""
        ...


class Moments(Protocol):
    """What a set of draws contributes to a prediction: a monoid, so memory does not grow with draws."""

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together; associative, and may reuse the memory of ``self``."""
        ...

    def prediction(self) -> Prediction:
        """The prediction that these draws amount to."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """p(y | f): the meaning of a network's output. Knows no method."""

    @property
    def channels(self) -> int:
        """C, the output channels the network must have."""
        ...

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B, H, W) in nats, exactly 0 (and without gradient) where not ``valid``.

        ``output`` (B, C, H, W); ``target`` (B, H, W) int64 classes or (B, D, H, W) values, where not ``valid``
        (B, H, W) bool it may hold anything, NaN included.
        """
        ...

    def moments(self, output: Tensor) -> Moments:
        """What one draw (B, C, H, W) contributes to the prediction."""
        ...


@runtime_checkable
class Method(Protocol):
    """q(w | D): which networks are plausible. Knows no task."""

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Outputs of plausible networks, in chunks (S_i, B, C, H, W) with ``Σ S_i = S``.

        The draws depend on ``generator`` only, not on how they are chunked. No gradient is recorded.
        """
        ...


class Student(Likelihood, Protocol):
    """A likelihood that learns, beside the labels, how far the draws of a teacher spread."""

    def teacher_statistics(self, draw: Any) -> Any:
        """What is kept of the moments of one of the teacher's draws; merged over all of them, as moments are."""
        ...

    def distillation_target(self, heard: Any) -> Tensor:
        """What was heard of all draws, as something to learn (B, L, H, W)."""
        ...


class Task(Protocol):
    """The question asked of each pixel: where its truth lies in a sample, its scores, its picture."""

    key: ClassVar[str]  # the sample entry that holds the target; key + "_valid" holds its mask (H, W) bool
    dims: ClassVar[int]  # values of a pixel; 0 for a class
    likelihoods: ClassVar[tuple[str, ...]]  # the names that likelihood() accepts, the default first
    students: ClassVar[tuple[str, ...]]  # further such names: likelihoods that have to have a teacher
    calibrators: ClassVar[tuple[str, ...]]  # the names that calibrator() accepts, the default first

    @property
    def parts(self) -> Mapping[str, Any]:
        """The tasks asked together, by their keys: usually itself alone."""
        ...

    def target_and_mask(self, sample: Mapping[str, Any]) -> tuple[Any, Any]:
        """Target and mask of a sample or a batch; dicts of them by task where several are asked together."""
        ...

    def entries(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Target and mask of one sample by their keys; nowhere valid where it holds none."""
        ...

    def likelihood(self, name: str) -> Likelihood:
        """The likelihood called ``name`` for this task."""
        ...

    def calibrator(self, name: str) -> Any:
        """The class of calibrators called ``name``: its ``fit`` takes held-out predictions, targets and masks."""
        ...

    @property
    def conformal(self) -> Any:
        """The class of guarantees for this task's predictions."""
        ...

    def scores(self) -> Any:
        """A fresh :class:`torchmetrics.Metric` with ``update(prediction, target, valid)``."""
        ...

    @property
    def display_range(self) -> tuple[float, float]:
        """Smallest and largest value that pictures of this task tell apart."""
        ...

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """Where the color bars of total, aleatoric and epistemic maps end, and their unit; the same for all images."""
        ...

    def color(self, values: Tensor) -> Tensor:
        """A target or a prediction's best guess (H, W) as a picture, uint8 (H, W, 3)."""
        ...
