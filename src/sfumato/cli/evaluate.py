"""``sfumato evaluate``."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo, first_process, print_table
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.evaluation import Evaluation, TaskEvaluation, Value

BY_CLASS = {
    "iou": "IoU", "f1": "Dice", "precision": "prec.", "recall": "sens.", "specificity": "spec.", "roc_auc": "AUROC",
    "pr_auc": "AUPR",
}  # fmt: skip
"""The scores of each class that are shown, and their headings."""


def evaluate(
    run: Path,
    data: str = "",
    root: str = "",
    split: str = "val",
    ood: str = "",
    ood_root: str = "",
    scores: str = "",
    sequence: bool = False,
    temporal: str = "",
    out: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    workers: int = 1,
    all: bool = False,
    json: bool = False,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Score a run on every pixel: print a table and leave evaluation.json in the run.

    Args:
        run: Folder of a run.
        data: Other data than the run's own.
        root: Folder where that data lies.
        split: Which part of the data. Default val.
        ood: Data out of distribution to compare with, as DATA or DATA:SPLIT.
        ood_root: Folder where it lies.
        scores: Further scores with commas: dice, sensitivity, specificity, precision, roc-auc, pr-auc,
            surface-distance, or those of plug-ins.
        sequence: The images are the frames of one video, in their order: score how steady the predictions are, on
            pixels that OpenCV's optical flow can follow.
        temporal: Merge the frames, as `sfumato predict --temporal` does: `dis`, or the folder of a run of flow. Implies
            --sequence.
        out: File of the results. Default RUN/evaluation.json, which `sfumato report` reads.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        seed: Seed of the draws. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        devices: Number of processes or GPUs on this node. The scores do not depend on it. Default 1.
        num_nodes: Number of nodes. Default 1.
        workers: Processes that read images. Default 1.
        all: Print every score, not only the best known.
        json: Print every score as one line of JSON instead.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import evaluation
    from sfumato.predictions import TemporalAggregation
    from sfumato.registry import Trust
    from sfumato.runs import Run
    from sfumato.serving.camera_path import flow_function
    from sfumato.storage import check_writable

    if ood_root and not ood:
        raise ConfigError(f"ood_root is {ood_root}, but no --ood is given: add it, or leave this out")
    names = [name.strip() for name in scores.split(",") if name.strip()]
    path = out or run / evaluation.FILE
    opened = Run.open(run, device=device, trust=Trust.of(trust).naming(data, ood.partition(":")[0], *names))
    check_writable(path)
    found = evaluation.evaluate(
        opened,
        evaluation.dataset_for(opened, data, root, split),
        data=data or opened.config.data,
        root=root or ("" if data else opened.config.root),
        split=split,
        ood=evaluation.ood_dataset(opened, ood, ood_root) if ood else None,
        ood_name=ood,
        ood_root=ood_root,
        samples=samples,
        device=device,
        devices=devices,
        num_nodes=num_nodes,
        seed=seed,
        workers=workers,
        scores=names,
        sequence=sequence or bool(temporal),
        aggregation=TemporalAggregation(flow_function(temporal, device, trust)) if temporal else None,
        aggregation_name=temporal,
        progress=not (quiet or json),
    )
    if found is None:
        return
    found.save(path)
    if json:
        echo(jsonlib.dumps({name: _numbers(each.scores) for name, each in found.tasks.items()}))
    elif first_process():
        show(found, run.name, all)
        for name, view in opened.per_task.items():
            if view.conformal is not None:
                label = f"risk of {name}" if len(opened.per_task) > 1 else "risk"
                echo(f"{label}: {view.conformal.risk_text(getattr(view.single_task, 'names', ()))}")


def _numbers(scores: object) -> dict[str, float | None]:
    """Scores as JSON has them: None for NaN and infinities."""
    assert isinstance(scores, dict)
    values: dict[str, Value] = scores
    return {name: each.value if math.isfinite(each.value) else None for name, each in values.items()}


def show(found: Evaluation, name: str, everything: bool) -> None:
    """Print the scores of each task."""
    for task, each in found.tasks.items():
        subject = f"{task} of {name}" if len(found.tasks) > 1 else name
        show_scores(each, f"{subject} on {found.data}, {found.split}: {found.images} images", everything)
        if each.per_class:
            show_classes(each)


def show_classes(found: TaskEvaluation) -> None:
    """Print a table with a row for each class: its share of the pixels, and its scores against the rest."""
    pixels = found.per_class["pixels"]
    shares = [f"{100 * count / max(1.0, sum(pixels)):.3g} %" for count in pixels]
    columns = [["–" if math.isnan(v) else f"{v:.3f}" for v in found.per_class[name]] for name in BY_CLASS]
    rows = zip(found.class_names, shares, *columns)
    print_table("by class, against the rest", ("class", "pixels", *BY_CLASS.values()), rows)


def show_scores(found: TaskEvaluation, title: str, everything: bool) -> None:
    """Print a table of scores, beside those without the calibrator and those of the teacher, if there are any."""
    tables = {"uncalibrated": found.uncalibrated, "teacher": found.teacher}
    others = {name: table.scores for name, table in tables.items() if table is not None}
    ours = "calibrated" if "uncalibrated" in others else "student" if "teacher" in others else "value"
    rows: list[list[str]] = []
    for name in found.scores if everything else found.headline:
        score = found.scores[name]
        beside = [_short(other[name].value) if name in other else "" for other in others.values()]
        interval = "" if math.isnan(score.low) else f"{score.low:.4g} to {score.high:.4g}"
        rows.append([name, *beside, _short(score.value), interval])
    print_table(title, ("score", *others, ours, "95 % interval by image"), rows)


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
