"""``sfumato sweep``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

from sfumato.cli.compare import check_format, show
from sfumato.cli.console import complain
from sfumato.cli.fit import fit
from sfumato.cli.options import read
from sfumato.errors import ConfigError, ResourceError, SfumatoError


def sweep(
    plan: Path,
    over: str = "",
    seeds: int = 3,
    out: Path = Path("runs/sweep"),
    figures: Path | None = None,
    format: str = "table",
    device: str = "auto",
    workers: int = -1,
    json: bool = False,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Train networks for every combination of choices and for several seeds, and compare them on val.

    They are trained one after another. The same command goes on where it was interrupted. If a training fails, the
    others are still made.

    Args:
        plan: YAML file with the choices that all have in common, or the plan.yaml of a run.
        over: Choices and their values, such as 'method=mc-dropout,ensemble learning_rate=0.001,0.003'. The first value
            of each is what the others are compared with. Default: none, only seeds.
        seeds: Number of seeds of each combination. The first is that of the file. Default 3.
        out: Folder of the runs, which are called VALUES/seed-NUMBER. Default runs/sweep.
        figures: Folder for the curves of the comparison as PDF and SVG files.
        format: table, markdown, latex (with booktabs) or csv. Default table.
        device: auto, cpu, cuda or mps. Default auto.
        workers: Processes that read images. Default -1, as many as suit this machine.
        json: Print the comparison as one line of JSON.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    check_format(format, json)
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}, expected 1 or more")
    common = [
        f"--config={plan}",
        f"--device={device}",
        f"--workers={workers}",
        *([f"--trust={trust}"] if trust else []),
    ]
    trainings: list[tuple[str, dict[str, Any]]] = []
    for name, choices in combinations(over):
        found = read("fit", fit, [*common, *choices])
        assert found is not None
        first = int(str(found["seed"]))
        for seed in range(first, first + seeds):
            folder = out / name / f"seed-{seed}"
            trainings.append((name, found | {"seed": seed, "out": folder, "resume": folder.exists(), "quiet": quiet}))
    finished, failed = _train(trainings, say=not (json or quiet))
    names = list(dict.fromkeys(name for name, _ in finished))
    if len(names) > 1:
        from sfumato import evaluation
        from sfumato.registry import Trust
        from sfumato.runs import Run

        opened = {name: [Run.open(folder, device=device, trust=Trust.of(trust)) for each, folder in finished
                         if each == name] for name in names}  # fmt: skip
        dataset = evaluation.dataset_for(opened[names[0]][0], "", "", "val")
        show(evaluation.compare(opened, dataset, device=device, progress=not (quiet or json)), format, figures, json)
    if failed:
        raise ConfigError(f"{len(failed)} of {len(trainings)} trainings failed, the first in {failed[0]}: see above")


def combinations(over: str) -> Iterator[tuple[str, list[str]]]:
    """Every combination of choices, with a name for its folder and its options of ``sfumato fit``.

    Raises:
        ConfigError: If a choice has no value, is named twice, or is the seed; or two combinations have one name.

    >>> list(combinations("method=swag,ensemble"))
    [('swag', ['--method=swag']), ('ensemble', ['--method=ensemble'])]
    """
    choices: dict[str, list[str]] = {}
    for word in over.split():
        key, equals, text = word.partition("=")
        values = [value for value in text.split(",") if value]
        if not equals or not values or key in choices or key in ("seed", "out"):
            raise ConfigError(
                f"over has {word!r}, expected choices with values, each once, such as method=swag,ensemble"
            )
        choices[key] = values
    seen = set()
    for values in product(*choices.values()):
        name = re.sub(r"[^\w.+-]+", "_", "-".join(values)) or "all"
        if name in seen:
            raise ConfigError(f"over names {' '.join(values)} twice: leave one out")
        seen.add(name)
        yield name, [f"--{key}={value}" for key, value in zip(choices, values)]


def _train(trainings: list[tuple[str, dict[str, Any]]], say: bool) -> tuple[list[tuple[str, Path]], list[Path]]:
    """Make the trainings. Returns the names and folders of those that are finished, and the folders of the others."""
    finished: list[tuple[str, Path]] = []
    failed: list[Path] = []
    for number, (name, settings) in enumerate(trainings, 1):
        if say:
            print(f"{number} of {len(trainings)}: {settings['out']}", file=sys.stderr)
        try:
            with redirect_stdout(sys.stderr):  # the standard output is for the comparison
                fit(**settings)
            finished.append((name, settings["out"]))
        except ResourceError:  # a full disk is full for the others too
            raise
        except SfumatoError as error:
            complain(error)
            failed.append(settings["out"])
    return finished, failed
