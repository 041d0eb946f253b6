"""Read a whole data set and say what it holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sfumato import registry
from sfumato.contracts import Sample, Task
from sfumato.data.catalog import load
from sfumato.data.checks import absent_line
from sfumato.data.description import read_description
from sfumato.data.folder import FILE, Folder
from sfumato.data.loading import SelectedDataset
from sfumato.data.stereo_check import check_views
from sfumato.data.views import Samples, files_of, inputs_of, splits_of, subset, tasks_of
from sfumato.errors import SfumatoError
from sfumato.registry import Trust

USUAL = ("train", "val")
GENERATED = 20  # images that are read of a split whose images are not files
SHOWN = 4  # samples of a split that are kept for a picture


@dataclass
class SplitSurvey:
    """What one split of a data set holds.

    Args:
        name: Name of the split.
        images: Number of images, without those that lack a file.
        sizes: Number of images of each (height, width) of the first input.
        pixels: For each task, the valid pixels of each class; of values, their number.
        all_pixels: For each task, the pixels of all images.
        samples: Some samples, for a picture.
    """

    name: str
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: dict[str, Tensor] = field(default_factory=dict)
    all_pixels: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Survey:
    """What a data set holds.

    Args:
        tasks: What can be predicted, by the key of the target.
        splits: What each split holds.
        problems: A line for each file that is missing or cannot be used, and for each class without a pixel.
    """

    tasks: Mapping[str, Task] = field(default_factory=dict)
    splits: list[SplitSurvey] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def survey(name: str, root: str | Path = "", trust: Trust | bool | str = False, *, progress: bool = False) -> Survey:
    """Read every image and target of a data set.

    Of a folder with ``sfumato.yaml`` all splits are read, of other data sets ``train`` and ``val``. Of a split
    whose images are generated, 20 images are read.

    Args:
        name: As of :func:`~sfumato.data.load`.
        root: Folder that holds the files. Default: none.
        trust: Class paths outside this package that may be imported.
        progress: Whether to show a progress bar. Default False.

    Raises:
        ConfigError: If there is no such data set.
        DataError: If the description of a folder cannot be read.
    """
    path = Path(root) / name
    own = name not in registry.names("datasets") and path.exists()
    if own:
        described = read_description(path if path.suffix in (".yaml", ".yml") else path / FILE)
        names = list(described.splits)
    else:
        known = splits_of(load(name, root, "train", trust=trust)) or ("train",)
        names = [split for split in USUAL if split in known]
    found = Survey()
    for split in names:
        each = SplitSurvey(split)
        found.splits.append(each)
        try:
            data: Samples = Folder(path, split, complete=False) if own else load(name, root, split, trust=trust)
        except SfumatoError as error:
            found.problems.append(str(error))
            continue
        found.tasks = found.tasks or tasks_of(data)
        found.problems += getattr(data, "missing", [])
        _read(data, each, found.problems, progress)
    return found


def _read(data: Samples, found: SplitSurvey, problems: list[str], progress: bool) -> None:
    from rich.progress import track

    tasks = tasks_of(data)
    found.images = len(data)
    found.pixels = {
        key: torch.zeros(len(getattr(task, "names", "1")), dtype=torch.int64) for key, task in tasks.items()
    }
    if not len(data):
        problems.append(f"{found.name} holds no image that is complete")
        return
    part = subset(data, 0 if files_of(data, 0) else GENERATED)
    inputs = inputs_of(data, tasks.values())
    selected = SelectedDataset(part, inputs, list(tasks.values()))
    kept = {index * len(part) // SHOWN for index in range(SHOWN)}
    for index in track(range(len(part)), f"read {found.name}", disable=not progress, transient=True):
        try:
            sample = selected[index]
            check_views(sample)
        except SfumatoError as error:
            problems.append(str(error))
            continue
        _count(sample, inputs[0], tasks, found)
        if index in kept:
            found.samples.append(sample)
    if found.name == "train":
        lines = [absent_line(task, found.pixels[key], data) for key, task in tasks.items()]
        problems += [f"train: {line}" for line in lines if line]


def _count(sample: Sample, first: str, tasks: Mapping[str, Task], found: SplitSurvey) -> None:
    image = sample[first]
    assert isinstance(image, Tensor)
    found.sizes[(image.shape[-2], image.shape[-1])] += 1
    for key, task in tasks.items():
        target, valid = task.target_and_mask(sample)
        classes = len(found.pixels[key])
        known = target[valid] if task.kind == "class" else torch.zeros(int(valid.sum()), dtype=torch.int64)
        found.pixels[key] += torch.bincount(known.flatten(), minlength=classes)
        found.all_pixels[key] += valid.numel()
