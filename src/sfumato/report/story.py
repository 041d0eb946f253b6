"""What a report tells: facts, scores, curves, images and the comparison with another world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.contracts import Prediction, Task

Interval = tuple[float, float, float]  # a score's value, and the low and high end of its bootstrap interval
Series = tuple[Sequence[float], Sequence[float]]  # x and y


@dataclass(frozen=True)
class Shown:
    """One image to look at.

    Args:
        name: as in the data set.
        image: (3, H, W) in [0, 1].
        prediction: of this image, a batch of 1.
        target: what is compared with ``prediction.best[0]``: (H, W) classes or (D, H, W) values.
        valid: (H, W) bool, where the target is known.
        scores: of this image alone, to be read beside it.
        size: (H, W) how many classes beside the best guess each pixel may have (whole numbers), or how wide its
            interval is; None without a guarantee.
        teacher: the teacher's prediction, of a student's image.
        outline: (H, W) bool, what is drawn over the best guess, as the outlines of instances.

    Raises:
        ValueError: if the sizes of image, prediction, target and mask differ.
    """

    name: str
    image: Tensor
    prediction: Prediction
    target: Tensor
    valid: Tensor
    scores: Mapping[str, float] = field(default_factory=dict)
    size: Tensor | None = None
    teacher: Prediction | None = None
    outline: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {
            "image": self.image.shape[-2:],
            "prediction": self.prediction.total.shape[-2:],
            "target": self.target.shape[-2:],
            "valid": self.valid.shape[-2:],
        }
        if len(set(sizes.values())) > 1 or len(self.prediction.total) != 1:
            found = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
            raise ValueError(f"{self.name}: {found}: expected one size, and a prediction of one image")


@dataclass(frozen=True)
class Contrast:
    """How one part of the uncertainty differs between two worlds.

    Args:
        edges: (N + 1) ends of the bins, ascending.
        inside: (N) pixels of the training world per bin.
        outside: (N) pixels of the other world per bin.
        means: of the training world and of the other.
    """

    edges: Sequence[float]
    inside: Sequence[float]
    outside: Sequence[float]
    means: tuple[float, float]

    @classmethod
    def of(cls, inside: Tensor, outside: Tensor, bins: int = 60) -> Contrast:
        """Count the values (any shape, finite, ≥ 0) of both worlds in bins that end at their 99.5 % quantile.

        >>> Contrast.of(torch.ones(4), torch.full((4,), 3.0)).ratio
        3.0
        """
        inside, outside = inside.detach().flatten().double().cpu(), outside.detach().flatten().double().cpu()
        top = max(quantile(inside, 0.995), quantile(outside, 0.995)) or 1.0
        edges = torch.linspace(0, top, bins + 1, dtype=torch.float64)
        counts = [torch.histogram(part.clamp(0, top), edges).hist.tolist() for part in (inside, outside)]
        return cls(edges.tolist(), counts[0], counts[1], (inside.mean().item(), outside.mean().item()))

    @property
    def ratio(self) -> float:
        """How many times larger the mean is in the other world; NaN where the training world has none."""
        return self.means[1] / self.means[0] if self.means[0] > 0 else float("nan")


@dataclass(frozen=True)
class Shift:
    """What happens in a world the network has not seen.

    Args:
        name: of that world, as in ``"unseen objects"``.
        parts: ``aleatoric`` and ``epistemic``, each of what :func:`sfumato.report.parts` gives.
        shown: example images of it.
        scores: how well the two worlds are told apart, as in ``{"AUROC": (0.9, 0.88, 0.92)}``.
    """

    name: str
    parts: Mapping[str, Contrast]
    shown: Sequence[Shown] = ()
    scores: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Reliability:
    """Does it happen as often as the prediction says?

    Args:
        predicted: (N) confidences, or levels of quantiles, in [0, 1].
        observed: (N) accuracies, or shares of truths below these quantiles, in [0, 1]; NaN where nothing fell.
        count: (N) pixels behind each point; empty if all stand on all pixels.
        kind: what the axis says: ``"confidence"``, or as in ``"quantile level"``.
        before: the same without the calibrator; None if there is none.
    """

    predicted: Sequence[float]
    observed: Sequence[float]
    count: Sequence[float] = ()
    kind: str = "confidence"
    before: Reliability | None = None


@dataclass(frozen=True)
class Rejection:
    """How much better is what remains, when the most uncertain pixels are left out?

    Args:
        kept: (N) fractions of pixels kept in (0, 1].
        risks: name of an ordering → (N) risk of the kept; ``"oracle"`` orders by the true error.
        risk: what the axis says, with its unit, as in ``"error rate"`` or ``"RMSE (m)"``.
    """

    kept: Sequence[float]
    risks: Mapping[str, Sequence[float]]
    risk: str


@dataclass(frozen=True)
class Story:
    """Everything a page tells.

    Args:
        title: of the page.
        facts: what was trained on what: data set, method, likelihood, network, parameters, budget, seed.
        task: paints targets and predictions.
        scores: value, low and high end of the bootstrap interval by image; NaN where unknown.
        others: ``uncalibrated`` (the same run without its calibrator) or ``teacher`` → name of a score → its value.
        sizes: what the sizes of sets or intervals are called and their unit; empty without a guarantee.
        shown: images to page through.
        groups: name → names of images, as in ``{"best": [...], "worst": [...], "most uncertain": [...]}``.
        reliability: omitted if None.
        rejection: omitted if None.
        shift: the comparison with another world; omitted if None.
        history: name → (epochs, values); names that end in the same word, as in "training loss" and "validation
            loss", share a picture.
    """

    title: str
    facts: Mapping[str, str]
    task: Task
    scores: Mapping[str, Interval]
    shown: Sequence[Shown] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reliability: Reliability | None = None
    rejection: Rejection | None = None
    shift: Shift | None = None
    history: Mapping[str, Series] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sizes: tuple[str, str] = ("", "")


def quantile(values: Tensor, level: float) -> float:
    """The ``level`` quantile of the finite values, by sorting, since ``torch.quantile`` refuses more than 16 M."""
    values = values.flatten()
    values = values[values.isfinite()].float()
    if not len(values):
        return 0.0
    return values.kthvalue(max(1, min(len(values), round(level * len(values))))).values.item()
