"""What a report shows: facts, scores, curves, images and the comparison with data out of distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sfumato.contracts import Prediction, Task
from sfumato.errors import DataError

if TYPE_CHECKING:
    from sfumato.evaluation import OODHistogram, Value

Series = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve."""


@dataclass(frozen=True)
class Picture:
    """A further picture beside an image, such as the right view of a stereo pair.

    Args:
        pixels: (3, h, w) in [0, 1], of any size with the shape of the image.
        meaning: What it shows, in a sentence or two.
        key: Its colors ``#rrggbb`` by what they stand for. Default: none.
    """

    pixels: Tensor
    meaning: str
    key: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Saliency:
    """How much the answer at a point changes with each pixel of two pictures.

    Args:
        place: Row and column of the point, as shares of the height and the width, in [0, 1).
        maps: For both pictures (h, w), ≥ 0, in any unit.
    """

    place: tuple[float, float]
    maps: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ReportImage:
    """One image, its prediction and its target.

    Args:
        name: Name of the image in the data set.
        image: Image (3, H, W) in [0, 1].
        prediction: Prediction of this image, a batch of 1.
        target: Target that ``prediction.best[0]`` is compared with: classes (H, W) or values (D, H, W).
        valid: Where the target is known, (H, W) bool.
        scores: Scores of this image alone, shown beside it. Default: none.
        set_size: How many classes beside the best guess each pixel may have (whole numbers), or how wide its interval
            is, (H, W). None without conformal calibration.
        teacher: The teacher's prediction of the image. None unless the run is a student.
        outline: Outlines that are drawn over the best guess, (H, W) bool. Default: none.
        pictures: Further pictures by name, such as further inputs of the network. Default: none.
        saliency: Points, for which the page shows what the answer depends on in the image and in the first of the
            further pictures. Default: none.

    Raises:
        DataError: If the sizes of image, prediction, target and mask differ.
    """

    name: str
    image: Tensor
    prediction: Prediction
    target: Tensor
    valid: Tensor
    scores: Mapping[str, float] = field(default_factory=dict)
    set_size: Tensor | None = None
    teacher: Prediction | None = None
    outline: Tensor | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    saliency: Sequence[Saliency] = ()

    def __post_init__(self) -> None:
        sizes = {
            "image": self.image.shape[-2:],
            "prediction": self.prediction.total.shape[-2:],
            "target": self.target.shape[-2:],
            "valid": self.valid.shape[-2:],
        }
        if len(set(sizes.values())) > 1 or len(self.prediction.total) != 1:
            found = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
            raise DataError(f"{self.name}: {found}: expected one size, and a prediction of one image")


@dataclass(frozen=True)
class PathImage:
    """An image beside the path of its camera.

    Args:
        name: Its name in the data set.
        group: Why it is shown, such as ``worst``.
        picture: The image as a data URI.
        errors: Error of position and rotation, meters and degrees; empty if the true pose is not known.
        spreads: Their predicted standard deviations.
    """

    name: str
    group: str
    picture: str
    errors: tuple[float, ...]
    spreads: tuple[float, float]


@dataclass(frozen=True)
class PathSection:
    """The path of a camera.

    Args:
        drawing: The predicted and the true path with ellipses, as an ``<svg>`` element.
        images: Images beside it.
        level: Probability of an ellipse.
    """

    drawing: str
    images: Sequence[PathImage]
    level: float


@dataclass(frozen=True)
class BoxSection:
    """Boxes over images, with bounds that a slider moves.

    Args:
        data: What the script of the page reads: images with their boxes, names and colors of classes, and the number of
            standard deviations at the start.
        swatches: Name and color of each class.
        meaning: What is known of the bounds, in a sentence. Empty for nothing.
    """

    data: Mapping[str, object]
    swatches: Sequence[tuple[str, str]]
    meaning: str = ""


@dataclass(frozen=True)
class OODSection:
    """How uncertainty differs on data out of distribution.

    Args:
        name: Name of that data set.
        histograms: Histograms of each part of the uncertainty, in the units that :func:`display_maps` gives.
        images: Example images of it. Default: none.
        scores: How well both data sets are told apart, such as ``ood_auroc_epistemic``. Default: none.
    """

    name: str
    histograms: Mapping[str, OODHistogram]
    images: Sequence[ReportImage] = ()
    scores: Mapping[str, Value] = field(default_factory=dict)

    @property
    def statement(self) -> str:
        """Whether the epistemic part grew more than the aleatoric part, in a sentence. Empty where that is unknown."""
        ratios = [self.histograms[part].ratio for part in ("epistemic", "aleatoric") if part in self.histograms]
        if len(ratios) < 2 or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
            return ""
        epistemic, aleatoric = ratios
        found = f"Here the epistemic part is {epistemic:.3g} times as large, the aleatoric part {aleatoric:.3g} times"
        if epistemic > 1 and abs(math.log(aleatoric)) < math.log(epistemic):
            return f"{found}: the aleatoric part changed less, as it should."
        if epistemic > 1:
            return f"{found}: the aleatoric part changed as much or more, which it should not."
        return f"{found}: the epistemic part did not grow, so it does not show that these data are new."


@dataclass(frozen=True)
class Reliability:
    """Observed against predicted frequencies.

    Args:
        predicted: Confidences, or levels of quantiles, (N,) in [0, 1].
        observed: Accuracies, or shares of targets below these quantiles, (N,) in [0, 1]. NaN for an empty bin.
        count: Number of pixels of each point (N,). Empty if every point uses all pixels.
        kind: Name of the horizontal axis: ``"confidence"``, or such as ``"quantile level"``.
        uncalibrated: The same curve without the calibrator. None if the run has none.
    """

    predicted: Sequence[float]
    observed: Sequence[float]
    count: Sequence[float] = ()
    kind: str = "confidence"
    uncalibrated: Reliability | None = None


@dataclass(frozen=True)
class Rejection:
    """The risk of the pixels that remain when the most uncertain ones are left out.

    Args:
        kept: Fractions of pixels that are kept, (N,) in (0, 1].
        risks: For each ordering, the risk of the kept pixels (N,). An ordering whose name starts with ``"oracle"`` uses
            the true error.
        risk: Name of the vertical axis with its unit, such as ``"error rate"`` or ``"RMSE (m)"``.
    """

    kept: Sequence[float]
    risks: Mapping[str, Sequence[float]]
    risk: str


@dataclass(frozen=True)
class ReportData:
    """Everything that a page shows of one task.

    Args:
        title: Title of the page.
        facts: Data, method, likelihood, network, budget and seed, by name.
        task: The task, which gives targets and best guesses their colors.
        scores: Scores by name, with their bootstrap intervals.
        images: Images to look at. Default: none.
        groups: Names of groups, such as ``"best"``, and the names of their images. Default: none.
        reliability: The reliability diagram. None to leave it out.
        rejection: The rejection curve. None to leave it out.
        ood: The comparison with data out of distribution. None to leave it out.
        history: Training curves by name. Names that end in the same word share a picture. Default: none.
        other_scores: Scores of ``uncalibrated`` predictions or of the ``teacher``, by score. Default: none.
        set_size_name: What ``ReportImage.set_size`` is called. Empty without conformal calibration.
        set_size_unit: Unit of it.
        set_size_meaning: What it means, in a sentence or two.
        meanings: The meaning of scores by name, in place of the usual one. Default: none.
        per_class: Scores of each class, as columns in the order of ``class_names``. Default: none.
        class_names: Names of the classes. Default: none.
        decisions: What was decided and what it promises, by the name of the decision. Default: none.
        warning: A sentence that the page shows first, such as that the scores are old. Default: none.
        path: The path of the camera, for camera poses. Default: none.
        subject: What one prediction is for: ``pixel`` or ``image``. Default ``pixel``.
        boxes: Boxes over images. Of several tasks, that of the first is shown. Default: none.
    """

    title: str
    facts: Mapping[str, str]
    task: Task
    scores: Mapping[str, Value]
    images: Sequence[ReportImage] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reliability: Reliability | None = None
    rejection: Rejection | None = None
    ood: OODSection | None = None
    history: Mapping[str, Series] = field(default_factory=dict)
    other_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    set_size_name: str = ""
    set_size_unit: str = ""
    set_size_meaning: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, Sequence[float]] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    decisions: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""
    path: PathSection | None = None
    subject: str = "pixel"
    boxes: BoxSection | None = None

    @property
    def shares(self) -> list[float]:
        """The share of each class in all pixels, %."""
        pixels = self.per_class.get("pixels", ())
        return [100 * count / max(1.0, sum(pixels)) for count in pixels]
