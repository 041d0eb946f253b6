"""``sfumato compare``."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo, print_table
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.evaluation import Comparison


def compare(
    runs: list[Path],
    data: str = "",
    root: str = "",
    split: str = "val",
    ood: str = "",
    ood_root: str = "",
    over_seeds: bool = False,
    figures: Path | None = None,
    format: str = "table",
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 1,
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
        ood: Data out of distribution, for the ROC curves of --figures, as DATA or DATA:SPLIT.
        ood_root: Folder where it lies.
        over_seeds: Put runs together that differ in their seed only: mean and standard deviation over the seeds.
        figures: Folder for the curves as PDF and SVG files: reliability, risk over coverage, sparsification, and with
            --ood the ROC curves of the uncertainties.
        format: table, markdown, latex (with booktabs) or csv. Default table.
        samples: Number of draws of stochastic methods. Default: as in each plan.
        seed: Seed of the draws. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        workers: Processes that read images. Default 1.
        json: Print one line of JSON instead, with the curves.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import evaluation
    from sfumato.registry import Trust
    from sfumato.runs import Run

    check_format(format, json)
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run is given, expected two or more to compare")
    if ood_root and not ood:
        raise ConfigError(f"ood_root is {ood_root}, but no --ood is given: add it, or leave this out")
    allowed = Trust.of(trust).naming(data, ood.partition(":")[0])
    opened = [Run.open(folder, device=device, trust=allowed) for folder in runs]
    dataset = evaluation.dataset_for(opened[0], data, root, split)
    other = evaluation.ood_dataset(opened[0], ood, ood_root) if ood else None
    found = evaluation.compare(
        evaluation.by_seed(opened) if over_seeds else opened, dataset, ood=other, samples=samples, device=device,
        seed=seed, workers=workers, progress=not (quiet or json),
    )  # fmt: skip
    show(found, format, figures, json)


def check_format(format: str, json: bool) -> None:
    """Check the choice of a format.

    Raises:
        ConfigError: If there is no such format, or two are chosen.
    """
    from sfumato.evaluation.comparison import FORMATS

    if format not in ("table", *FORMATS):
        raise ConfigError(f"format is {format!r}, expected table, {', '.join(FORMATS)}")
    if json and format != "table":
        raise ConfigError(f"both --json and --format {format} are given: leave one out")


def show(found: Comparison, format: str, figures: Path | None, json: bool) -> None:
    """Print a comparison in a format, and write its figures."""
    from sfumato.evaluation import comparison

    if figures is not None:
        from sfumato.report import save_comparison

        save_comparison(found, figures)
    if json:
        echo(jsonlib.dumps(found.to_json()))
    elif format != "table":
        echo(comparison.FORMATS[format](found))
    else:
        for task in found.tasks:
            head, *rows = comparison.table(found, task)
            print_table(f"{task}: {comparison.caption(found)}", head, rows)
    if figures is not None and format == "table" and not json:
        echo(f"The curves are in {figures}.")
