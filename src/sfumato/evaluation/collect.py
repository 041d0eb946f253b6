"""From what was counted to the values that are stored. All processes take part in all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sfumato.contracts import Score
from sfumato.errors import PluginError
from sfumato.evaluation.boxes import BoxTally
from sfumato.evaluation.instances import InstanceTally
from sfumato.evaluation.results import Columns, OODComparison, ScoreTable, TaskEvaluation, Value
from sfumato.evaluation.tally import TaskTally
from sfumato.metrics import OODScores, TemporalScores
from sfumato.metrics.scores import Scores


def task_evaluation(
    tally: TaskTally,
    instances: InstanceTally | None,
    boxes: BoxTally | None,
    ood: OODComparison | None,
    steady: TemporalScores | None = None,
) -> TaskEvaluation:
    """All results of a task.

    Args:
        tally: What was counted of the task.
        instances: Scores of instances that belong to this task. None for none.
        boxes: Scores of boxes that belong to this task, which are shown first. None for none.
        ood: Name and root of the data set that is compared. None for none.
        steady: Scores from frame to frame of this task. None for none. Default None.
    """
    rows = tally.images.compute()
    order, images = rows[:, 0].argsort(), len(rows)
    scores, headline = values(tally.scores, images), list(tally.scores.headline)
    shown = [name for name in headline if name in scores]
    labeled = instances is not None and int(instances.panoptic.compute()["segments"]) > 0
    in_pair = (instances.panoptic, instances.each) if instances is not None and labeled else ()
    known = tally.truth is not None and int(tally.truth.compute()["truth_pixels"]) > 0
    truth = tally.truth if known else None
    for metric in (each for each in (tally.sets, tally.fidelity, truth, *in_pair) if each is not None):
        scores |= values(metric, images)
        headline += metric.headline
    if steady is not None:
        scores |= values(steady, images - 1)
        headline += steady.headline
    uncalibrated = table(tally.uncalibrated, images)
    if boxes is not None and int(boxes.scores.images):
        for metric in (each for each in (boxes.bounds, boxes.scores) if each is not None):
            scores |= values(metric, images)
            headline = [*metric.headline, *headline]
        if boxes.uncalibrated is not None:
            before = values(boxes.uncalibrated, images)
            uncalibrated = ScoreTable(before | dict(uncalibrated.scores if uncalibrated else {}), {})
    if tally.ood is not None and ood is not None:
        found = values(tally.ood.scores, images + 1)
        headline += [name for name in found if name.startswith(("ood_ratio", "ood_auroc"))]
        scores |= found
        if (marked := anomaly_values(tally.ood.marked)) is not None:
            scores |= marked
            headline += [f"anomaly_{name}_{kind}" for kind in ANOMALY_KINDS for name in ("aupr", "fpr95")
                         if f"anomaly_{name}_{kind}" in marked]  # fmt: skip
        ood = OODComparison(ood.name, ood.root, tally.ood.compute())
    for name, score in tally.further.items():
        headline += _add_plugin(scores, name, values(score, images))
    rows_of = tally.scores.per_image() if isinstance(tally.scores, Scores) else {}
    columns = {name: column for name, column in rows_of.items() if name in shown}
    per_image = {"index": rows[:, 0], "uncertainty": rows[:, 1], **columns}
    per_class = getattr(tally.scores, "per_class", dict)()
    return TaskEvaluation(
        scores=scores,
        headline=tuple(headline),
        curves=curves(tally.scores),
        per_image={name: numbers(column.cpu()[order]) for name, column in per_image.items()},
        per_class={name: numbers(column) for name, column in per_class.items()},
        class_names=tuple(getattr(tally.task, "names", ())),
        uncalibrated=uncalibrated,
        teacher=table(tally.teacher, images),
        ood=ood,
    )


ANOMALY_KINDS = ("total", "epistemic", "novelty")  # of which scores of anomalies are shown first


def anomaly_values(scores: OODScores) -> dict[str, Value] | None:
    """Scores of novel pixels among the pixels of images that mark them, and their best thresholds. None without any."""
    images = len(scores.per_image()["novel_pixels"])
    if images == 0:
        return None
    found = {f"anomaly_{name.removeprefix('ood_')}": value for name, value in values(scores, images).items()}
    if found["anomaly_novel_pixels"].value == 0:
        return None
    return found | {f"anomaly_threshold_{kind}": Value(value) for kind, value in scores.thresholds().items()}


def _add_plugin(scores: dict[str, Value], plugin: str, found: Mapping[str, Value]) -> list[str]:
    if taken := scores.keys() & found.keys():
        raise PluginError(f"the scores of {plugin!r} are named like others ({', '.join(sorted(taken))}): rename them")
    scores |= found
    return list(found)


class Computed(Protocol):
    """Anything that gives scores by name."""

    def compute(self) -> Mapping[str, Tensor]:
        """The scores."""
        ...


def table(metric: Score | None, images: int) -> ScoreTable | None:
    """Scores and curves of a metric. None without one."""
    return None if metric is None else ScoreTable(values(metric, images), curves(metric))


def values(metric: Computed, images: int) -> dict[str, Value]:
    """Every score of a metric, with its bootstrap interval if there are several images."""
    ends = metric.intervals() if isinstance(metric, Scores) and images > 1 else {}
    return {
        name: Value(float(value), *ends.get(name, (math.nan, math.nan))) for name, value in metric.compute().items()
    }


def curves(metric: Score) -> dict[str, Columns]:
    """Every curve of a metric."""
    found = metric.curves() if isinstance(metric, Scores) else {}
    return {name: {column: numbers(each) for column, each in columns.items()} for name, columns in found.items()}


def numbers(column: Tensor) -> tuple[float, ...]:
    """A column as numbers."""
    return tuple(float(value) for value in column.detach().cpu().to(torch.float64).tolist())
