"""Abstain where the prediction is uncertain, so that the error of the rest stays within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.calibration.fitted import Fitted
from sfumato.calibration.risk import images_needed, p_values
from sfumato.decisions.outliers import measured
from sfumato.decisions.regions import label_regions
from sfumato.errors import ConfigError, DataError
from sfumato.metrics import histogram
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

SHARE, STEPS = 5, 50  # one image in five sets the thresholds that are tested; number of thresholds


@dataclass(frozen=True)
class Abstention(Fitted):
    """Accepts pixels, regions or images whose uncertainty is at most a threshold, and abstains from the others.

    The risk of an image is the share of its accepted pixels that are wrong. With probability ``1 − delta`` over the
    choice of the held-out images, the mean risk over new images like them, among those with an accepted pixel, is at
    most ``risk``. No assumption is made about how uncertainty and error are related; if they are not, little is
    accepted.

    A fifth of the held-out images gives thresholds, the quantiles of their uncertainties, and the one that has the best
    prospects. On the others the thresholds
    are tested from this one on to larger ones, and the walk ends where a test fails.

    Args:
        threshold: Uncertainties up to this one are accepted (1,), in the unit of the prediction. Numbers that differ
            by less than a factor 1 + 2⁻⁸ are taken as equal.
        risk: The allowed mean risk, in (0, 1).
        delta: How often the mean risk may be larger, in (0, 1).
        unit: pixel, region or image. Default pixel.
        measure: total, aleatoric or epistemic. Default total.
        class_index: The class whose pixels are counted, so the risk is the share of its accepted pixels that are
            missed.
            Default: all classes.
        tolerance: The error of a value up to which it is not wrong, in its unit. 0 for classes. Default 0.
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
    ) -> Self:
        """The largest threshold that keeps the risk.

        Args:
            held: Held-out predictions, targets (B, *event) or (B, D, *event), and masks (B, *event).
            risk: The allowed mean risk, in (0, 1). Default 0.05.
            delta: How often the mean risk may be larger, in (0, 1). Default 0.1.
            unit: pixel, region or image. Default pixel.
            measure: total, aleatoric or epistemic. Default total.
            class_index: The class whose missed pixels are limited. Default: all classes.
            tolerance: For values, the largest error that is not wrong, > 0.

        Raises:
            ConfigError: If a choice is out of range or does not suit the prediction.
            DataError: If the images are too few (the message says how many are needed), or no threshold keeps the risk.
        """
        rule = cls(torch.zeros(1), risk, delta, unit, measure, class_index, tolerance)
        rule.check()
        rows = [row for batch in held for row in rule.rows(*batch)]
        key, coverage = chosen(rows, risk, delta)
        threshold = torch.tensor([key << 15], dtype=torch.int32).view(torch.float32)
        return cls(threshold, risk, delta, unit, measure, class_index, tolerance, coverage, len(rows))

    def check(self) -> None:
        """Check the choices that do not depend on predictions.

        Raises:
            ConfigError: If one is out of range.
        """
        for name, value in (("risk", self.risk), ("delta", self.delta)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} is {value}, expected a number in (0, 1)")
        for name, value, known in (("unit", self.unit, UNITS), ("measure", self.measure, UNCERTAINTIES)):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")

    def uncertainty(self, prediction: TaskPrediction) -> Tensor:
        """The uncertainty (B, *event) that is compared with the threshold: a pixel has the mean of its unit.

        Raises:
            ConfigError: If there are no regions, because the prediction is not a map of classes.
        """
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
        return histogram.key(self.uncertainty(prediction)) <= int(histogram.key(self.threshold)[0])

    def wrong(self, prediction: TaskPrediction, target: Tensor) -> Tensor:
        """Which pixels (B, *event) are wrong, bool: another class, or an error of a value above the tolerance.

        Raises:
            ConfigError: If the tolerance or the class does not suit the prediction.
        """
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
        wrong = self.wrong(prediction, target)
        return [
            Row.of(select(u, mask), select(w, mask))
            for u, w, mask in zip(uncertainty, wrong, counted)
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
        return (
            f"share of an image's {pixels} that are {what}, mean over images with any: at most {self.risk:.4g} with "
            f"probability {1 - self.delta:.4g}"
        )


def _region_means(uncertainty: Tensor, label: Tensor) -> Tensor:
    numbers = label_regions(label).to(uncertainty.device).flatten()
    sums = torch.bincount(numbers, uncertainty.flatten().double())
    return (sums / torch.bincount(numbers))[numbers].view_as(uncertainty).float()


@dataclass(frozen=True)
class Row:
    """The pixels of one image by their uncertainty.

    Args:
        keys: The different keys (m,) of the uncertainties, ascending, see :mod:`sfumato.metrics.histogram`.
        accepted: Number of pixels (m,) up to each key.
        wrong: Number of them (m,) that are wrong.
    """

    keys: Tensor
    accepted: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, uncertainty: Tensor, wrong: Tensor) -> Row:
        """The row of an image.

        Args:
            uncertainty: Uncertainties (N,) of its pixels, ≥ 0.
            wrong: Whether each of them is wrong (N,), or a loss in [0, 1].
        """
        keys, places = histogram.key(uncertainty.cpu()).unique(return_inverse=True)
        counts = torch.bincount(places).cumsum(0)
        return cls(keys, counts, torch.bincount(places, wrong.cpu().double()).cumsum(0))

    def up_to(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """For thresholds (L,): the share of the pixels that are accepted, and of those the share that is wrong.

        The second one is NaN where no pixel is accepted.
        """
        place = torch.searchsorted(self.keys, keys, right=True) - 1
        accepted, wrong = (column[place.clamp_min(0)].where(place >= 0, 0) for column in (self.accepted, self.wrong))
        return accepted / self.accepted[-1], wrong / accepted


def chosen(rows: Sequence[Row], risk: float, delta: float) -> tuple[int, float]:
    """The largest key of an uncertainty up to which the risk is kept, with probability ``1 − delta``.

    Args:
        rows: The held-out images.
        risk: The allowed mean risk.
        delta: The probability of failure.

    Returns:
        The key, and the mean share of pixels that are accepted on the images that were tested.

    Raises:
        DataError: If the images are too few, or no threshold keeps the risk.
    """
    needed = images_needed(risk, delta)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    few = len(rows) // SHARE
    first, tested = [rows[i] for i in order[:few]], [rows[i] for i in order[few:]]
    if len(tested) < needed or not first:
        enough = max(SHARE, next(n for n in range(needed, 2 * needed + SHARE) if n - n // SHARE >= needed))
        raise DataError(
            f"{len(rows)} held-out images are too few for a risk of {risk:.4g} with probability {1 - delta:.4g}: it "
            f"needs at least {enough}"
        )
    keys = _quantiles(first)
    start = _start(first, keys, len(tested), risk, delta)
    shares, losses = (torch.stack(each) for each in zip(*(row.up_to(keys) for row in tested)))
    best: int | None = None
    for place in range(start, len(keys)):
        if _p_value(shares[:, place], losses[:, place], risk, delta) > delta:
            break
        best = place
    if best is None:
        own = losses[:, start][shares[:, start] > 0]
        found = f"risk {float(own.mean()):.3g} on {len(own)} images" if len(own) else "nothing accepted"
        raise DataError(
            f"no threshold keeps a risk of {risk:.4g} with probability {1 - delta:.4g}: the one with the best "
            f"prospects has {found}. Allow a larger risk, or use more images"
        )
    return int(keys[best]), float(shares[:, best].mean())


def _start(rows: Sequence[Row], keys: Tensor, images: int, risk: float, delta: float) -> int:
    """The largest threshold with the smallest p-value, if ``images`` were as these are. It is tested first."""
    shares, losses = (torch.stack(each).repeat(-(-images // len(rows)), 1)[:images]
                      for each in zip(*(row.up_to(keys) for row in rows)))  # fmt: skip
    found = [_p_value(shares[:, place], losses[:, place], risk, delta) for place in range(len(keys))]
    return max(place for place, value in enumerate(found) if value == min(found))


def _p_value(shares: Tensor, losses: Tensor, risk: float, delta: float) -> float:
    """The p-value of one threshold, given what it accepts of each image (n,) and how much of that is wrong (n,)."""
    own = losses[shares > 0]
    return float(p_values(own[:, None], risk, delta)) if len(own) else 1.0


def _quantiles(rows: Sequence[Row]) -> Tensor:
    """Keys up to which 1/50, 2/50, … and all of the pixels are accepted, where each image weighs the same."""
    keys = torch.cat([row.keys for row in rows])
    weights = torch.cat(
        [row.accepted.diff(prepend=torch.zeros(1, dtype=torch.int64)) / row.accepted[-1] for row in rows]
    )
    ordered, places = keys.sort()
    upto = weights[places].cumsum(0)
    wanted = torch.arange(1, STEPS) / STEPS * float(upto[-1])
    found = ordered[torch.searchsorted(upto, wanted).clamp_max(len(ordered) - 1)]
    everything = histogram.key(torch.tensor([torch.finfo(torch.float32).max]))
    return torch.cat([found, everything]).unique()
