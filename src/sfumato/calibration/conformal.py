"""Guarantees: sets of classes and intervals of values whose risk stays below a level, the image being the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sfumato.calibration.held import Held, HeldValues, checked, checked_values
from sfumato.predictions import ClassPrediction, PredictionInterval, PredictionSet, ValuePrediction

# From the smallest sets to the largest: thresholds of a probability, and multiples of σ; the last keeps every promise.
THRESHOLDS = torch.cat([torch.logspace(0, -7, 2047), torch.zeros(1)])
MULTIPLES = torch.cat([torch.zeros(1), torch.logspace(-2, 4, 2046), torch.tensor([torch.inf])])


@dataclass(frozen=True)
class ConformalSets:
    """Sets of classes for every pixel that keep a promise about the mean risk of images like the held-out ones.

    A class is in the set where its probability reaches a threshold; the most probable class always is. The risk of an
    image is the share of its valid pixels whose set lacks the true class, or with ``of`` the share of that class's
    pixels whose set lacks it (its false-negative rate), over images that show it.

    * Without ``delta``: over the draw of the held-out images and of a new one, the expected risk is at most 1 − level.
    * With ``delta``: with probability 1 − delta over the draw of the held-out images, the mean risk is at most
      1 − level.

    Args:
        thresholds: (K,) a class is in the set where its probability reaches this.
        level: 1 − the risk allowed, in (0, 1).
        delta: how often the second promise may fail, in (0, 1); 0 for the first promise.
        images: how many held-out images it rests on.
        of: the class whose false negatives the promise is about; None for all classes.
        fitted_on: the images that it must not be scored on, by name.

    Source: Angelopoulos et al. (2024), "Conformal risk control"; Bates et al. (2021), "Distribution-free,
    risk-controlling prediction sets".
    Pitfall: images must be exchangeable: frames of one video are not, and images of another camera are not. What was
    used to train or to calibrate cannot be held out again.
    """

    thresholds: Tensor
    level: float
    delta: float = 0.0
    images: int = 0
    of: int | None = None
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held, level: float = 0.9, delta: float = 0.0, of: int | None = None) -> Self:
        """The largest thresholds that keep the promise.

        Raises:
            ValueError: if a level is not in (0, 1), the held-out images are too few for it (the message says how many
                are needed), or there is no class ``of``.
        """
        _levels(level, delta)
        losses, classes = [], 0
        for prediction, target, valid in checked(held):
            classes = prediction.probs.shape[1]
            if of is not None and not 0 <= of < classes:
                raise ValueError(f"there is no class {of}: expected 0 to {classes - 1}")
            own = prediction.probs.gather(1, target.where(valid, 0)[:, None])[:, 0]
            own = own.masked_fill(prediction.label == target, 1.0)  # the most probable class is always in
            counted = valid if of is None else valid & (target == of)
            losses += [_below(p[mask]) for p, mask in zip(own, counted) if bool(mask.any())]
        place = controlled(_table(losses, of), 1 - level, delta)
        thresholds = torch.full((classes,), float(THRESHOLDS[place]))
        if of is not None:
            thresholds = torch.full((classes,), 2.0)  # of the others, only where they are the most probable
            thresholds[of] = THRESHOLDS[place]
        return cls(thresholds, level, delta, len(losses), of)

    def counted(self, target: Tensor, valid: Tensor) -> Tensor:
        """The pixels (B, H, W) that the promise is about."""
        return valid if self.of is None else valid & (target == self.of)

    def __call__(self, prediction: ClassPrediction) -> PredictionSet:
        """The set of every pixel."""
        members = prediction.probs >= self.thresholds.to(prediction.probs)[:, None, None]
        members = members.scatter(1, prediction.label[:, None], True)
        return PredictionSet(members, self.level, prediction.image)


@dataclass(frozen=True)
class ConformalIntervals:
    """Intervals ``μ ± m σ`` that keep a promise about the mean risk of images like the held-out ones.

    The risk of an image is the share of its valid pixels with a value outside; the two promises are those of
    :class:`ConformalSets`.

    Args:
        multiple: (1,) m ≥ 0.
        level: 1 − the risk allowed, in (0, 1).
        delta: how often the second promise may fail, in (0, 1); 0 for the first promise.
        images: how many held-out images it rests on.
        fitted_on: the images that it must not be scored on, by name.

    Source and pitfall: as of :class:`ConformalSets`; Lei et al. (2018) for dividing errors by σ.
    """

    multiple: Tensor
    level: float
    delta: float = 0.0
    images: int = 0
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: HeldValues, level: float = 0.9, delta: float = 0.0) -> Self:
        """The smallest multiple that keeps the promise.

        Raises:
            ValueError: if a level is not in (0, 1), the held-out images are too few for it (the message says how many
                are needed), or no finite interval keeps it.
        """
        _levels(level, delta)
        losses = []
        for mean, std, target in checked_values(held):
            if mean.numel():
                losses.append(_above(((target - mean).abs() / std).amax(0)))
        place = controlled(_table(losses, None), 1 - level, delta)
        if not math.isfinite(MULTIPLES[place]):
            raise ValueError(f"not even {MULTIPLES[-2]:.0f} σ keeps level {level}: calibrate with `scale` first")
        return cls(MULTIPLES[place : place + 1].clone(), level, delta, len(losses))

    def counted(self, target: Tensor, valid: Tensor) -> Tensor:
        """The pixels (B, H, W) that the promise is about: all that are valid."""
        return valid

    def __call__(self, prediction: ValuePrediction) -> PredictionInterval:
        """The interval of every pixel."""
        half = self.multiple.to(prediction.mean) * prediction.std
        lower, upper = prediction.mean - half, prediction.mean + half
        return PredictionInterval(lower, upper, self.level, prediction.unit, prediction.image)


def controlled(losses: Tensor, risk: float, delta: float) -> int:
    """The first of ever more careful choices that keeps the promise.

    Args:
        losses: (n, L) of each image and choice, in [0, 1], never rising along L, 0 at its end.
        risk: what is allowed.
        delta: 0 for the promise in expectation, else for the one with probability 1 − delta.

    Raises:
        ValueError: if n images are too few for any choice.
    """
    images, mean = len(losses), losses.double().mean(0)
    needed = images_needed(risk, delta)
    if images < needed:
        promise = f"level {1 - risk:.4g}" + (f" with probability {1 - delta:.4g}" if delta else "")
        raise ValueError(f"{images} held-out images are too few for {promise}: it needs at least {needed}")
    if not delta:
        kept = (images * mean + 1) / (images + 1) <= risk + 1e-12
    else:
        kept = torch.tensor([p_value(m, risk, images) <= delta for m in mean.tolist()])
    return int(kept.int().argmax())  # the first; the last always is


def images_needed(risk: float, delta: float = 0.0) -> int:
    """The fewest held-out images for which a choice without any loss keeps the promise.

    >>> images_needed(0.1), images_needed(0.05), images_needed(0.1, 0.1)
    (9, 19, 22)
    """
    if not delta:
        return math.ceil(1 / risk - 1 - 1e-9)
    return math.ceil(math.log(delta) / math.log1p(-risk) - 1e-9)


def p_value(mean: float, risk: float, images: int) -> float:
    """How probable a mean loss this small is at most, if the true risk is above ``risk``: Hoeffding's and Bentkus's.

    Source: Bates et al. (2021), §3.1, and Angelopoulos et al. (2022), "Learn then test", proposition 1.
    """
    if mean >= risk:
        return 1.0
    entropy = (mean * math.log(mean / risk) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - risk))
    return min(math.exp(-images * entropy), math.e * _binomial(math.ceil(images * mean - 1e-9), images, risk))


def _binomial(most: int, trials: int, chance: float) -> float:
    """P(X ≤ most) for X ~ Binomial(trials, chance)."""
    k = torch.arange(most + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    log = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return float((log + k * math.log(chance) + (n - k) * math.log1p(-chance)).exp().sum())


def _below(own: Tensor) -> Tensor:
    """For each threshold the share (2048,) of these probabilities that do not reach it."""
    rising = THRESHOLDS.flip(0)
    reached = torch.searchsorted(rising, own.float().cpu().contiguous(), right=True)  # how many of them it reaches
    lost = torch.bincount(reached, minlength=len(rising) + 1).cumsum(0)[: len(rising)]
    return lost.flip(0) / own.numel()


def _above(error: Tensor) -> Tensor:
    """For each multiple the share (2048,) of these standardized errors that exceed it."""
    first = torch.searchsorted(MULTIPLES, error.float().cpu().contiguous())  # the first multiple that holds it
    counts = torch.bincount(first, minlength=len(MULTIPLES))[: len(MULTIPLES)]
    return 1 - counts.cumsum(0) / error.numel()


def _table(losses: list[Tensor], of: int | None) -> Tensor:
    if not losses:
        raise ValueError(f"no held-out image shows class {of}: there is nothing to calibrate on")
    return torch.stack(losses)


def _levels(level: float, delta: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected 1 − the risk allowed, in (0, 1), such as 0.9")
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}, expected in (0, 1), or 0 for a promise in expectation")
