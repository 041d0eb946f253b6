"""Are novel objects found, region by region? Scores that need a threshold, on which all pixels decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from sfumato.data.views import Samples, providing, smallest_regions_of
from sfumato.evaluation.one import predict_sample
from sfumato.evaluation.results import TaskEvaluation, Value
from sfumato.metrics import ComponentScores, histogram
from sfumato.predictions import AnyPrediction
from sfumato.runs import Run, part_of

PREFIX = "anomaly_threshold_"
SCORES = ("siou", "ppv", "f1")


def with_regions(
    run: Run, dataset: Samples, tasks: Mapping[str, TaskEvaluation], samples: int | None, seed: int, progress: bool
) -> dict[str, TaskEvaluation]:
    """Results of tasks with the scores of regions: ``anomaly_siou_KIND``, ``anomaly_ppv_KIND`` and ``anomaly_f1_KIND``.

    The images are predicted again, because the threshold of each kind of uncertainty is known after all pixels have
    been seen. Without marked pixels, or without SciPy, nothing is added.

    Args:
        run: The run.
        dataset: The images, whose samples mark pixels as ``novel``.
        tasks: Its results, which hold the thresholds.
        samples: Number of draws. None for the number in the plan.
        seed: Seed of the draws.
        progress: Whether to show a progress bar.
    """
    thresholds = {task: _thresholds(found) for task, found in tasks.items()}
    if not any(thresholds.values()) or find_spec("scipy") is None:
        return dict(tasks)
    from rich.progress import track

    smallest = smallest_regions_of(dataset)
    counted = {task: {kind: ComponentScores(*smallest) for kind in known} for task, known in thresholds.items()}
    images = providing(dataset, (*run.facts.inputs, "novel", "novel_valid"))
    for index in track(range(len(images)), "compare regions", disable=not progress, transient=True):
        sample, prediction = predict_sample(run, images, index, samples=samples, seed=seed)
        if isinstance(novel := sample.get("novel"), Tensor):
            known = sample.get("novel_valid", torch.ones_like(novel, dtype=torch.bool))
            for task, scores in counted.items():
                _add(scores, part_of(prediction, task), thresholds[task], novel, known)
    return {task: _joined(found, counted[task]) for task, found in tasks.items()}


def _thresholds(found: TaskEvaluation) -> dict[str, float]:
    return {name.removeprefix(PREFIX): v.value for name, v in found.scores.items() if name.startswith(PREFIX)}


def _add(
    scores: Mapping[str, ComponentScores], prediction: AnyPrediction, thresholds: Mapping[str, float], novel: Tensor,
    known: Tensor | str,
) -> None:  # fmt: skip
    for kind, score in scores.items():
        values: Tensor = getattr(prediction, kind)
        if values.shape[1:] == novel.shape and isinstance(known, Tensor):
            found = histogram.key(values) >= int(histogram.key(torch.tensor(thresholds[kind])))
            score.update(found.cpu(), novel[None].bool(), known[None].bool())


def _joined(found: TaskEvaluation, counted: Mapping[str, ComponentScores]) -> TaskEvaluation:
    added: dict[str, Value] = {}
    for kind, score in counted.items():
        if score.update_called:
            values = score.compute()
            added |= {f"anomaly_{name}_{kind}": Value(float(values[f"component_{name}"])) for name in SCORES}
    shown = [name for name in added if name.startswith("anomaly_f1") and not name.endswith("aleatoric")]
    shown = [name for name in shown if not math.isnan(added[name].value)]
    return replace(found, scores={**found.scores, **added}, headline=(*found.headline, *shown))
