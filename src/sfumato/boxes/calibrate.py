"""Calibrate boxes after training: their scores, the standard deviations of their edges, and bounds with a guarantee."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.boxes.boxes import Boxes
from sfumato.boxes.match import IGNORED, TRUE, match_boxes
from sfumato.calibration.fitted import Fitted
from sfumato.calibration.risk import controlled
from sfumato.errors import ConfigError, DataError, MissingDependencyError

HeldBoxes = Iterable[tuple[Boxes, Tensor]]
"""The predicted and the true boxes (M, 6) of held-out images."""

KINDS = ("isotonic", "linear")
GRID = 101  # places of the map of scores
KNOTS = 24  # places of the map of standard deviations
LEAST = 20  # boxes that a map is fitted on
ANY = 1e-6  # least IoU of a match for scores: any overlap
LEAST_STD = 1e-3  # px
CHOICES = 1000  # factors among which the bounds are chosen


@dataclass(frozen=True)
class BoxCalibrator(Fitted):
    """A map of scores for each class, and a map of standard deviations.

    A calibrated score is the expected IoU with the true box of this class, 0 where there is none. A calibrated standard
    deviation is the root mean square error of an edge. Both parts of a covariance are scaled alike.

    Args:
        score_map: Calibrated scores (K, 101) at the scores 0, 0.01, …, 1 of each class; linear between them.
        std_at: Standard deviations (Q,), px, rising.
        std_ratio: What those are multiplied by (Q,), > 0; linear between them, constant outside.
        kind: ``isotonic`` or ``linear``. Default ``isotonic``.
        rests_on: Digests of the calibrators of the maps that boxes were found in. Default: none.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Kuzucu et al. (2024), "On calibration of object detectors: pitfalls, evaluation and baselines", for maps of
    scores; Kuleshov, Fenner and Ermon (2018) for standard deviations.
    """

    target: ClassVar[str] = "boxes"
    score_map: Tensor
    std_at: Tensor
    std_ratio: Tensor
    kind: str = "isotonic"
    rests_on: str = ""

    @classmethod
    def fit(cls, held: HeldBoxes, classes: int, kind: str = "isotonic") -> Self:
        """Fit both maps. A class with fewer than 20 boxes gets the map of all classes together.

        Args:
            held: The boxes of held-out images.
            classes: Number of classes K.
            kind: ``isotonic``, the best map that never falls; or ``linear``, ``a score + b``, cut to [0, 1], and one
                factor for all standard deviations. Default ``isotonic``.

        Raises:
            ConfigError: If there is no such kind.
            DataError: If fewer than 20 boxes are found, or true.
            MissingDependencyError: If scikit-learn is not installed.
        """
        if kind not in KINDS:
            raise ConfigError(f"a calibration of boxes is {kind!r}, expected one of {', '.join(KINDS)}")
        scores, stds = [torch.zeros(0, 3)], [torch.zeros(0, 2)]
        for found, true in held:
            same = match_boxes(found, true, ANY, ANY, by_class=True)
            counted = same.kind != IGNORED
            quality = same.iou.where(same.kind == TRUE, 0.0)
            scores.append(torch.stack([found.classes.float(), found.scores.float(), quality], 1)[counted])
            stds.append(torch.stack([found.std, edge_errors(found, true).abs()], -1)[_hits(found, true)].reshape(-1, 2))
        of_score, of_std = torch.cat(scores), torch.cat(stds)
        if len(of_score) < LEAST or len(of_std) < 4 * LEAST:
            raise DataError(
                f"{len(of_score)} boxes are found, {len(of_std) // 4} of them true: expected at least {LEAST}. "
                "Calibrate on more images"
            )
        rows = []
        for number in range(classes):
            own = of_score[of_score[:, 0] == number]
            rows.append(_score_map(own if len(own) >= LEAST else of_score, kind))
        return cls(torch.stack(rows), *_std_map(of_std, kind), kind)

    def __call__(self, boxes: Boxes) -> Boxes:
        """The boxes with calibrated scores and covariances, in the order of the new scores."""
        table, place = self.score_map.to(boxes.edges), boxes.scores.clamp(0, 1) * (GRID - 1)
        below = place.floor().long().clamp_max(GRID - 2)
        score = torch.lerp(table[boxes.classes, below], table[boxes.classes, below + 1], place - below)
        ratio = _interpolated(boxes.std, self.std_at.to(boxes.edges), self.std_ratio.to(boxes.edges))
        factor = ratio[:, :, None] * ratio[:, None]
        parts = {name: getattr(boxes, name) * factor for name in ("aleatoric", "epistemic")}
        found = replace(boxes, score=score, **parts)
        return found.select(score.argsort(descending=True, stable=True))


@dataclass(frozen=True)
class BoxBounds(Fitted):
    """Inner and outer boxes: an expected share of at least ``level`` of the true boxes of an image lies between them.

    Only true boxes that are found (IoU ≥ 0.5) count. A true box lies between if each of its edges does. The guarantee
    is about new images that are exchangeable with those it was fitted on.

    Args:
        factor: Number of standard deviations between an edge and its bounds.
        level: The expected share, in (0, 1).
        images: Number of images it was fitted on.
        rests_on: Digest of the calibrator of the boxes. Default: none.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Angelopoulos et al. (2024), "Conformal risk control"; Timans et al. (2024), "Adaptive bounding box
    uncertainties via two-step conformal prediction", for boxes.
    Pitfall: It says nothing about objects that are not found.
    """

    target: ClassVar[str] = "boxes"
    factor: float
    level: float
    images: int
    rests_on: str = ""

    @classmethod
    def fit(cls, held: HeldBoxes, level: float = 0.9) -> Self:
        """The smallest factor that keeps the level.

        Args:
            held: The boxes of held-out images, calibrated if boxes will be.
            level: Expected share of found true boxes of an image that lie between the bounds. Default 0.9.

        Raises:
            ConfigError: If ``level`` is not in (0, 1).
            DataError: If the images are too few for this level, or no true box is found.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level is {level}, expected a share in (0, 1) such as 0.9")
        needed = [needed_factors(found, true) for found, true in held]
        every = torch.cat([torch.zeros(1), *needed])
        if len(every) == 1:
            raise DataError("no true box is found in the images: train longer, or use other images")
        choices = (
            every.quantile(torch.linspace(0, 1, CHOICES).double()) if len(every) > CHOICES else every.sort().values
        )
        losses = [
            (each[:, None] > choices).double().mean(0) if len(each) else choices.new_zeros(len(choices))
            for each in needed
        ]
        chosen = controlled(torch.stack(losses), 1 - level, 0.0)
        return cls(float(choices[chosen]), level, len(needed))

    def __call__(self, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """The inner and the outer box of each box, each (N, 4), px."""
        return boxes.bounds(self.factor)


def needed_factors(found: Boxes, true: Tensor) -> Tensor:
    """For each true box that is found, the number of standard deviations that reach all of its edges, float64."""
    hits = _hits(found, true)
    return (edge_errors(found, true).abs() / found.std.clamp_min(LEAST_STD)).amax(1)[hits].double()


def edge_errors(found: Boxes, true: Tensor) -> Tensor:
    """Edge of the box minus that of its true box (N, 4), px; 0 for boxes without a true one."""
    same = match_boxes(found, true)
    if not len(true):
        return torch.zeros_like(found.edges)
    error = found.edges - true[same.partner.clamp_min(0), :4].to(found.edges)
    return error.where((same.partner >= 0)[:, None], 0.0)


def _hits(found: Boxes, true: Tensor) -> Tensor:
    return match_boxes(found, true).kind == TRUE


def _score_map(rows: Tensor, kind: str) -> Tensor:
    """Calibrated scores (101,) from rows of class, score and IoU."""
    x, y = rows[:, 1].double(), rows[:, 2].double()
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    if kind == "linear":
        variance = (x - x.mean()).square().mean()
        slope = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 0 else torch.zeros(())
        return (y.mean() + slope.clamp_min(0) * (grid - x.mean())).clamp(0, 1).float()
    return _rising(x, y, grid).clamp(0, 1).float()


def _std_map(rows: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Standard deviations, and what they are multiplied by, from rows of standard deviation and absolute error."""
    std, error = rows[:, 0].double().clamp_min(LEAST_STD), rows[:, 1].double()
    if kind == "linear":
        return torch.ones(1), (error / std).square().mean().sqrt().clamp_min(1e-3).reshape(1).float()
    at = std.quantile(torch.linspace(0.02, 0.98, KNOTS, dtype=torch.float64)).unique()
    ratio = _rising(std, error.square(), at).sqrt() / at
    return at.float(), ratio.clamp(1e-3, 1e3).float()


def _rising(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """The best fit of y that never falls along x, at some places."""
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise MissingDependencyError(
            f"isotonic maps of boxes are fitted with scikit-learn, and {error}: pip install 'sfumato[detection]'"
        ) from error
    fitted = IsotonicRegression(out_of_bounds="clip").fit(x.numpy(), y.numpy())
    return torch.from_numpy(fitted.predict(at.numpy())).double()


def _interpolated(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Values at places x, linear between the given ones and constant outside."""
    if len(at) == 1:
        return values.expand_as(x)
    right = torch.searchsorted(at, x.contiguous()).clamp(1, len(at) - 1)
    share = ((x - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
