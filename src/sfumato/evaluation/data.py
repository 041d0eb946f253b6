"""The data that a run is evaluated on, at their original size."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from sfumato import registry
from sfumato.contracts import DataSet
from sfumato.data.catalog import load, load_original
from sfumato.data.fingerprint import check_recognized
from sfumato.data.folder import FILE
from sfumato.data.joined import JoinedDataset
from sfumato.data.pictures import Pictures
from sfumato.data.views import Samples, providing, splits_of, tasks_of
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
        name: ``DATA`` or ``DATA:SPLIT``. The split is ``val`` if it is left out. A folder without ``sfumato.yaml`` is
            read as :class:`~sfumato.data.Pictures`.
        root: The folder where it lies.

    Raises:
        ConfigError: If there is no such data set or split.
        MissingFileError: If files are missing.
    """
    return _foreign(run, name, root, "val", _naming(run, name.partition(":")[0]))


def unlabeled_dataset(run: Run, names: str, root: str = "") -> Samples:
    """Data sets whose images a student learns on without their labels, as one, at their original size.

    Args:
        run: The teacher.
        names: Names as of :func:`ood_dataset`, with commas between them. The split is ``train`` if it is left out.
        root: The folder where they lie. Of several, generated ones do not use it.

    Raises:
        ConfigError: If no data set is named, or there is no such data set or split.
        MissingFileError: If files are missing.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise ConfigError(f"unlabeled is {names!r}, expected names of data sets with commas, as in scenes,textures")
    found: list[Samples] = []
    for name in listed:
        data = name.partition(":")[0]
        trust = _naming(run, data)
        place = root if len(listed) == 1 or _reads_files(data, trust) else ""
        found.append(_foreign(run, name, place, "train", trust))
    return found[0] if len(found) == 1 else JoinedDataset(found)


def _reads_files(data: str, trust: Trust) -> bool:
    """Whether a data set uses a root: folders and classes of other people may, built-in ones say so."""
    return data not in registry.names("datasets") or bool(
        getattr(registry.load("datasets", data, trust), "needs_root", False)
    )


def _foreign(run: Run, name: str, root: str, split: str, trust: Trust) -> DataSet:
    """Data ``DATA`` or ``DATA:SPLIT`` whose tasks do not matter, so that a folder needs no description.

    Args:
        run: The run.
        name: The name.
        root: The folder where it lies.
        split: The split, if the name has none.
        trust: Class paths outside this package that may be imported.
    """
    data, _, chosen = name.partition(":")
    place = Path(root) / data
    if data and data not in registry.names("datasets") and place.is_dir() and not (place / FILE).exists():
        if chosen:
            raise ConfigError(f"{place} has no sfumato.yaml, so it has no split {chosen!r}: leave :{chosen} out")
        return Pictures(place)
    return _load(run, data, root, chosen or split, trust)


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
        ConfigError: If the data set was given in Python, so that it has no name.
        UntrustedCodeError: If it names code outside this package that is not trusted.
    """
    trust = run.plan.trust
    if not found.data:
        raise ConfigError(
            f"{run.folder} was evaluated in Python on a data set without a name: give it to "
            f"sfumato.report.write_report, or run `sfumato evaluate {run.folder}` first"
        )
    inside = _checked(run, found.data, _load(run, found.data, found.root, found.split, trust))
    comparison = next((each.ood for each in found.tasks.values() if each.ood is not None), None)
    if comparison is None:
        return inside, None
    return inside, _foreign(run, comparison.name, comparison.root, "val", trust)


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
    # Images of any size are generated at that of the files, because the network sees all images reduced alike.
    found = load_original(data, root, split, run.facts.original_size, trust, fold, folds)
    return cast(DataSet, providing(found, (*run.facts.inputs, *run.per_task)))
