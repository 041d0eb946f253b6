"""Scores of the boxes that are found in images."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.boxes import Boxes, match_boxes
from sfumato.errors import DataError, MissingDependencyError
from sfumato.metrics.box_quality import ROW, calibration_error, optimal_lrp, proper_rows
from sfumato.metrics.instance_scores import ause
from sfumato.metrics.pdq import pdq_of_image
from sfumato.metrics.ranking import spearman_of_values

LEVEL = 0.9
COUNTED = 0.3
KINDS = {"tp": 0, "duplicate": 1, "localization": 2, "fp": 3}
ANY = 1e-6  # least IoU of a match for LaECE₀: any overlap


class BoxScores(Metric):
    """Average precision of boxes, their calibration, proper scores of their distributions, and PDQ.

    - ``ap``, ``ap50``, ``ap75``: average precision of COCO over IoU from 0.5 to 0.95, at 0.5 and at 0.75.
    - ``lrp``: the optimal LRP error, mean over classes. Smaller is better.
    - ``d_ece``: the calibration error of scores against whether a box has an IoU ≥ 0.5 with a true box of its class.
    - ``laece0``: that of scores against the IoU with the true box (0 without one), of each class, mean over classes.
      ``laace0`` is the mean of ``|score − IoU|``.

    The others are of boxes whose class has a probability of at least 0.3, which a calibration of scores does not
    change. Kinds are those of :func:`~sfumato.boxes.match_boxes`:

    - ``class_nll_KIND`` (nats), ``brier_KIND``: of the class, for ``tp`` (true positives), ``duplicate``,
      ``localization`` and ``fp`` (false positives, whose class is no object).
    - ``box_nll_KIND`` (nats), ``energy_KIND`` (px): of the four edges, for all kinds but ``fp``. ``entropy_fp`` (nats)
      is that of the edges of false positives, which should be large.
    - ``coverage90``: the share of edges of true positives in their 90 % interval. ``edge_error`` (px) is the root mean
      square error of their edges, ``box_std`` the root mean square standard deviation.
    - ``box_spearman``, ``box_ause``: whether the error of true positives follows the standard deviation.
    - ``pdq``: see :func:`~sfumato.metrics.pdq.pdq_of_image`.

    Args:
        classes: Number of classes K.

    Source: Lin et al. (2014) for AP; Oksuz et al. (2018) for LRP; Küppers et al. (2020) for D-ECE; Oksuz et al. (2023)
    and Kuzucu et al. (2024) for LaECE; Harakeh and Waslander (2021); Hall et al. (2020) for PDQ.
    Pitfall: Scores of two detectors are only comparable at the same threshold of the score. D-ECE asks for precision
    and LaECE₀ for IoU, so no score is right for both.
    """

    target: ClassVar[str] = "boxes"
    full_state_update: bool | None = False
    headline: tuple[str, ...] = (
        "ap", "ap50", "lrp", "laece0", "d_ece", "class_nll_tp", "class_nll_fp", "box_nll_tp", "energy_tp", "coverage90",
        "edge_error", "box_std", "box_spearman", "pdq",
    )  # fmt: skip
    found: list[Tensor]
    true: list[Tensor]
    rows: list[Tensor]
    quality: Tensor
    images: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for name in ("found", "true", "rows"):
            self.add_state(name, [], "cat")
        self.add_state("quality", torch.zeros(4, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def __repr__(self) -> str:
        return f"BoxScores({int(self.images)} images)"

    def update(
        self, prediction: Sequence[Boxes], target: Sequence[Tensor], size: tuple[int, int], numbers: Sequence[int] = ()
    ) -> None:
        """Add images of one size.

        Args:
            prediction: The boxes of each of B images.
            target: The true boxes of each (M, 6): edges, px; class; 1 for one that is to be ignored.
            size: Height and width of the images, px.
            numbers: The number of each image, each once in all processes. Default: those that follow.

        Raises:
            DataError: If the numbers of images differ, or a true box has another class.
        """
        if len(prediction) != len(target):
            raise DataError(f"boxes of {len(prediction)} images but true boxes of {len(target)}: give one for each")
        numbers = numbers or range(int(self.images), int(self.images) + len(prediction))
        for found, true, number in zip(prediction, target, numbers):
            true = true.detach().cpu().double()
            if true.ndim != 2 or true.shape[1] != 6:
                raise DataError(
                    f"true boxes have the shape {tuple(true.shape)}, expected (M, 6): edges, class, ignored"
                )
            if not bool(((true[:, 4] >= 0) & (true[:, 4] < self.classes)).all()):
                raise DataError(f"a true box has the class {true[:, 4].max():g}, expected 0 to {self.classes - 1}")
            self._add(found.to("cpu"), true, number, size)

    def _add(self, found: Boxes, true: Tensor, number: int, size: tuple[int, int]) -> None:
        image = torch.full((len(found), 1), number, dtype=torch.float64)
        loose, strict = (match_boxes(found, true, hit, hit, by_class=True) for hit in (ANY, 0.5))
        columns = [found.classes.double(), found.scores.double(), loose.kind.double(), loose.iou.double()]
        columns += [strict.kind.double(), strict.iou.double()]
        own = torch.cat([image, found.edges.double(), torch.stack(columns, 1)], 1)
        counted = found.select(found.probs.amax(1) >= COUNTED)
        part = pdq_of_image(counted, true, size)
        place = self.images.device
        self.found.append(own.to(place))
        self.true.append(torch.cat([torch.full((len(true), 1), number, dtype=torch.float64), true], 1).to(place))
        self.rows.append(proper_rows(counted, true, LEVEL).to(place))
        self.quality += torch.tensor([part.quality, part.pairs, part.found, part.true]).to(self.quality)
        self.images += 1

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, including those without an image."""
        for name, width in (("found", 11), ("true", 7), ("rows", len(ROW))):
            setattr(self, name, [self._all(name, width)])
        super().sync(*args, **kwargs)

    def _all(self, name: str, width: int) -> Tensor:
        kept = getattr(self, name)
        nothing = torch.zeros(0, width, dtype=torch.float64, device=self.images.device)
        return dim_zero_cat([nothing, *(kept if isinstance(kept, list) else [kept])]).cpu()

    def compute(self) -> dict[str, Tensor]:
        """The scores over all images, the headline first. A score without the boxes that define it is NaN."""
        found, true, rows = self._all("found", 11), self._all("true", 7), self._all("rows", len(ROW))
        scores = self._precision(found, true) | self._calibration(found, true) | _proper(rows)
        total, pairs, predicted, objects = self.quality.cpu().tolist()
        count = predicted + objects - pairs
        scores |= {"pdq": torch.tensor(total / count if count else torch.nan)}
        scores |= {
            "boxes": torch.tensor(float((true[:, 6] == 0).sum())),
            "predicted_boxes": torch.tensor(float(len(rows))),
        }
        return {name: scores[name] for name in (*self.headline, *(n for n in scores if n not in self.headline))}

    def _precision(self, found: Tensor, true: Tensor) -> dict[str, Tensor]:
        precision = coco_precision(found[:, :7], true, int(self.images), self.classes)
        return {name: torch.tensor(value) for name, value in zip(("ap", "ap50", "ap75"), precision)}

    def _calibration(self, found: Tensor, true: Tensor) -> dict[str, Tensor]:
        kind, score = found[:, 5], found[:, 6]
        counted = found[:, 7] != 4
        quality = found[:, 8].where(found[:, 7] == 0, 0.0)
        right = (found[:, 9] == 0).double()
        laece, lrp = [], []
        for number in range(self.classes):
            truths = int(((true[:, 5] == number) & (true[:, 6] == 0)).sum())
            own = counted & (kind == number)
            if truths:
                laece.append(calibration_error(score[own], quality[own]))
                kept = (kind == number) & (found[:, 9] != 4)
                lrp.append(optimal_lrp(score[kept], (found[:, 10] * right)[kept], truths))
        nothing = [torch.tensor(torch.nan)]
        return {
            "lrp": torch.stack(lrp or nothing).mean(),
            "laece0": torch.stack(laece or nothing).nanmean(),
            "d_ece": calibration_error(score[counted], right[counted]),
            "laace0": (score - quality)[counted].abs().mean(),
        }


def _proper(rows: Tensor) -> dict[str, Tensor]:
    column = dict(zip(ROW, rows.unbind(1)))
    scores: dict[str, Tensor] = {}
    for name, kind in KINDS.items():
        own = column["kind"] == kind
        scores |= {f"{score}_{name}": column[score][own].mean() for score in ("class_nll", "brier")}
        if name == "fp":
            scores["entropy_fp"] = column["entropy"][own].mean()
        else:
            scores |= {f"{score}_{name}": column[score][own].mean() for score in ("box_nll", "energy")}
        scores[f"boxes_{name}"] = own.sum().double()
    hit = column["kind"] == 0
    std, error = column["std"][hit], column["error"][hit]
    enough = len(std) > 1
    return scores | {
        "coverage90": column["inside"][hit].mean() / 4,
        "edge_error": error.square().mean().sqrt(),
        "box_std": std.square().mean().sqrt(),
        "box_spearman": spearman_of_values(std, error) if enough else torch.tensor(torch.nan),
        "box_ause": ause(std, error) if enough else torch.tensor(torch.nan),
    }


def coco_precision(found: Tensor, true: Tensor, images: int, classes: int) -> tuple[float, float, float]:
    """Average precision of COCO: over IoU from 0.5 to 0.95, at 0.5 and at 0.75. NaN without a true box.

    Args:
        found: Predicted boxes (N, 7): number of the image, edges, class, score.
        true: True boxes (M, 7): number of the image, edges, class, ignored.
        images: Number of images.
        classes: Number of classes.

    Raises:
        MissingDependencyError: If faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependencyError(
            f"boxes are scored with faster-coco-eval, and {error}: pip install 'sfumato[detection]'"
        ) from error
    if not bool((true[:, 6] == 0).any()):
        return math.nan, math.nan, math.nan
    if not len(found):
        return 0.0, 0.0, 0.0
    numbers = sorted({*range(images), *found[:, 0].long().tolist(), *true[:, 0].long().tolist()})
    known = [
        {"id": i, "image_id": int(image), "category_id": int(kind), "bbox": _size(edges), "iscrowd": int(ignored)}
        for i, (image, *edges, kind, ignored) in enumerate(true.tolist(), 1)
    ]
    annotations = [each | {"area": each["bbox"][2] * each["bbox"][3]} for each in known]
    results = [
        {"image_id": int(image), "category_id": int(kind), "bbox": _size(edges), "score": score}
        for image, *edges, kind, score in found.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({
            "images": [{"id": number} for number in numbers],
            "annotations": annotations,
            "categories": [{"id": number, "name": str(number)} for number in range(classes)],
        })  # fmt: skip
        judge = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    ap, ap50, ap75 = (max(0.0, float(value)) for value in judge.stats[:3])
    return ap, ap50, ap75


def _size(edges: Sequence[float]) -> list[float]:
    """Left, top, width and height of a box."""
    left, top, right, bottom = edges
    return [left, top, right - left, bottom - top]
