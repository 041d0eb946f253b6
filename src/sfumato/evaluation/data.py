"""The data that a run is evaluated on, at their original size."""

from __future__ import annotations

from sfumato.contracts import DataSet
from sfumato.data.catalog import load, load_original
from sfumato.data.fingerprint import check_recognized
from sfumato.data.views import splits_of, tasks_of
from sfumato.errors import ConfigError, MissingFileError, RunError
from sfumato.evaluation.results import Evaluation
from sfumato.registry import Trust
from sfumato.runs import Run

TRUTH = "class_probs"
"""The sample entry with the true probabilities (K, H, W) of the classes, where they are known."""


def dataset_for(run: Run, data: str = "", root: str = "", split: str = "val") -> DataSet:
    """The data set that was requested, or the run's own, at its original size.

    Args:
        run: The run.
        data: Name, class path or folder of a data set. Empty for the data of the run.
        root: The folder where it lies. Empty for that of the run's data.
        split: Which part of it. Default ``val``.

    Raises:
        ConfigError: If it lacks a task of the run, or has other classes.
        MissingFileError: If files are missing.
        RunError: If ``data`` is empty, and the images where the run was trained are not those it was trained on.
    """
    if not data:
        _check_own(run)
    name = data or run.config.data
    return _checked(run, name, _load(run, name, root or ("" if data else run.config.root), split, _naming(run, name)))


def ood_dataset(run: Run, name: str, root: str = "") -> DataSet:
    """A data set that is out of distribution, at its original size, whatever its tasks.

    Args:
        run: The run.
        name: ``DATA`` or ``DATA:SPLIT``. The split is ``val`` if it is left out.
        root: The folder where it lies.

    Raises:
        ConfigError: If there is no such data set or split.
        MissingFileError: If files are missing.
    """
    data, _, split = name.partition(":")
    return _load(run, data, root, split or "val", _naming(run, data))


def _check_own(run: Run) -> None:
    """Check that the training images of the run, if they are files, are still at their place."""
    place = f"{run.config.data}{f' in {run.config.root}' if run.config.root else ''}"
    advice = f"name the data of {run.folder} with --data (and --root)"
    try:
        train = _load(run, run.config.data, run.config.root, "train", run.plan.trust)
    except MissingFileError as error:
        raise RunError(f"the data of {run.folder} are not at their place ({error}): {advice}") from error
    check_recognized(train, run.facts.fingerprint, run.facts.inputs, place, advice)


def evaluated_data(run: Run, found: Evaluation) -> tuple[DataSet, DataSet | None]:
    """The data set that was evaluated, and the one out of distribution that it was compared with, or None.

    A class path in ``evaluation.json`` is imported only if the run may import it: somebody else may have written it.

    Raises:
        UntrustedCodeError: If it names code outside this package that is not trusted.
    """
    trust = run.plan.trust
    inside = _checked(run, found.data, _load(run, found.data, found.root, found.split, trust))
    comparison = next((each.ood for each in found.tasks.values() if each.ood is not None), None)
    if comparison is None:
        return inside, None
    data, _, split = comparison.name.partition(":")
    return inside, _load(run, data, comparison.root, split or "val", trust)


def _checked(run: Run, name: str, dataset: DataSet) -> DataSet:
    """The data set, if it has the tasks and classes of the run."""
    known = tasks_of(dataset)
    for key, view in run.per_task.items():
        if key not in known:
            raise ConfigError(f"{name} has the tasks {', '.join(known) or 'none'}, not {key!r}: it can only be --ood")
        ours, theirs = (getattr(task, "names", None) for task in (view.task, known[key]))
        if ours != theirs:
            raise ConfigError(f"{name} has the classes {theirs}, the run has {ours}: it can only be --ood")
    return dataset


def _naming(run: Run, data: str) -> Trust:
    """The trust of the run, and the data set if it is not the run's own: then the caller has named it."""
    return run.plan.trust if data == run.config.data else run.plan.trust.naming(data)


def _load(run: Run, data: str, root: str, split: str, trust: Trust) -> DataSet:
    fold, folds = run.config.held_out
    if fold >= 0 and data != run.config.data and "val" in (splits_of(load(data, root, trust=trust)) or ("val",)):
        fold = -1  # other data, which have validation images of their own
    return load_original(data, root, split, run.config.size, trust, fold, folds)
