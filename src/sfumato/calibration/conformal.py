"""Conformal prediction: sets of classes and intervals of values whose risk stays below a level. Images are the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.calibration.fitted import Fitted
from sfumato.calibration.held import Held, HeldValues, checked, checked_values
from sfumato.calibration.risk import controlled
from sfumato.errors import ConfigError, DataError
from sfumato.predictions import (
    ClassPrediction,
    PosePrediction,
    PredictionInterval,
    PredictionSet,
    ValuePrediction,
    over_channels,
    select,
)

# From the smallest sets to the largest: thresholds of a probability, and multiples of σ. The last one never misses.
THRESHOLDS = torch.cat([torch.logspace(0, -7, 2047), torch.zeros(1)])
MULTIPLES = torch.cat([torch.zeros(1), torch.logspace(-2, 4, 2046), torch.tensor([torch.inf])])


@dataclass(frozen=True)
class ConformalSets(Fitted):
    """Sets of classes for every pixel whose mean risk is limited, for images like the held-out ones.

    A class is in the set where its probability reaches a threshold. The most probable class always is. The risk of an
    image is the share of its valid pixels whose set does not hold the true class. With ``class_index`` it is the share
    of that class's pixels whose set does not hold it (its false-negative rate), over the images that show the class.

    * Without ``delta``: over the choice of the held-out images and of a new one, the expected risk is at most
      1 − level.
    * With ``delta``: with probability 1 − delta over the choice of the held-out images, the mean risk is at most
      1 − level.

    Args:
        thresholds: (K,). A class is in the set where its probability reaches its threshold.
        level: 1 − the allowed risk, in (0, 1).
        delta: Probability in (0, 1) that the second statement fails; 0 for the first statement. Default 0.
        images: Number of held-out images, or sequences if they are the unit.
        class_index: The class whose false negatives are limited. Default: all classes.
        rests_on: Digest of the calibrator's file that the predictions went through. Empty for no calibrator.
        unit: What is exchangeable: ``image``, or ``sequence``, whose risk is the mean over its images. Default image.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Angelopoulos et al. (2024), "Conformal risk control"; Bates et al. (2021), "Distribution-free,
    risk-controlling prediction sets", with the betting bound of Waudby-Smith and Ramdas (2024).
    Pitfall: Images must be exchangeable. The frames of one video are not, and images of another camera are not. Images
    that were used to train or to calibrate cannot be used again.
    """

    target: ClassVar[str] = "class"
    thresholds: Tensor
    level: float
    delta: float = 0.0
    images: int = 0
    class_index: int | None = None
    rests_on: str = ""
    unit: str = "image"

    @classmethod
    def fit(
        cls,
        held: Held,
        level: float = 0.9,
        delta: float = 0.0,
        class_index: int | None = None,
        sequences: Sequence[str] | None = None,
    ) -> Self:
        """The largest thresholds that keep the risk below 1 − level.

        Args:
            held: Held-out predictions, targets and masks.
            level: 1 − the allowed risk, in (0, 1). Default 0.9.
            delta: Probability of failure in (0, 1), or 0. Default 0.
            class_index: The class whose false negatives are limited. Default: all classes.
            sequences: The sequence of each held-out image, which then is the unit. None for images. Default None.

        Raises:
            ConfigError: If a level is not in (0, 1), or there is no class ``class_index``.
            DataError: If there are too few held-out images. The message says how many are needed.
        """
        _check_levels(level, delta)
        losses, classes, seen = [], 0, []
        for prediction, target, valid in checked(held):
            classes = prediction.probs.shape[1]
            if class_index is not None and not 0 <= class_index < classes:
                raise ConfigError(f"there is no class {class_index}: expected 0 to {classes - 1}")
            own = prediction.probs.gather(1, target.where(valid, 0)[:, None])[:, 0]
            own = own.masked_fill(prediction.label == target, 1.0)  # the most probable class is always in the set
            counted = valid if class_index is None else valid & (target == class_index)
            losses += [_below(select(p, mask)) for p, mask in zip(own, counted) if bool(mask.any())]
            seen += [bool(mask.any()) for mask in counted]
        table, unit = _by_sequence(_table(losses, class_index), sequences, seen)
        place = controlled(table, 1 - level, delta, unit)
        thresholds = torch.full((classes,), float(THRESHOLDS[place]))
        if class_index is not None:
            thresholds = torch.full((classes,), 2.0)  # the other classes only where they are the most probable one
            thresholds[class_index] = THRESHOLDS[place]
        return cls(thresholds, level, delta, len(table), class_index, unit=unit)

    def risk_text(self, names: Sequence[str] = ()) -> str:
        """What the risk is, in words.

        Args:
            names: Names of the classes.

        >>> ConformalSets(torch.ones(2), 0.9, class_index=1).risk_text(("back", "vessel"))
        'share of the vessel pixels whose set lacks vessel, mean over the images that show vessel'
        """
        if self.class_index is None:
            return f"share of the pixels whose set lacks the true class, mean over {self.unit}s"
        name = names[self.class_index] if self.class_index < len(names) else f"class {self.class_index}"
        return f"share of the {name} pixels whose set lacks {name}, mean over the {self.unit}s that show {name}"

    def counted(self, target: Tensor, valid: Tensor) -> Tensor:
        """The pixels (B, *event) that the level is about."""
        return valid if self.class_index is None else valid & (target == self.class_index)

    def __call__(self, prediction: ClassPrediction) -> PredictionSet:
        """The set of every pixel."""
        members = prediction.probs >= over_channels(self.thresholds, prediction.probs)
        members = members.scatter(1, prediction.label[:, None], True)
        return PredictionSet(members, self.level, prediction.image)


@dataclass(frozen=True)
class ConformalIntervals(Fitted):
    """Intervals ``μ ± m σ`` whose mean risk is limited, for images like the held-out ones.

    The risk of an image is the share of its valid pixels with a value outside its interval. The two statements are
    those of :class:`ConformalSets`.

    Args:
        multiple: m ≥ 0 (1,).
        level: 1 − the allowed risk, in (0, 1).
        delta: Probability in (0, 1) that the second statement fails; 0 for the first statement. Default 0.
        images: Number of held-out images, or sequences if they are the unit.
        rests_on: Digest of the calibrator's file that the predictions went through. Empty for no calibrator.
        unit: What is exchangeable: ``image``, or ``sequence``, whose risk is the mean over its images. Default image.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Those of :class:`ConformalSets`; Lei et al. (2018) for dividing errors by σ.
    Pitfall: That of :class:`ConformalSets`.
    """

    target: ClassVar[str] = "value"
    multiple: Tensor
    level: float
    delta: float = 0.0
    images: int = 0
    rests_on: str = ""
    unit: str = "image"

    @classmethod
    def fit(
        cls, held: HeldValues, level: float = 0.9, delta: float = 0.0, sequences: Sequence[str] | None = None
    ) -> Self:
        """The smallest multiple that keeps the risk below 1 − level.

        Args:
            held: Held-out predictions, targets and masks.
            level: 1 − the allowed risk, in (0, 1). Default 0.9.
            delta: Probability of failure in (0, 1), or 0. Default 0.
            sequences: The sequence of each held-out image, which then is the unit. None for images. Default None.

        Raises:
            ConfigError: If a level is not in (0, 1), or predictions are of poses.
            DataError: If there are too few held-out images (the message says how many are needed), or no finite
                interval is wide enough.
        """
        _check_levels(level, delta)
        losses, seen = [], []
        for mean, std, target in checked_values(_no_poses(held)):
            seen.append(mean.numel() > 0)
            if seen[-1]:
                losses.append(_above(((target - mean).abs() / std).amax(0)))
        table, unit = _by_sequence(_table(losses, None), sequences, seen)
        place = controlled(table, 1 - level, delta, unit)
        if not math.isfinite(MULTIPLES[place]):
            raise DataError(f"not even {MULTIPLES[-2]:.0f} σ reaches level {level}: calibrate with `scale` first")
        return cls(MULTIPLES[place : place + 1].clone(), level, delta, len(table), unit=unit)

    def risk_text(self, names: Sequence[str] = ()) -> str:
        """What the risk is, in words. ``names`` is not used: values have no classes."""
        return f"share of the pixels whose value lies outside its interval, mean over {self.unit}s"

    def counted(self, target: Tensor, valid: Tensor) -> Tensor:
        """The pixels (B, *event) that the level is about: all valid ones."""
        return valid

    def __call__(self, prediction: ValuePrediction) -> PredictionInterval:
        """The interval of every pixel."""
        half = self.multiple.to(prediction.mean) * prediction.std
        lower, upper = prediction.mean - half, prediction.mean + half
        return PredictionInterval(lower, upper, self.level, prediction.unit, prediction.image)


Conformal = ConformalSets | ConformalIntervals


def risk_statement(conformal: Conformal, names: Sequence[str] = ()) -> str:
    """What conformal sets or intervals promise for images like the held-out ones, in words.

    Args:
        conformal: The sets or intervals.
        names: Names of the classes.

    >>> risk_statement(ConformalIntervals(torch.ones(1), 0.9))
    'share of the pixels whose value lies outside its interval, mean over images: at most 0.1 in expectation'
    """
    sure = f"with probability {1 - conformal.delta:.4g}" if conformal.delta else "in expectation"
    return f"{conformal.risk_text(names)}: at most {1 - conformal.level:.4g} {sure}"


def conformal_for(kind: str) -> type[ConformalSets] | type[ConformalIntervals]:
    """The conformal method for predictions of a kind, "class" or "value".

    Raises:
        ConfigError: If there is none.
    """
    if kind not in CONFORMAL:
        raise ConfigError(f"there is no conformal method for {kind!r}: expected one of {', '.join(CONFORMAL)}")
    return CONFORMAL[kind]


CONFORMAL: dict[str, type[ConformalSets] | type[ConformalIntervals]] = {
    "class": ConformalSets,
    "value": ConformalIntervals,
}


def _no_poses(held: HeldValues) -> HeldValues:
    """The same, one after another. A box of rotation vectors is no set of rotations around a mean."""
    for prediction, target, valid in held:
        if isinstance(prediction, PosePrediction):
            raise ConfigError("intervals are for plain values, not for poses: calibrate the covariance with scale")
        yield prediction, target, valid


def _below(own: Tensor) -> Tensor:
    """The share (2048,) of these probabilities that do not reach each threshold."""
    rising = THRESHOLDS.flip(0)
    reached = torch.searchsorted(rising, own.float().cpu().contiguous(), right=True)  # number of thresholds
    lost = torch.bincount(reached, minlength=len(rising) + 1).cumsum(0)[: len(rising)]
    return lost.flip(0) / own.numel()


def _above(error: Tensor) -> Tensor:
    """The share (2048,) of these standardized errors that exceed each multiple."""
    first = torch.searchsorted(MULTIPLES, error.float().cpu().contiguous())  # the first multiple that is large enough
    counts = torch.bincount(first, minlength=len(MULTIPLES))[: len(MULTIPLES)]
    return 1 - counts.cumsum(0) / error.numel()


def _table(losses: list[Tensor], class_index: int | None) -> Tensor:
    if not losses:
        raise DataError(f"no held-out image shows class {class_index}: there is nothing to calibrate on")
    return torch.stack(losses)


def _by_sequence(losses: Tensor, sequences: Sequence[str] | None, seen: Sequence[bool]) -> tuple[Tensor, str]:
    """The losses of each unit, and its name: of images as they are, of sequences the mean over their images.

    Args:
        losses: Loss (n, L) of each image with a counted pixel.
        sequences: The sequence of every held-out image. None for images.
        seen: Whether each held-out image has a counted pixel.
    """
    if sequences is None:
        return losses, "image"
    if len(sequences) != len(seen):
        raise ConfigError(f"sequences names {len(sequences)} images, but {len(seen)} are held out")
    own = [name for name, counted in zip(sequences, seen) if counted]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(own))}
    places = torch.tensor([numbers[name] for name in own])
    sums = torch.zeros(len(numbers), losses.shape[1], dtype=torch.float64).index_add_(0, places, losses.double())
    return sums / torch.bincount(places)[:, None], "sequence"


def _check_levels(level: float, delta: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}, expected 1 − the allowed risk, in (0, 1), such as 0.9")
    if not 0 <= delta < 1:
        raise ConfigError(f"delta is {delta}, expected a probability in (0, 1), or 0 to limit the expected risk")
