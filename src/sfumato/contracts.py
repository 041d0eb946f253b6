"""The protocols of the package. Read this file first.

A **method** draws outputs of a network. A **likelihood** says what an output means. The draws are aggregated into a
**prediction**: a distribution for each pixel (or for each image), whose uncertainty is split into an aleatoric and an
epistemic part. Calibration, scores, decisions, the report and serving work on predictions only.

A **data set** gives samples and says which entries are inputs of the network. A **task** says which entry is the
target. An **objective** turns a network and a batch into losses.

Shapes: ``B`` images, ``C`` output channels, ``K`` classes, ``D`` values per pixel, ``S`` draws. The *event* of a
prediction is a map ``(H, W)``, or empty where there is one value for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.targets import EntryKind

Sample = dict[str, "Tensor | str"]
"""One sample of a data set: ``name``, inputs, targets, and a mask ``KEY_valid`` for each target."""

Inputs = tuple[Tensor, ...]
"""The inputs of a network, each of shape (B, …)."""

Batch = tuple[Inputs, Tensor, Tensor]
"""Inputs, target and mask of a batch, for fits that come after training."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The loss (B, *event) of an output, a target and a mask, as a likelihood's ``nll``."""


class Prediction(Protocol):
    """A distribution for each pixel or image, whose uncertainty has two parts that add up."""

    @property
    def total(self) -> Tensor:
        """Total uncertainty (B, *event): ``aleatoric + epistemic``."""
        ...

    @property
    def aleatoric(self) -> Tensor:
        """The part that more training data would not remove (B, *event)."""
        ...

    @property
    def epistemic(self) -> Tensor:
        """The part that comes from the network's lack of knowledge (B, *event)."""
        ...

    @property
    def best(self) -> Tensor:
        """The best guess, which is compared with a target: classes (B, *event) or values (B, D, *event)."""
        ...

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width)."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same prediction on another device."""
        ...


P_co = TypeVar("P_co", covariant=True)
P = TypeVar("P")


class Moments(Protocol[P_co]):
    """What a set of draws contributes to a prediction. Merging is associative, so memory does not grow with draws."""

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together. It may reuse the memory of ``self``."""
        ...

    def prediction(self) -> P_co:
        """The prediction that these draws amount to."""
        ...


@runtime_checkable
class Likelihood(Protocol[P_co]):
    """``p(y | f)``: the meaning of a network's output. A likelihood knows no method."""

    @property
    def channels(self) -> int:
        """C, the number of output channels that the network must have."""
        ...

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B, *event) in nats, exactly 0 (and without gradient) where not ``valid``.

        ``output`` is (B, C, *event). ``target`` is (B, *event) int64 classes or (B, D, *event) values. Where ``valid``
        (B, *event) is False the target may hold anything, NaN included.
        """
        ...

    def moments(self, output: Tensor) -> Moments[P_co]:
        """What one draw (B, C, *event) contributes to the prediction."""
        ...


class StudentLikelihood(Likelihood[P], Protocol[P]):
    """A likelihood that learns, beside the labels, how much the draws of a teacher differ."""

    def teacher_statistics(self, moments: Moments[P]) -> Moments[P]:
        """What is kept of the moments of one draw of the teacher. It is merged over all draws."""
        ...

    def distillation_target(self, statistics: Moments[P]) -> Tensor:
        """The statistics of all draws as a target (B, L, H, W)."""
        ...


@runtime_checkable
class Method(Protocol):
    """``q(w | D)``: which networks are plausible. A method knows no task. Every method is an ``nn.Module``."""

    stochastic: bool  # whether its draws depend on a generator
    gives_novelty: bool  # whether it scores how unusual an input is, beside its draws

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Outputs of plausible networks, in chunks (S_i, B, C, *event) with ``Σ S_i = S``.

        The draws depend on ``generator`` only, not on how they are divided into chunks. No gradient is recorded.
        """
        ...


class Calibrator(Protocol[P]):
    """A correction that is fitted on held-out images. It takes a prediction and returns one of the same type."""

    target: ClassVar[str]  # "class" or "value"

    @property
    def fitted_on(self) -> Sequence[str]:
        """Names and digests of the images it was fitted on. It must not be scored on them."""
        ...

    def __call__(self, prediction: P) -> P:
        """The corrected prediction."""
        ...


class Score(Protocol):
    """A score over the valid pixels of a data set, as torchmetrics defines a metric."""

    target: ClassVar[str]  # "class", "value" or "any"
    headline: tuple[str, ...]

    def update(self, prediction: object, target: object, valid: Tensor) -> None:
        """Add a batch."""
        ...

    def compute(self) -> Mapping[str, Tensor]:
        """The scores by name."""
        ...


class DataSet(Protocol):
    """Samples, and what their entries are."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The entries that the network takes, in order, for tasks that name none."""
        ...

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What can be predicted, by the key of the target."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The name of each sample, known without reading it."""
        ...

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """The sample with this index."""
        ...


class Task(Protocol):
    """What is predicted: the target entry of a sample, its kind, its unit, its scores and its colors."""

    key: ClassVar[str]  # the sample entry that holds the target; ``key + "_valid"`` holds its mask
    kind: ClassVar[str]  # "class" or "value"
    target: ClassVar[EntryKind]  # how the target is resized, warped, flipped and masked
    default_likelihood: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]  # the entries that the network takes; empty for those of the data set

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks that are predicted together, by key: usually this one alone."""
        ...

    def target_and_mask(self, sample: Mapping[str, Tensor | str]) -> tuple[Tensor, Tensor]:
        """Target and mask of a sample or a batch."""
        ...

    def entries(self, sample: Mapping[str, Tensor | str]) -> dict[str, Tensor]:
        """Target and mask of one sample by their keys. A sample without the target gets one that is nowhere valid."""
        ...

    def scores(self) -> Score:
        """Fresh scores for predictions of this task."""
        ...

    @property
    def display_range(self) -> tuple[float, float]:
        """The smallest and the largest value that pictures of this task show."""
        ...

    def color(self, values: Tensor) -> Tensor:
        """A target or a best guess (…, H, W) as a picture, uint8 (H, W, 3)."""
        ...


class Objective(Protocol):
    """What training minimizes. Every objective is an ``nn.Module``."""

    needs_targets: bool  # whether it can only use samples that hold the target

    def __call__(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses by name, whose sum is minimized, and numbers to log by name."""
        ...

    def end_epoch(self) -> None:
        """Called after each pass over the data."""
        ...
