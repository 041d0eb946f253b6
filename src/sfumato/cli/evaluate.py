"""``sfumato evaluate``."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from sfumato.training import Evaluation, Run

Table = dict[str, tuple[float, float, float]]  # value, and the ends of its bootstrap interval


def evaluate(
    run: Path,
    data: str = "",
    root: str = "",
    split: str = "val",
    ood: str = "",
    ood_root: str = "",
    samples: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    all: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Score a run on every pixel: print a table and leave evaluation.json in the run.

    Args:
        run: folder that `fit` left.
        data: other data than the run's own.
        root: where that data lies.
        split: which part of the data.
        ood: data out of distribution to compare with, as DATA or DATA:SPLIT.
        ood_root: where that data lies.
        samples: how many outputs MC dropout draws.
        devices: processes or GPUs on this node; the scores do not depend on it.
        num_nodes: how many nodes.
        all: print every score, not only the best known.
        json: print every score as one line of JSON instead.
        quiet: show no progress bar.
    """
    from sfumato import training
    from sfumato.cli.worlds import contrast
    from sfumato.storage import atomic_write

    opened = training.Run.open(run)
    dataset = data_of(opened, data, root, split)
    quiet = quiet or json
    found = training.evaluate_each(
        opened, dataset, samples=samples, devices=devices, num_nodes=num_nodes, progress=not quiet
    )
    about: dict[str, Any] = {
        "data": data or opened.plan.data,
        "root": root or ("" if data else opened.plan.root),
        "split": split,
        "images": len(dataset),  # pyright: ignore[reportArgumentType]
    }
    stories = {name: about | story(each) for name, each in found.items()}
    if not _alone():
        return
    for name, view in opened.per_task.items() if ood else ():
        scored, stories[name]["ood"] = contrast(view, dataset, ood, ood_root, samples, not quiet)
        stories[name]["scores"] |= scored
        stories[name]["headline"] += [score for score in scored if score.startswith(("ood_ratio", "ood_auroc"))]
    several = bool(opened.plan.tasks)
    path = Path(run) / "evaluation.json"
    with atomic_write(path) as part:
        kept: Any = {"tasks": stories} if several else next(iter(stories.values()))
        part.write_text(jsonlib.dumps(without_nan(kept)))
    if json:
        values = {name: {score: row[0] for score, row in each["scores"].items()} for name, each in stories.items()}
        print(jsonlib.dumps(without_nan(values if several else next(iter(values.values())))))
        return
    for name, each in stories.items():
        table = each["scores"]
        shown = table if all else {score: row for score, row in table.items() if score in each["headline"]}
        subject = f"{name} of {Path(run).name}" if several else Path(run).name
        title = f"{subject} on {about['data']}, {split}: {about['images']} images"
        show(shown, {other: each[other]["scores"] for other in ("uncalibrated", "teacher")}, title)
        if all and "per_class" in each:
            show_classes(each["per_class"], opened.per_task[name].task.names)  # pyright: ignore[reportAttributeAccessIssue]


def story(found: Evaluation) -> dict[str, Any]:
    """What is kept of the evaluation of a task, as JSON can hold it."""
    scores = found.scores
    table, headline = tabulate(scores), list(scores.headline)
    others = {"uncalibrated": found.uncalibrated, "teacher": found.teacher}
    for further in (found.sets, found.fidelity, *found.instances):
        if further is not None:
            table |= tabulate(further)
            headline += further.headline
    kept: dict[str, Any] = {
        "scores": table,
        "headline": headline,
        **{
            name: {
                "scores": tabulate(each) if each is not None else {},
                "curves": _lists(each.curves()) if each is not None else {},
            }
            for name, each in others.items()
        },
        "curves": _lists(scores.curves()),
        "per_image": {
            "index": found.order.tolist(),
            "uncertainty": found.uncertainty.tolist(),
            **{name: values.tolist() for name, values in scores.per_image().items() if name in headline},
        },
    }
    if hasattr(scores, "per_class"):
        kept["per_class"] = {name: column.tolist() for name, column in scores.per_class().items()}
    return kept


def _lists(curves: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    return {name: {k: v.tolist() for k, v in columns.items()} for name, columns in curves.items()}


def _alone() -> bool:
    """Whether this is the first process; what it does from here on, it does without the others."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return True
    first = distributed.get_rank() == 0
    distributed.destroy_process_group()
    return first


def data_of(run: Run, data: str, root: str, split: str) -> Dataset:
    """The data asked for, else the run's own, at the size the run was trained at.

    Raises:
        ValueError: if it does not ask the run's question of the same classes.
    """
    from sfumato.data import load

    plan = run.plan
    dataset: Any = load(data or plan.data, root=root or ("" if data else plan.root), split=split, size=plan.size)
    for name, task in run.task.parts.items():
        theirs = dataset.tasks.get(name)
        if theirs is None:
            raise ValueError(f"{data} asks {sorted(dataset.tasks)}, not {name!r}: it can only be --ood")
        if (ours := getattr(task, "names", None)) != (names := getattr(theirs, "names", None)):
            raise ValueError(f"{data} has classes {names}, the run {ours}: it can only be --ood")
    return dataset


def tabulate(scores: Any) -> Table:
    """Every score with its bootstrap interval by image."""
    many = hasattr(scores, "per_image") and len(next(iter(scores.per_image().values()))) > 1
    ends = scores.intervals() if many else {}
    nothing = (math.nan, math.nan)
    rows = {name: (float(value), ends.get(name, nothing)) for name, value in scores.compute().items()}
    return {name: (value, float(low), float(high)) for name, (value, (low, high)) in rows.items()}


def show(table: Table, others: dict[str, Table], title: str) -> None:
    """Print the table, beside what the scores were without the calibrator and what the teacher's are, if there are."""
    from rich.console import Console
    from rich.table import Table as RichTable

    others = {name: each for name, each in others.items() if each}
    ours = "calibrated" if "uncalibrated" in others else "student" if "teacher" in others else "value"
    columns = ("score", *others, ours, "95 % interval by image")
    shown = RichTable(*columns, title=title, title_justify="left")
    for name, (value, low, high) in table.items():
        old = [f"{other[name][0]:.4g}" if name in other else "" for other in others.values()]
        shown.add_row(name, *old, f"{value:.4g}", "" if math.isnan(low) else f"{low:.4g} to {high:.4g}")
    Console().print(shown)


def show_classes(columns: dict[str, list[float]], names: tuple[str, ...]) -> None:
    """Print a row for each class; ``–`` where a class does not occur."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable("class", *columns, title="by class", title_justify="left")
    for name, *row in zip(names, *columns.values()):
        shown.add_row(name, *("–" if math.isnan(value) else f"{value:.4g}" for value in row))
    Console().print(shown)


def without_nan(value: Any) -> Any:
    """The same with None for what JSON cannot say: NaN and infinities."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
