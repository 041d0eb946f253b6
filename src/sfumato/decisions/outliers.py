"""Flags for images that are unlike the held-out ones, with a limit on how often images like those are flagged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato.calibration.fitted import Fitted
from sfumato.contracts import Prediction
from sfumato.errors import ConfigError, DataError, NotFiniteError

MEASURES = ("total", "aleatoric", "epistemic", "novelty")
"""The maps of a prediction that can be looked at."""


def measured(prediction: Prediction, measure: str) -> Tensor:
    """A map (B, *event) of a prediction by its name.

    Raises:
        ConfigError: If there is no such map, or the method of this prediction gives none.
    """
    if measure not in MEASURES:
        raise ConfigError(f"measure is {measure!r}, expected one of {', '.join(MEASURES)}")
    found: Tensor | None = getattr(prediction, measure, None)
    if found is None:
        raise ConfigError(
            "the method of this run gives no novelty: use another measure, or a method such as feature-density"
        )
    return found


def local_means(maps: Tensor, side: int) -> Tensor:
    """The mean over the square of ``side`` pixels around each pixel, inside the image.

    Args:
        maps: Maps (B, H, W).
        side: Odd side of the square, pixels.
    """
    return avg_pool2d(maps[:, None], side, 1, side // 2, count_include_pad=False)[:, 0]


@dataclass(frozen=True)
class OutlierFlag(Fitted):
    """Flags images whose score is larger than those of nearly all held-out images.

    The score of an image is the mean of a map of its prediction, or, with ``side``, the largest mean over a square in
    it, which finds small objects and says where they are.

    With probability ``1 − delta`` over the choice of the held-out images, at most a share ``rate`` of new images like
    them is flagged. The threshold is the (n − m)-th smallest of n scores. The share of images above it is distributed
    as Beta(m + 1, n − m), and m is the largest number for which it is at most ``rate`` with that probability.

    Args:
        scores: Scores (n,) of held-out images, ascending, float64.
        rate: The allowed share of flagged images, in (0, 1).
        delta: How often the share itself may be larger, in (0, 1).
        measure: The map whose mean is the score: total, aleatoric, epistemic or novelty. Default epistemic.
        side: Side of the square, pixels, odd; 0 for the mean over the whole image. Default 0.
        rests_on: The state of the predictions of the run that it was fitted for. Empty without a run.
        fitted_on: Names and digests of the held-out images.

    Source: Bates et al. (2023), "Testing for outliers with conformal p-values"; Wilks (1941) for the Beta distribution.
    Pitfall: The images must be exchangeable, see the page on what is exchangeable. The limit is about images that are
    like the held-out ones; how many others are found is not limited.
    """

    target: ClassVar[str] = "any"
    scores: Tensor
    rate: float
    delta: float
    measure: str = "epistemic"
    side: int = 0
    rests_on: str = ""

    @classmethod
    def fit(
        cls, scores: Tensor, rate: float = 0.05, delta: float = 0.1, *, measure: str = "epistemic", side: int = 0
    ) -> Self:
        """A flag from scores of held-out images.

        Args:
            scores: Scores (n,), see :meth:`score`.
            rate: The allowed share of flagged images, in (0, 1). Default 0.05.
            delta: How often the share may be larger, in (0, 1). Default 0.1.
            measure: The map whose mean was taken. Default epistemic.
            side: The side of the square that was used. Default 0.

        Raises:
            ConfigError: If a rate is not in (0, 1), or ``side`` is even.
            DataError: If the images are too few. The message says how many are needed.
            NotFiniteError: If a score is not finite.
        """
        cls.check(rate, delta, side)
        if exceedances(len(scores), rate, delta) is None:
            raise DataError(
                f"{len(scores)} held-out images are too few to flag at most {rate:.4g} of such images with probability "
                f"{1 - delta:.4g}: it needs at least {math.ceil(math.log(delta) / math.log1p(-rate) - 1e-9)}"
            )
        return cls(scores.double().sort().values, rate, delta, measure, side)

    @staticmethod
    def check(rate: float, delta: float, side: int) -> None:
        """Check choices before images are predicted.

        Raises:
            ConfigError: If a rate is not in (0, 1), or ``side`` is even.
        """
        for name, value in (("rate", rate), ("delta", delta)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} is {value}, expected a number in (0, 1)")
        if side < 0 or (side and side % 2 == 0):
            raise ConfigError(f"side is {side}, expected an odd number of pixels, or 0 for the whole image")

    @property
    def threshold(self) -> float:
        """An image is flagged if its score is larger."""
        most = exceedances(len(self.scores), self.rate, self.delta)
        assert most is not None
        return float(self.scores[len(self.scores) - 1 - most])

    def map(self, prediction: Prediction) -> Tensor:
        """The map (B, *event) whose largest value, or mean without ``side``, is the score."""
        found = measured(prediction, self.measure).double()
        return local_means(found, self.side) if self.side else found

    def score(self, prediction: Prediction) -> Tensor:
        """The scores (B,) of the images of a prediction, float64."""
        return image_scores(prediction, self.measure, self.side)

    def __call__(self, scores: Tensor) -> Tensor:
        """Whether images with these scores (m,) are flagged, bool."""
        return scores > self.threshold

    def flagged_pixels(self, prediction: Prediction) -> Tensor:
        """The pixels (B, H, W), bool, around which the local mean exceeds the threshold. None without a flag.

        Raises:
            ConfigError: If the flag is about whole images.
        """
        if not self.side:
            raise ConfigError("this flag is about whole images: fit it with a side, to find regions")
        return self.map(prediction) > self.threshold

    def p_values(self, scores: Tensor) -> Tensor:
        """Conformal p-values (m,) of images with scores (m,): ``(1 + #{held-out ≥ s}) / (n + 1)``, float64.

        For an image like the held-out ones, P(p ≤ t) ≤ t. For several images this allows :func:`benjamini_hochberg`.
        With a local mean in the place of a score the p-values hold for all pixels of an image at the same time.
        """
        below = torch.searchsorted(self.scores, scores.to(self.scores))
        return (1 + len(self.scores) - below).double() / (len(self.scores) + 1)


def image_scores(prediction: Prediction, measure: str = "epistemic", side: int = 0) -> Tensor:
    """The score of each image: the mean of a map, or the largest mean over a square of ``side`` pixels.

    Args:
        prediction: Prediction of B images.
        measure: total, aleatoric, epistemic or novelty. Default epistemic.
        side: Odd side of the square, pixels; 0 for the mean over the image. Default 0.

    Returns:
        Scores (B,), float64.

    Raises:
        ConfigError: If there is no such map, or ``side`` is given for predictions of one value for each image.
        NotFiniteError: If a score is not finite.
    """
    found = measured(prediction, measure).double()
    if side and found.ndim != 3:
        raise ConfigError("side is for maps, and this prediction has one value for each image: leave it out")
    scores = local_means(found, side).flatten(1).amax(1) if side else found.reshape(len(found), -1).mean(1)
    if not bool(scores.isfinite().all()):
        raise NotFiniteError(f"the {measure} uncertainty of an image is NaN or infinite")
    return scores.cpu()


def exceedances(images: int, rate: float, delta: float) -> int | None:
    """The largest m with ``P(Binomial(images, rate) ≤ m) ≤ delta``: how many held-out images may be flagged.

    None if there is none, because the images are too few.

    >>> [exceedances(n, 0.05, 0.1) for n in (20, 50, 101, 200, 500, 1000)]
    [None, 0, 1, 5, 18, 40]
    """
    tail, most = 0.0, None
    for m in range(images + 1):
        log = math.lgamma(images + 1) - math.lgamma(m + 1) - math.lgamma(images - m + 1)
        tail += math.exp(log + m * math.log(rate) + (images - m) * math.log1p(-rate))
        if tail > delta:
            break
        most = m
    return most


def benjamini_hochberg(p: Tensor | Sequence[float], rate: float) -> Tensor:
    """Which of many hypotheses are rejected, so that at most a share ``rate`` of the rejected ones is true on average.

    Args:
        p: p-values (m,).
        rate: The allowed expected share of false rejections, in (0, 1).

    Returns:
        Mask (m,), bool.

    Raises:
        ConfigError: If ``rate`` is not in (0, 1).

    Source: Benjamini and Hochberg (1995). Conformal p-values that share their held-out images allow it: Bates et al.
    (2023), theorem 2.

    >>> benjamini_hochberg([0.01, 0.02, 0.03, 0.5], 0.05).tolist()
    [True, True, True, False]
    """
    if not 0 < rate < 1:
        raise ConfigError(f"rate is {rate}, expected a number in (0, 1)")
    values = torch.as_tensor(p, dtype=torch.float64)
    ordered = values.sort().values
    small = (ordered <= rate * torch.arange(1, len(values) + 1) / max(1, len(values))).nonzero()
    if not len(small):
        return torch.zeros_like(values, dtype=torch.bool)
    return values <= ordered[small[-1]]
