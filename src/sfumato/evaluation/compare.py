"""Compare several runs on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfumato.data.views import Samples
from sfumato.errors import ConfigError
from sfumato.evaluation.evaluate import scan
from sfumato.evaluation.results import Value
from sfumato.evaluation.typed_json import encode
from sfumato.runs import Run
from sfumato.sections import Json

if TYPE_CHECKING:
    from sfumato.evaluation.tally import TaskTally
    from sfumato.metrics.rows import Statistics

RESAMPLES, LEVEL = 1000, 0.95


@dataclass(frozen=True)
class ComparedScore:
    """A score of one of several runs.

    Args:
        value: The score, with its bootstrap interval over images.
        difference: The score minus that of the first run. Its interval comes from a paired bootstrap: both runs are
            scored on the same resampled images. None for the first run.
    """

    value: Value
    difference: Value | None


@dataclass(frozen=True)
class Comparison:
    """Headline scores of several runs on the same images.

    Args:
        names: Names of the runs. The others are compared with the first.
        images: Number of images.
        tasks: Task → score → one entry for each run.

    Pitfall: The intervals say how much the scores depend on the images, not how much they depend on the seed of the
    training. Runs with other seeds can differ more.
    """

    names: tuple[str, ...]
    images: int
    tasks: Mapping[str, Mapping[str, tuple[ComparedScore, ...]]]

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.names)}, {self.images} images)"

    def to_json(self) -> dict[str, Json]:
        """All of it as JSON. NaN becomes None."""
        found = encode(self)
        assert isinstance(found, dict)
        return found

    def to_markdown(self) -> str:
        """A table for each task, with 95 % intervals over images in brackets."""
        first, *others = self.names
        columns = ["score", first, *(part for name in others for part in (name, f"{name} − {first}"))]
        tables = []
        for task, scores in self.tasks.items():
            head = [f"**{task}**, {self.images} images", "", _row(columns), _row(["---"] * len(columns))]
            rows = [
                _row([name, *(cell for entry in entries for cell in _cells(entry))]) for name, entries in scores.items()
            ]
            tables.append("\n".join([*head, *rows]))
        return "\n\n".join(tables)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(entry: ComparedScore) -> list[str]:
    return [_cell(entry.value, ""), *([] if entry.difference is None else [_cell(entry.difference, "+")])]


def _cell(value: Value, sign: str) -> str:
    shown = f"{value.value:{sign}.4g}"
    return shown if math.isnan(value.low) else f"{shown} ({value.low:{sign}.4g} to {value.high:{sign}.4g})"


def compare(
    runs: Sequence[Run] | Mapping[str, Run],
    dataset: Samples,
    *,
    samples: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    workers: int = 1,
) -> Comparison:
    """Score several runs on the same images.

    Args:
        runs: At least two runs that share a task, or a mapping with their names.
            Without names the folders of the runs are their names.
        dataset: The images, at their original sizes, at which all runs are scored.
        samples: Number of draws of a stochastic method. None for the number in each plan.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default ``auto``.
        seed: Seed of the draws. Default 0.
        progress: Whether to show progress bars. Default True.
        workers: Number of worker processes that read images. Default 1.

    Returns:
        Headline scores of the tasks that all runs have, and their differences to the first run.

    Raises:
        ConfigError: If there are fewer than two runs, or they share no task.
        RunError: If an image was used to calibrate one of the runs.
    """
    named = dict(runs) if isinstance(runs, Mapping) else _named(runs)
    if len(named) < 2:
        raise ConfigError(f"{len(named)} runs to compare, expected at least two")
    first, *others = named.values()
    shared = [task for task in first.per_task if all(task in run.per_task for run in others)]
    if not shared:
        raise ConfigError(f"{', '.join(named)} share no task: only runs with a common task can be compared")
    found: dict[str, dict[str, _Scored]] = {task: {} for task in shared}
    for name, run in named.items():
        with scan(run, dataset, samples=samples, device=device, seed=seed, progress=progress, workers=workers) as seen:
            for task in shared:
                found[task][name] = _Scored.of(seen.tallies[task])
    return Comparison(
        tuple(named), len(dataset), {task: _compared(list(each.values()), len(dataset)) for task, each in found.items()}
    )


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return dict(zip(names, runs))


@dataclass(frozen=True)
class _Scored:
    """What is kept of a run for the comparison: its scores, and the statistics of each image in their order."""

    headline: tuple[str, ...]
    exact: Mapping[str, float]
    statistics: Statistics

    @classmethod
    def of(cls, tally: TaskTally) -> _Scored:
        from sfumato.metrics.rows import fields
        from sfumato.metrics.scores import Scores

        if not isinstance(tally.scores, Scores):
            raise ConfigError(f"the scores of {tally.task.key} hold nothing of single images: no runs can be compared")
        rows, order = tally.scores.rows(), tally.images.compute()[:, 0].argsort()
        ordered = type(rows)(**{name: tensor.cpu()[order] for name, tensor in fields(rows).items()})
        exact = {name: float(value) for name, value in tally.scores.compute().items()}
        return cls(tuple(tally.scores.headline), exact, ordered)

    def resampled(self, weights: Tensor) -> dict[str, Tensor]:
        """Scores (R,) of the images, each counted as often as a row of the weights (R, n) says."""
        from sfumato.metrics.rows import fields

        pooled = {
            name: torch.tensordot(weights, tensor.double(), 1) for name, tensor in fields(self.statistics).items()
        }
        return type(self.statistics)(**pooled).scores()


def _compared(runs: list[_Scored], images: int) -> dict[str, tuple[ComparedScore, ...]]:
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    # The first row counts every image once, for the difference of the coarse statistics to the exact scores.
    weights = torch.cat([torch.ones(1, images, dtype=torch.float64), torch.from_numpy(draws).double()])
    tables = [run.resampled(weights) for run in runs]
    first, base = runs[0], tables[0]
    found = {}
    for name in first.headline:
        entries = []
        for run, table in zip(runs, tables):
            value = _interval(run.exact[name], table[name], images)
            difference = _interval(run.exact[name] - first.exact[name], table[name] - base[name], images)
            entries.append(ComparedScore(value, None if run is first else difference))
        found[name] = tuple(entries)
    return found


def _interval(exact: float, resampled: Tensor, images: int) -> Value:
    """A score with the percentile interval of its resamples (R + 1,), whose first entry is that of all images."""
    if images < 2:
        return Value(exact)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(resampled[1:].double(), ends) + (exact - float(resampled[0]))
    return Value(exact, float(low), float(high))
