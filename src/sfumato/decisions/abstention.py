"""Abstain where the prediction is uncertain, so that the error of the rest stays within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.calibration.fitted import Fitted
from sfumato.decisions.costs import Costs
from sfumato.decisions.outliers import measured
from sfumato.decisions.thresholds import Row, chosen
from sfumato.errors import ConfigError
from sfumato.metrics import histogram
from sfumato.metrics.regions import label_regions
from sfumato.predictions import (
    UNCERTAINTIES,
    ClassPrediction,
    TaskPrediction,
    check_mask,
    select,
    with_channels,
)

UNITS = ("pixel", "region", "image")
"""What is accepted or not as a whole. A region is a connected region of one predicted class."""

COST = "cost"  # the measure that is the expected cost of the best action


@dataclass(frozen=True)
class Abstention(Fitted):
    """Accepts pixels, regions or images whose uncertainty is at most a threshold, and abstains from the others.

    The risk of an image is the share of its accepted pixels that are wrong. With probability ``1 − delta`` over the
    choice of the held-out images, the mean risk over new images like them, among those with an accepted pixel, is at
    most ``risk``. No assumption is made about how uncertainty and error are related; if they are not, little is
    accepted.

    With ``costs`` the risk of an image is the mean cost of its accepted pixels instead. There the action with the least
    expected cost is taken. The test is made on ``(cost − least) / (largest − least)``, with the ends of the matrix.

    A fifth of the held-out images gives thresholds, the quantiles of their uncertainties, and the one that has the best
    prospects. On the others the thresholds
    are tested from this one on to larger ones, and the walk ends where a test fails.

    Args:
        threshold: Uncertainties up to this one are accepted (1,), in the unit of the prediction. Numbers that differ
            by less than a factor 1 + 2⁻⁸ are taken as equal.
        risk: The allowed mean risk, in (0, 1); with costs between the smallest and the largest cost.
        delta: How often the mean risk may be larger, in (0, 1).
        unit: pixel, region or image. Default pixel.
        measure: total, aleatoric or epistemic; or cost, the expected cost less the smallest cost. Default total.
        class_index: The class whose pixels are counted, so the risk is the share of its accepted pixels that are
            missed.
            Default: all classes.
        tolerance: The error of a value up to which it is not wrong, in its unit. 0 for classes. Default 0.
        costs: The cost (A, K) of each action for each true class. None for a risk that counts errors. Default None.
        rests_on: The state of the predictions of the run that it was fitted for. Empty without a run.
        coverage: Mean share of the pixels of a tested image that are accepted, in [0, 1].
        images: Number of held-out images.
        fitted_on: Names and digests of the held-out images.

    Source: Geifman and El-Yaniv (2017), "Selective classification for deep neural networks"; Angelopoulos et al.
    (2022), "Learn then test"; the bound is that of ``calibrate --delta``.
    Pitfall: Images must be exchangeable, see the page on what is exchangeable. The limit is about a mean over images,
    not about one image.
    """

    target: ClassVar[str] = "any"
    threshold: Tensor
    risk: float
    delta: float
    unit: str = "pixel"
    measure: str = "total"
    class_index: int | None = None
    tolerance: float = 0.0
    costs: Tensor | None = None
    rests_on: str = ""
    coverage: float = 0.0
    images: int = 0

    @classmethod
    def fit(
        cls,
        held: Iterable[tuple[TaskPrediction, Tensor, Tensor]],
        risk: float = 0.05,
        delta: float = 0.1,
        *,
        unit: str = "pixel",
        measure: str = "total",
        class_index: int | None = None,
        tolerance: float = 0.0,
        costs: Costs | None = None,
    ) -> Self:
        """The largest threshold that keeps the risk.

        Args:
            held: Held-out predictions, targets (B, *event) or (B, D, *event), and masks (B, *event).
            risk: The allowed mean risk, in (0, 1); with costs in their unit. Default 0.05.
            delta: How often the mean risk may be larger, in (0, 1). Default 0.1.
            unit: pixel, region or image. Default pixel.
            measure: total, aleatoric or epistemic; with costs also cost. Default total.
            class_index: The class whose missed pixels are limited. Default: all classes.
            tolerance: For values, the largest error that is not wrong, > 0.
            costs: For classes, the costs whose mean is limited. Default: errors are counted.

        Raises:
            ConfigError: If a choice is out of range or does not suit the prediction.
            DataError: If the images are too few (the message says how many are needed), or no threshold keeps the risk.
        """
        matrix = None if costs is None else costs.matrix
        rule = cls(torch.zeros(1), risk, delta, unit, measure, class_index, tolerance, matrix)
        rule.check()
        rows = [row for batch in held for row in rule.rows(*batch)]
        key, coverage = chosen(rows, risk, delta, rule.ends)
        threshold = torch.tensor([key << 15], dtype=torch.int32).view(torch.float32)
        return replace(rule, threshold=threshold, coverage=coverage, images=len(rows))

    def check(self) -> None:
        """Check the choices that do not depend on predictions.

        Raises:
            ConfigError: If one is out of range.
        """
        for name, value, (low, high) in (("risk", self.risk, self.ends), ("delta", self.delta, (0, 1))):
            if not low < value < high:
                raise ConfigError(f"{name} is {value}, expected a number in ({low:g}, {high:g})")
        if self.costs is not None and self.tolerance:
            raise ConfigError("tolerance is for values, and costs are of classes: leave one of them out")
        measures = UNCERTAINTIES if self.costs is None else (*UNCERTAINTIES, COST)
        for name, value, known in (("unit", self.unit, UNITS), ("measure", self.measure, measures)):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")

    @cached_property  # numbers that are known before a graph is traced
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest loss of a pixel."""
        return (0.0, 1.0) if self.costs is None else (float(self.costs.min()), float(self.costs.max()))

    @cached_property
    def limit(self) -> float:
        """Uncertainties below this one are accepted: the end of the key of the threshold."""
        end = (int(histogram.key(self.threshold)[0]) + 1) << 15
        return float(torch.tensor([end], dtype=torch.int32).view(torch.float32))

    def uncertainty(self, prediction: TaskPrediction) -> Tensor:
        """The uncertainty (B, *event) that is compared with the threshold: a pixel has the mean of its unit.

        Raises:
            ConfigError: If there are no regions, because the prediction is not a map of classes.
        """
        if self.measure == COST:
            found = _expected(prediction, self.costs).amin(1).float() - self.ends[0]
        else:
            found = measured(prediction, self.measure).float()
        if self.unit == "image":
            return found.flatten(1).mean(1).view(-1, *[1] * (found.ndim - 1)).expand_as(found)
        if self.unit == "pixel":
            return found
        if not isinstance(prediction, ClassPrediction) or not prediction.is_map:
            raise ConfigError(
                "a region is a connected region of one predicted class: take unit pixel or image for values"
            )
        return torch.stack([_region_means(u, label) for u, label in zip(found, prediction.label)])

    def __call__(self, prediction: TaskPrediction) -> Tensor:
        """Which pixels (B, *event) are accepted, bool."""
        return self.uncertainty(prediction) < self.limit

    def loss(self, prediction: TaskPrediction, target: Tensor) -> Tensor:
        """What each pixel (B, *event) adds to the risk: whether it is wrong, or its cost. Any number without a target.

        Wrong is another class, or an error of a value above the tolerance.

        Raises:
            ConfigError: If the tolerance, the class or the costs do not suit the prediction.
        """
        if self.costs is not None:
            action = _expected(prediction, self.costs).argmin(1)
            known = target.clamp(0, self.costs.shape[1] - 1)  # what lies where no target is may be anything
            return self.costs.to(action.device)[action, known]
        if isinstance(prediction, ClassPrediction):
            classes = prediction.probs.shape[1]
            if self.class_index is not None and not 0 <= self.class_index < classes:
                raise ConfigError(f"there is no class {self.class_index}: expected 0 to {classes - 1}")
            if self.tolerance:
                raise ConfigError("tolerance is for values, and this prediction is of classes: leave it out")
            return prediction.label != target
        if self.class_index is not None:
            raise ConfigError("a class is named, and this prediction is of values: leave it out")
        if not self.tolerance > 0:
            raise ConfigError(
                f"tolerance is {self.tolerance:g}: give the largest error of a value that is not wrong, above 0"
            )
        return ((with_channels(target, prediction.mean) - prediction.mean).abs() > self.tolerance).any(1)

    def counted(self, target: Tensor, valid: Tensor) -> Tensor:
        """The pixels (B, *event) that the risk is about."""
        return valid if self.class_index is None else valid & (target == self.class_index)

    def rows(self, prediction: TaskPrediction, target: Tensor, valid: Tensor) -> list[Row]:
        """What is kept of each image of a batch. An image without a counted pixel is left out."""
        check_mask(valid, prediction.aleatoric.shape, "prediction")
        uncertainty, counted = self.uncertainty(prediction), self.counted(target, valid)
        low, high = self.ends
        share = (self.loss(prediction, target).double() - low) / (high - low)
        return [
            Row.of(select(u, mask), select(each, mask))
            for u, each, mask in zip(uncertainty, share, counted)
            if bool(mask.any())
        ]

    def text(self, names: Sequence[str] = ()) -> str:
        """What is promised for images like the held-out ones, in words.

        Args:
            names: Names of the classes.
        """
        what = "wrong" if not self.tolerance else f"off by more than {self.tolerance:g}"
        pixels = "accepted pixels"
        if self.class_index is not None:
            name = names[self.class_index] if self.class_index < len(names) else f"class {self.class_index}"
            what, pixels = "missed", f"accepted {name} pixels"
        risk = f"share of an image's {pixels} that are {what}"
        if self.costs is not None:
            risk = f"mean cost of an image's {pixels}"
        return f"{risk}, mean over images with any: at most {self.risk:.4g} with probability {1 - self.delta:.4g}"


def _expected(prediction: TaskPrediction, matrix: Tensor | None) -> Tensor:
    """The expected cost (B, A, *event) of each action."""
    if matrix is None or not isinstance(prediction, ClassPrediction):
        raise ConfigError("costs are of classes, and this prediction is of values: leave them out")
    return Costs(tuple(map(str, range(len(matrix)))), matrix).expected(prediction.probs)


def _region_means(uncertainty: Tensor, label: Tensor) -> Tensor:
    numbers = label_regions(label).to(uncertainty.device).flatten()
    sums = torch.bincount(numbers, uncertainty.flatten().double())
    return (sums / torch.bincount(numbers))[numbers].view_as(uncertainty).float()
