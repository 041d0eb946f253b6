"""Compare several runs on the same images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfumato.data.views import Samples
from sfumato.errors import ConfigError
from sfumato.evaluation.compared_lines import Line, lines_of
from sfumato.evaluation.comparison import ComparedCurve, ComparedScore, Comparison
from sfumato.evaluation.evaluate import scan
from sfumato.evaluation.results import NAN, Value
from sfumato.runs import Run

if TYPE_CHECKING:
    from sfumato.evaluation.tally import TaskTally
    from sfumato.metrics.rows import Statistics

RESAMPLES, LEVEL = 1000, 0.95
SEED = re.compile(r"[-_,=. ]*(seed)?[-_,=. ]*\d*$")  # the end of the name of a folder


def compare(
    runs: Sequence[Run] | Mapping[str, Run | Sequence[Run]],
    dataset: Samples,
    *,
    ood: Samples | None = None,
    samples: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    workers: int = 1,
) -> Comparison:
    """Score several runs on the same images.

    Args:
        runs: At least two runs that share a task. Or a mapping from names to runs, or to several runs that differ in
            their seed only (:func:`by_seed` makes it). Without names the folders of the runs are their names.
        dataset: The images, at their original sizes, at which all runs are scored.
        ood: A data set that is out of distribution, for the ROC curves of the uncertainties. Default: none.
        samples: Number of draws of a stochastic method. None for the number in each plan.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default ``auto``.
        seed: Seed of the draws. Default 0.
        progress: Whether to show progress bars. Default True.
        workers: Number of worker processes that read images. Default 1.

    Returns:
        Headline scores of the tasks that all runs have, their differences to the first, and curves.

    Raises:
        ConfigError: If there are fewer than two names, or the runs share no task.
        RunError: If an image was used to calibrate one of the runs.
    """
    named = _named(runs)
    if len(named) < 2:
        raise ConfigError(f"{len(named)} runs to compare, expected at least two")
    every = [run for group in named.values() for run in group]
    shared = [task for task in every[0].per_task if all(task in run.per_task for run in every)]
    if not shared:
        raise ConfigError(f"{', '.join(named)} share no task: only runs with a common task can be compared")
    found: dict[str, list[list[Scored]]] = {task: [] for task in shared}
    for group in named.values():
        for task in shared:
            found[task].append([])
        for run in group:
            with scan(
                run, dataset, ood=ood, samples=samples, device=device, seed=seed, progress=progress, workers=workers
            ) as seen:
                for task in shared:
                    found[task][-1].append(Scored.of(seen.tallies[task]))
    return Comparison(
        tuple(named),
        len(dataset),
        tuple(len(group) for group in named.values()),
        {task: _compared(groups, len(dataset)) for task, groups in found.items()},
        {task: _curves(groups) for task, groups in found.items()},
    )


def by_seed(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs whose choices differ in the seed only, under one name: that of the first folder without its seed.

    >>> by_seed([])
    {}
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(repr(replace(run.config, seed=0)), []).append(run)
    found: dict[str, list[Run]] = {}
    for group in groups.values():
        folder = group[0].folder
        name = SEED.sub("", folder.name) or folder.parent.name
        found[name if len(group) > 1 and name not in found else str(folder)] = group
    return found


def _named(runs: Sequence[Run] | Mapping[str, Run | Sequence[Run]]) -> dict[str, Sequence[Run]]:
    if isinstance(runs, Mapping):
        return {name: [each] if isinstance(each, Run) else each for name, each in runs.items()}
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return {name: [run] for name, run in zip(names, runs)}


@dataclass(frozen=True)
class Scored:
    """What is kept of a run for the comparison: scores, curves, and the statistics of each image in their order."""

    headline: tuple[str, ...]
    exact: Mapping[str, float]
    statistics: Statistics
    curves: Mapping[str, Line]

    @classmethod
    def of(cls, tally: TaskTally) -> Scored:
        """What a tally has counted."""
        from sfumato.metrics.rows import fields
        from sfumato.metrics.scores import Scores

        if not isinstance(tally.scores, Scores):
            raise ConfigError(f"the scores of {tally.task.key} hold nothing of single images: no runs can be compared")
        rows, order = tally.scores.rows(), tally.images.compute()[:, 0].argsort()
        ordered = type(rows)(**{name: tensor.cpu()[order] for name, tensor in fields(rows).items()})
        exact = {name: float(value) for name, value in tally.scores.compute().items()}
        return cls(tuple(tally.scores.headline), exact, ordered, lines_of(tally.scores, tally.ood))

    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        """Scores (R,) of the images, each counted as often as a row of the weights (R, n) says."""
        from sfumato.metrics.rows import fields

        pooled = {
            name: torch.tensordot(weights, tensor.double(), 1) for name, tensor in fields(self.statistics).items()
        }
        return type(self.statistics)(**pooled).scores()


def _compared(groups: list[list[Scored]], images: int) -> dict[str, tuple[ComparedScore, ...]]:
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    # The first row counts every image once, for the difference of the coarse statistics to the exact scores.
    weights = torch.cat([torch.ones(1, images, dtype=torch.float64), torch.from_numpy(draws).double()])
    tables = [[run.resampled(weights) for run in group] for group in groups]
    found = {}
    for name in groups[0][0].headline:
        exact = [torch.tensor([run.exact[name] for run in group], dtype=torch.float64) for group in groups]
        means = [float(each.mean()) for each in exact]
        rows = [torch.stack([table[name] for table in group]).mean(0) for group in tables]
        entries = []
        for each, mean, row in zip(exact, means, rows):
            difference = _interval(mean - means[0], row - rows[0], images)
            spread = float(each.std()) if len(each) > 1 else NAN
            entries.append(ComparedScore(_interval(mean, row, images), None if row is rows[0] else difference, spread))
        found[name] = tuple(entries)
    return found


def _curves(groups: list[list[Scored]]) -> dict[str, tuple[ComparedCurve, ...]]:
    shared = [name for name in groups[0][0].curves if all(name in run.curves for group in groups for run in group)]
    return {name: tuple(_curve([run.curves[name] for run in group]) for group in groups) for name in shared}


def _curve(lines: list[Line]) -> ComparedCurve:
    x, y = (torch.stack(each) for each in zip(*lines))
    spread = y.std(0) if len(y) > 1 else torch.full_like(y[0], NAN)
    return ComparedCurve(tuple(x.mean(0).tolist()), tuple(y.nanmean(0).tolist()), tuple(spread.tolist()))


def _interval(exact: float, resampled: Tensor, images: int) -> Value:
    """A score with the percentile interval of its resamples (R + 1,), whose first entry is that of all images."""
    if images < 2:
        return Value(exact)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(resampled[1:].double(), ends) + (exact - float(resampled[0]))
    return Value(exact, float(low), float(high))
