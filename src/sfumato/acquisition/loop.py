"""A whole experiment of active learning with an oracle: label, train from scratch, score, choose, and so on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato import training
from sfumato.acquisition.candidates import Candidates
from sfumato.acquisition.pool import Query, choose, looked, numbered
from sfumato.acquisition.selectors import select
from sfumato.contracts import Sample
from sfumato.data.cache import CachedDataset
from sfumato.data.loading import SelectedDataset
from sfumato.data.views import DatasetView, Samples, inputs_of, subset, tasks_of
from sfumato.errors import ConfigError, RunError, RunExistsError
from sfumato.registry import Trust
from sfumato.runs import Config, Run, generator_for
from sfumato.runs.plan import FILE as PLAN
from sfumato.storage import atomic_write, check_writable, read_tensors, write_tensors
from sfumato.targets import MASK

ASKED, ROW, OPTIONS = "asked.safetensors", "scores.json", "loop.json"
FIRST_BETA, LAST_BETA = 1.0, 100.0
PLAIN = Query()


@dataclass(frozen=True)
class Rounds:
    """How an experiment proceeds.

    Args:
        rounds: Number of rounds after the first training. Default 4.
        budget: Units that are labeled in each of them. Default 100.
        start: Units that are labeled at random before the first training. 0 for as many as the budget. Default 0.
        query: How units are chosen. Its ``beta`` rises from 1 to 100 over the rounds.

    Raises:
        ConfigError: If a number is out of range.
    """

    rounds: int = 4
    budget: int = 100
    start: int = 0
    query: Query = PLAIN

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.budget < 1 or self.start < 0:
            raise ConfigError(
                f"rounds is {self.rounds}, budget {self.budget} and start {self.start}: expected a budget of at least "
                "1, and 0 or more of the others"
            )

    def query_of(self, number: int) -> Query:
        """The query after a round, counted from 0."""
        share = number / max(1, self.rounds - 1)
        return replace(self.query, beta=FIRST_BETA * (LAST_BETA / FIRST_BETA) ** share, seed=self.query.seed + number)


class Revealed(DatasetView):
    """Images with a label where an oracle was asked for one. Only those with such a pixel are seen.

    They are repeated until there are as many as in the whole data set, so an epoch always has the same number of steps.

    Args:
        whole: Images with all labels.
        key: The entry that holds them.
        asked: For each image that was asked about, the pixels (H, W), bool.
    """

    def __init__(self, whole: Samples, key: str, asked: Mapping[int, Tensor]) -> None:
        shown = sorted(index for index, mask in asked.items() if bool(mask.any()))
        super().__init__(whole, [shown[number % len(shown)] for number in range(len(whole))])
        self.key, self.asked = key, asked

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        valid = sample[self.key + MASK]
        assert isinstance(valid, Tensor)
        return {**sample, self.key + MASK: valid & self.asked[self.images[index]]}


def run_loop(
    config: Config, rounds: Rounds, pool: Samples, val: Samples, folder: str | Path, *, trust: Trust | str = "",
    resume: bool = False, progress: bool = True, **options: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Train, score and ask in turns. Each round trains a new network with the same number of steps.

    Each round has a folder ``round-N`` with a run, the pixels that were asked for, and scores. Round 0 depends neither
    on the score nor on the selector.

    Args:
        config: How networks are trained. Its task is of classes. ``limit`` is the number of images of the pool.
        rounds: How the experiment proceeds.
        pool: Images with labels, which are hidden until they are asked for.
        val: Images with labels that the networks are scored on.
        folder: Where everything is written.
        trust: Class paths that may be imported. Default: none.
        resume: Whether an interrupted experiment is continued. Default False.
        progress: Whether to show bars. Default True.
        **options: Those of :func:`sfumato.training.fit`, such as ``device`` and ``workers``. Images are kept in memory
            if they fit into 2 GB.

    Returns:
        For each round its number, ``units`` and ``pixels`` that were asked for, the ``share`` of all pixels of the
        pool, the ``images`` that they are of, and the scores.

    Raises:
        ConfigError: If the budget is larger than the pool.
        RunError: If the folder holds another experiment.
        RunExistsError: If it holds one and ``resume`` is False.
    """
    folder, key, pool = Path(folder), _class_task(pool, config), subset(pool, config.limit)
    config, parts = replace(config, task=key, limit=0), [tasks_of(pool)[key]]
    pool, val = (CachedDataset(SelectedDataset(each, inputs_of(each, parts), parts)) for each in (pool, val))
    _check_folder(folder, {"rounds": asdict(rounds), "config": asdict(config)}, resume)
    rows: list[dict[str, float]] = []
    for number in range(rounds.rounds + 1):
        place, before = folder / f"round-{number}", folder / f"round-{number - 1}"
        place.mkdir(parents=True, exist_ok=True)
        if not (place / ASKED).exists():
            asked = _first(pool, rounds) if number == 0 else _next(
                before, pool, rounds, number, Trust.of(trust), options.get("device", "auto"), progress
            )  # fmt: skip
            asked.save(place / ASKED)
        if not (place / ROW).exists():
            run = _trained(
                config, Revealed(pool, key, Asked.load(place / ASKED).masks), place, trust, progress, options
            )
            row = {**scored(run, val, rounds.query), "round": number, **Asked.load(place / ASKED).counts}
            _write_json(place / ROW, row)
        rows.append(json.loads((place / ROW).read_text()))
    return rows


def scored(run: Run, val: Samples, query: Query = PLAIN) -> dict[str, float]:
    """The scores of a run of classes on images with labels, in one pass.

    Args:
        run: The run.
        val: The images.
        query: Its draws and seed are used.
    """
    task = run.single_task
    scores: Any = task.scores()
    scores = scores.to(run.device)
    for _, sample, look, _ in looked(run, val, range(len(val)), replace(query, scale=1.0)):
        target, valid = (each[None].to(run.device) for each in task.target_and_mask(task.entries(sample)))
        scores.update(look.prediction, target, valid)
    return {name: float(value) for name, value in scores.compute().items() if value.ndim == 0 and value.isfinite()}


@dataclass(frozen=True)
class Asked:
    """The pixels whose label was asked for.

    Args:
        masks: For each image with some of them, the pixels (H, W), bool.
        units: Number of units that they were asked for in.
        pool: Number of pixels of the whole pool.
    """

    masks: Mapping[int, Tensor]
    units: int
    pool: int

    @property
    def counts(self) -> dict[str, float]:
        """Units, pixels, their share of the pool, and images."""
        pixels = sum(int(mask.sum()) for mask in self.masks.values())
        return {"units": self.units, "pixels": pixels, "share": pixels / self.pool, "images": len(self.masks)}

    def with_units(self, samples: Samples, query: Query, chosen: Candidates) -> Asked:
        """These pixels and those of chosen units."""
        masks = dict(self.masks)
        for index in chosen.image.unique().tolist():
            before = masks.get(index)
            numbers = numbered(query, index, _picture(samples, index), before)
            own = torch.isin(numbers, chosen.number[chosen.image == index])
            masks[index] = own if before is None else own | before
        return Asked(masks, self.units + len(chosen), self.pool)

    def save(self, path: Path) -> None:
        """Write the pixels, eight in a byte."""
        packed = {str(i): torch.from_numpy(np.packbits(mask.numpy(), axis=1)) for i, mask in self.masks.items()}
        about = {"widths": json.dumps({str(i): mask.shape[1] for i, mask in self.masks.items()})}
        write_tensors(path, packed, {**about, "units": str(self.units), "pool": str(self.pool)})

    @classmethod
    def load(cls, path: Path) -> Asked:
        """The pixels that were written.

        Raises:
            RunError: If the file is damaged.
        """
        packed, about = read_tensors(path, error=RunError, advice="delete its folder and run again with --resume")
        widths = json.loads(about["widths"])
        masks = {
            int(name): torch.from_numpy(np.unpackbits(rows.numpy(), axis=1, count=widths[name])).bool()
            for name, rows in packed.items()
        }
        return cls(masks, int(about["units"]), int(about["pool"]))


def _first(pool: Samples, rounds: Rounds) -> Asked:
    """Units that are asked for at random before the first training, the same for every score and selector."""
    query, start = replace(rounds.query, selector="random"), rounds.start or rounds.budget
    parts, pixels = [], 0
    for index in range(len(pool)):
        numbers = numbered(query, index, _picture(pool, index))
        zeros, pixels = torch.zeros(numbers.shape), pixels + numbers.numel()
        parts.append(Candidates.of_image(index, numbers, zeros, zeros.long(), 1))
    candidates = Candidates.joined(parts)
    order = torch.randperm(len(candidates), generator=generator_for(len(pool), query.seed + 2)).tolist()
    chosen = candidates[torch.tensor(select(iter(order), candidates, start, query.per_image))]
    return Asked({}, 0, pixels).with_units(pool, query, chosen)


def _next(before: Path, pool: Samples, rounds: Rounds, number: int, trust: Trust, device: str, progress: bool) -> Asked:
    """What was asked for, and what the run of the last round chooses."""
    run, query, known = (
        Run.open(before, device=device, trust=trust),
        rounds.query_of(number - 1),
        Asked.load(before / ASKED),
    )
    chosen = choose(run, pool, rounds.budget, query, known.masks, progress)
    return known.with_units(pool, query, chosen.units)


def _trained(
    config: Config, train: Revealed, place: Path, trust: Trust | str, progress: bool, options: Mapping[str, Any]
) -> Run:
    plan, images, _ = training.make_plan(config, train, None, trust, options.get("device", "auto"), progress)
    begun = (place / PLAN).exists()
    return training.fit(plan, images, None, place, resume=begun, progress=progress, cache="none", **options)


def _class_task(pool: Samples, config: Config) -> str:
    """The task that labels are asked for."""
    name = config.task
    if config.tasks:
        raise ConfigError(f"tasks is {config.tasks}, but labels are asked for one task: name it with --task")
    known = {key: task for key, task in tasks_of(pool).items() if task.kind == "class"}
    if not known or (name and name not in known):
        raise ConfigError(f"labels are asked for a task of classes: the data have {', '.join(known) or 'none'}")
    return name or next(iter(known))


def _picture(samples: Samples, index: int) -> Tensor:
    value = samples[index][inputs_of(samples)[0]]
    assert isinstance(value, Tensor)
    return value


def _check_folder(folder: Path, options: Mapping[str, Any], resume: bool) -> None:
    """Check that a folder holds nothing, or the experiment to continue, and note its options."""
    path, text = folder / OPTIONS, json.dumps(options, indent=1, default=str)
    check_writable(path)
    if path.exists():
        if not resume:
            raise RunExistsError(
                f"{folder} holds an experiment already: pass --resume to go on with it, or another --out"
            )
        if path.read_text() != text:
            raise RunError(f"{path} has other options than these: change --out, or the options")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text(text)


def _write_json(path: Path, row: Mapping[str, float]) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(row, indent=1) + "\n")
