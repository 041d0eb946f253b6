"""``sfumato compare``."""

from __future__ import annotations

import json as jsonlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo, print_table
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.evaluation import ComparedScore


def compare(
    runs: list[Path],
    data: str = "",
    root: str = "",
    split: str = "val",
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 1,
    markdown: bool = False,
    json: bool = False,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Score several runs on the same images, with the difference of each to the first run.

    Args:
        runs: Folders of two or more runs. The first is the one that the others are compared with.
        data: Other data than that of the first run.
        root: Folder where that data lies.
        split: Which part of the data. Default val.
        samples: Number of draws of stochastic methods. Default: as in each plan.
        seed: Seed of the draws. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        workers: Processes that read images. Default 1.
        markdown: Print Markdown tables.
        json: Print one line of JSON.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import evaluation
    from sfumato.registry import Trust
    from sfumato.runs import Run

    if json and markdown:
        raise ConfigError("both --json and --markdown are given: leave one out")
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run is given, expected two or more to compare")
    allowed = Trust.of(trust).naming(data)
    opened = [Run.open(folder, device=device, trust=allowed) for folder in runs]
    dataset = evaluation.dataset_for(opened[0], data, root, split)
    found = evaluation.compare(
        opened, dataset, samples=samples, device=device, seed=seed, workers=workers, progress=not (quiet or json)
    )
    if json:
        echo(jsonlib.dumps(found.to_json()))
    elif markdown:
        echo(found.to_markdown())
    else:
        for task, scores in found.tasks.items():
            rows = [(name, *_cells(entries)) for name, entries in scores.items()]
            print_table(f"{task}: difference to {found.names[0]} (95 % interval)", ("score", *found.names), rows)


def _cells(entries: Sequence[ComparedScore]) -> list[str]:
    cells: list[str] = []
    for entry in entries:
        text = "–" if math.isnan(entry.value.value) else f"{entry.value.value:.4g}"
        if (gap := entry.difference) is not None and not math.isnan(gap.value):
            interval = "" if math.isnan(gap.low) else f" ({gap.low:+.2g} to {gap.high:+.2g})"
            text = f"{text}  {gap.value:+.2g}{interval}"
        cells.append(text)
    return cells
