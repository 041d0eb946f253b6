"""``sfumato evaluate``."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from sfumato.training import Run

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
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Score a run on every pixel: print a table and leave scores.json in the run.

    Args:
        run: folder that `fit` left.
        data: other data than the run's own.
        root: where that data lies.
        split: which part of the data.
        ood: data out of distribution to compare with.
        ood_root: where that data lies.
        samples: how many outputs MC dropout draws.
        devices: processes or GPUs on this node; the scores do not depend on it.
        num_nodes: how many nodes.
        json: print one line of JSON instead of a table.
        quiet: show no progress bar.
    """
    from sfumato import training

    opened = training.Run.open(run)
    dataset = data_of(opened, data, root, split)
    scores = training.evaluate(
        opened, dataset, samples=samples, devices=devices, num_nodes=num_nodes, progress=not (quiet or json)
    )
    table = tabulate(scores)
    if ood:
        table |= contrasted(opened, dataset, data_of(opened, ood, ood_root, "val"), samples)
    (Path(run) / "scores.json").write_text(jsonlib.dumps({k: _finite(row) for k, row in table.items()}, indent=1))
    if json:
        print(jsonlib.dumps({name: _finite(row)[0] for name, row in table.items()}))
    else:
        show(table, f"{Path(run).name} on {data or opened.plan.data}, {split}, {len(dataset)} images")  # pyright: ignore[reportArgumentType]


def data_of(run: Run, data: str, root: str, split: str) -> Dataset:
    """The data asked for, else the run's own, at the size the run was trained at.

    Raises:
        ValueError: if the data has no such task, or asks it about other classes.
    """
    from sfumato.data import load

    plan = run.plan
    dataset = load(data or plan.data, root=root or ("" if data else plan.root), split=split, size=plan.size)
    theirs = dataset.tasks.get(plan.task)
    if theirs is None or getattr(theirs, "names", None) != getattr(run.task, "names", None):
        # Another world may ask other questions of its pixels: then only uncertainty can be compared, and no target is valid.
        return Unlabelled(dataset, plan.task)
    return dataset
