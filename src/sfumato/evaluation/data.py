"""The data that a run is evaluated on, at the size that its network sees."""

from __future__ import annotations

from sfumato.contracts import DataSet
from sfumato.data import load
from sfumato.data.views import tasks_of
from sfumato.errors import ConfigError
from sfumato.runs import Run


def dataset_for(run: Run, data: str = "", root: str = "", split: str = "val") -> DataSet:
    """The data set that was requested, or the run's own, at the size of the run.

    Args:
        run: The run.
        data: Name, class path or folder of a data set. Empty for the data of the run.
        root: The folder where it lies. Empty for that of the run's data.
        split: Which part of it. Default ``val``.

    Raises:
        ConfigError: If it lacks a task of the run, or has other classes.
        MissingFileError: If files are missing.
    """
    name = data or run.config.data
    dataset = _load(run, name, root or ("" if data else run.config.root), split)
    known = tasks_of(dataset)
    for key, view in run.per_task.items():
        if key not in known:
            raise ConfigError(f"{name} has the tasks {', '.join(known) or 'none'}, not {key!r}: it can only be --ood")
        ours, theirs = (getattr(task, "names", None) for task in (view.task, known[key]))
        if ours != theirs:
            raise ConfigError(f"{name} has the classes {theirs}, the run has {ours}: it can only be --ood")
    return dataset


def ood_dataset(run: Run, name: str, root: str = "") -> DataSet:
    """A data set that is out of distribution, at the size of the run, whatever its tasks.

    Args:
        run: The run.
        name: ``DATA`` or ``DATA:SPLIT``. The split is ``val`` if it is left out.
        root: The folder where it lies.

    Raises:
        ConfigError: If there is no such data set or split.
        MissingFileError: If files are missing.
    """
    data, _, split = name.partition(":")
    return _load(run, data, root, split or "val")


def _load(run: Run, data: str, root: str, split: str) -> DataSet:
    trust = run.plan.trust if data == run.config.data else run.plan.trust.naming(data)  # the user has named other data
    return load(data, root=root, split=split, size=run.config.size, trust=trust)
