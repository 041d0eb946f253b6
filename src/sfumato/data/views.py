"""What a data set declares, with defaults for plain torch data sets, and parts of a data set that keep all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Protocol, cast

from torch.utils.data import Dataset, Subset

from sfumato.contracts import Sample, Task
from sfumato.errors import ConfigError
from sfumato.targets import ENTRIES, EntryKind


class Samples(Protocol):
    """The least that a data set has to have: a length, and samples by index."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """The sample with this index."""
        ...


def inputs_of(dataset: Samples, tasks: Iterable[Task] = ()) -> tuple[str, ...]:
    """The entries that the network takes, in order: those that the tasks name, or that the data set declares.

    Args:
        dataset: The data set. Default of what it declares: ``("image",)``.
        tasks: What is predicted. Default: a task that names no inputs.
    """
    declared = tuple(getattr(_whole(dataset), "inputs", ("image",)))
    named = [getattr(task, "inputs", ()) or declared for task in tasks] or [declared]
    return tuple(dict.fromkeys(name for inputs in named for name in inputs))


def providing(dataset: Samples, names: Iterable[str]) -> Samples:
    """The data set whose samples also hold these entries, for data sets that make some entries on request only.

    Such a data set has a method ``providing(names)``, which passes over names that it does not know. Others are
    returned as they are.
    """
    names = tuple(names)
    if isinstance(dataset, DatasetView):
        whole = providing(dataset.whole, names)
        if whole is dataset.whole:
            return dataset
        changed = copy(dataset)
        changed.whole = whole
        return changed
    if isinstance(dataset, Subset):
        return Subset(cast("Dataset[Sample]", providing(_sized(dataset.dataset), names)), dataset.indices)
    provide = getattr(dataset, "providing", None)
    return dataset if provide is None else provide(names)


def tasks_of(dataset: Samples) -> Mapping[str, Task]:
    """What can be predicted, by the key of the target. Default: nothing."""
    return getattr(_whole(dataset), "tasks", {})


def lacking_of(dataset: Samples) -> Mapping[str, str]:
    """Why the data set lacks tasks that others of its kind have, by their names. Default: nothing."""
    return getattr(_whole(dataset), "lacking", {})


def entries_of(dataset: Samples, tasks: Sequence[Task] = ()) -> dict[str, EntryKind]:
    """The kind of each entry: the standard names, the targets of its tasks and of ``tasks``, and what it declares."""
    targets = {task.key: getattr(task, "target", None) for task in (*tasks_of(dataset).values(), *tasks)}
    # A standard name keeps its kind, which knows its partner, unless a task says that the kind is another.
    kinds = {k: v for k, v in targets.items() if isinstance(v, EntryKind) and type(v) is not type(ENTRIES.get(k))}
    return {**ENTRIES, **kinds, **getattr(_whole(dataset), "entries", {})}


def splits_of(dataset: Samples) -> tuple[str, ...]:
    """The names of the splits. Default: none."""
    return tuple(getattr(_whole(dataset), "splits", ()))


def folds_of(dataset: Samples) -> int:
    """The number of folds that its training images are divided into. Default: 0, none."""
    return int(getattr(_whole(dataset), "folds", 0))


def void_of(dataset: object) -> object:
    """What stands for no class in the label files, an id or a color. None for nothing, or if the data do not say so."""
    while isinstance(dataset, DatasetView):
        dataset = dataset.whole
    return getattr(dataset, "void", None)


def things_of(dataset: Samples) -> tuple[int, ...]:
    """The ids of the classes whose objects are counted. Default: none."""
    return tuple(getattr(_whole(dataset), "things", ()))


def smallest_regions_of(dataset: Samples) -> tuple[int, int]:
    """Pixels below which found and true regions are passed over when regions are compared. Default: 0 and 0."""
    found, true = getattr(_whole(dataset), "smallest_regions", (0, 0))
    return found, true


def augmentation_of(dataset: Samples) -> Mapping[str, object]:
    """Arguments of :class:`Augmentation` that suit the data set: ``scale``, ``flip``, ``color``. Default: none."""
    return getattr(_whole(dataset), "augmentation", {})


def any_size(dataset: Samples) -> bool:
    """Whether its images are generated at whatever size is requested. Default: no, they have the size of the files."""
    return bool(getattr(_whole(dataset), "any_size", False))


def names_of(dataset: Samples) -> Sequence[str]:
    """The name of each sample. A data set without ``names`` is read from end to end for them."""
    if isinstance(dataset, Subset):
        names = names_of(_sized(dataset.dataset))
        return [names[index] for index in dataset.indices]
    names = getattr(dataset, "names", None)
    return [name_of(dataset[index], index) for index in range(len(dataset))] if names is None else names


def files_of(dataset: Samples, index: int) -> tuple[Path, ...]:
    """The files that a sample is read from, by which a cache notices that they have changed. Default: none."""
    if isinstance(dataset, Subset):
        return files_of(_sized(dataset.dataset), dataset.indices[index])
    files = getattr(dataset, "files", None)
    return () if files is None else tuple(files(index))


def name_of(sample: Mapping[str, object], index: int) -> str:
    """The name of a sample, or its index if it has none."""
    return str(sample.get("name", index))


class DatasetView(Dataset[Sample]):
    """Some images of a data set, with everything else that it declares.

    Args:
        whole: The data set.
        images: The indices of the images. None for all. Default None.
    """

    def __init__(self, whole: Samples, images: Sequence[int] | None = None) -> None:
        self.whole, self.images = whole, range(len(whole)) if images is None else images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.images[index]]

    @property
    def inputs(self) -> tuple[str, ...]:
        """As the whole data set declares."""
        return inputs_of(self.whole)

    @property
    def tasks(self) -> Mapping[str, Task]:
        """As the whole data set declares."""
        return tasks_of(self.whole)

    @property
    def lacking(self) -> Mapping[str, str]:
        """As the whole data set declares."""
        return lacking_of(self.whole)

    @property
    def entries(self) -> dict[str, EntryKind]:
        """As the whole data set declares."""
        return entries_of(self.whole)

    @property
    def splits(self) -> tuple[str, ...]:
        """As the whole data set declares."""
        return splits_of(self.whole)

    @property
    def things(self) -> tuple[int, ...]:
        """As the whole data set declares."""
        return things_of(self.whole)

    @property
    def smallest_regions(self) -> tuple[int, int]:
        """As the whole data set declares."""
        return smallest_regions_of(self.whole)

    @property
    def augmentation(self) -> Mapping[str, object]:
        """As the whole data set declares."""
        return augmentation_of(self.whole)

    @property
    def any_size(self) -> bool:
        """As the whole data set declares."""
        return any_size(self.whole)

    @property
    def names(self) -> Sequence[str]:
        """Those of its images."""
        names = names_of(self.whole)
        return [names[index] for index in self.images]

    def files(self, index: int) -> tuple[Path, ...]:
        """Those of one of its images."""
        return files_of(self.whole, self.images[index])


class DatasetSlice(DatasetView):
    """Consecutive images of a data set.

    Args:
        whole: The data set.
        first: The share of its images that come before, in [0, 1).
        last: The share of its images at which the slice ends, in (0, 1].

    Raises:
        ConfigError: If the slice holds no image.

    Pitfall: Frames of a video resemble their neighbors. So parts are blocks and are never drawn at random.
    """

    def __init__(self, whole: Samples, first: float, last: float) -> None:
        start, end = round(first * len(whole)), round(last * len(whole))
        if not 0 <= start < end <= len(whole):
            raise ConfigError(f"{first:.0%} to {last:.0%} of {len(whole)} images holds none: ask for a larger part")
        super().__init__(whole, range(start, end))


def subset(dataset: Samples, count: int = 0) -> DatasetView:
    """``count`` images of a data set, evenly spread; all of them if ``count`` is 0 or larger than the data set.

    >>> list(subset(range(10), 4))
    [0, 2, 5, 7]
    """
    total = len(dataset)
    return DatasetView(dataset, [i * total // count for i in range(count)] if 0 < count < total else None)


def _whole(dataset: Samples) -> Samples:
    """The data set that a torch ``Subset`` is part of."""
    return _whole(_sized(dataset.dataset)) if isinstance(dataset, Subset) else dataset


def _sized(dataset: Dataset[Sample]) -> Samples:
    if not hasattr(dataset, "__len__"):
        raise ConfigError(f"{type(dataset).__name__} has no length: give a data set with __len__ and __getitem__")
    return dataset  # pyright: ignore[reportReturnType]: torch's Dataset does not declare the __len__ checked here
