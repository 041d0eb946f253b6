"""Check a sample before a network is trained on it, with a message that names the sample and the entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sfumato.contracts import Sample, Task
from sfumato.data.transforms import map_size
from sfumato.data.views import name_of, void_of
from sfumato.errors import DataError
from sfumato.targets import MASK, ClassMap, EntryKind, Image, ImageValue


def check_inputs(
    sample: object, inputs: Sequence[str], entries: Mapping[str, EntryKind], index: int
) -> dict[str, Tensor]:
    """The inputs of a sample, if a network can take them.

    Args:
        sample: What the data set returned.
        inputs: The entries that the network takes.
        entries: The kind of each entry.
        index: The number of the sample, for messages.

    Raises:
        DataError: If the sample is no dict, an input is missing, has the wrong channels or values, or inputs differ in
            size.
    """
    if not isinstance(sample, dict):
        raise DataError(
            f"sample {index} is a {type(sample).__name__}, expected a dict with the entries {', '.join(inputs)}"
        )
    name = name_of(sample, index)
    found: dict[str, Tensor] = {}
    for key in inputs:
        value = sample.get(key)
        if not isinstance(value, Tensor):
            raise DataError(
                f"sample {name!r} has no tensor {key!r}, which is an input: it holds {', '.join(map(str, sample))}"
            )
        if (kind := entries.get(key)) is None:
            raise DataError(
                f"the input {key!r} has no known kind: declare it in the data set, as in entries = "
                f"{{{key!r}: sfumato.targets.ScalarMap()}}"
            )
        _check_layout(value, kind, key, name)
        _check_values(value, kind, key, name)
        found[key] = value
    if any(entries[key].is_map for key in found):
        map_size(found, entries, f"sample {name!r}: ")
    return found


def check_targets(
    sample: Sample, targets: Mapping[str, Tensor], tasks: Sequence[Task], entries: Mapping[str, EntryKind]
) -> None:
    """Check that targets and masks have the size of the inputs, and hold numbers and classes that exist.

    Raises:
        DataError: If not.
    """
    name = name_of(sample, 0)
    for task in tasks:
        key, kind = task.key, entries.get(task.key)
        if kind is None:
            continue
        target, mask = targets[key], targets[key + MASK]
        if mask.dtype != torch.bool:
            raise DataError(f"{key + MASK} of sample {name!r} has the type {mask.dtype}, expected torch.bool")
        if kind.is_map:
            maps = {k: v for k, v in sample.items() if isinstance(v, Tensor) and k in entries and entries[k].is_map}
            map_size({**maps, key: target, key + MASK: mask}, {**entries, key + MASK: kind}, f"sample {name!r}: ")
        known = target[..., mask]
        if not bool(known.isfinite().all()):
            raise DataError(f"{key} of sample {name!r} holds NaN or infinity where {key + MASK} is True: mask it")
        classes = len(getattr(task, "names", ()))
        if classes and isinstance(kind, ClassMap | ImageValue) and known.numel():
            low, high = int(known.min()), int(known.max())
            if low < 0 or high >= classes:
                raise DataError(
                    f"{key} of sample {name!r} holds the class {low if low < 0 else high}, but there are {classes} "
                    f"classes, 0 to {classes - 1}: correct it, or set {key + MASK} to False there"
                )


def absent_line(task: Task, counts: Tensor, dataset: object) -> str:
    """A line that names the classes without a pixel and the likely cause. Empty if each class has one.

    Args:
        task: What is predicted.
        counts: Number of pixels of each class (K,), or of all values.
        dataset: The data set, which may say as ``void`` which label id it ignores.
    """
    absent = [name for name, count in zip(getattr(task, "names", ()), counts.tolist()) if count == 0]
    if not absent or not int(counts.sum()):
        return ""
    void = void_of(dataset)
    cause = f" The data set ignores the id {void}, which may be one of them." if void is not None else ""
    return f"no training image that was read has a pixel of {', '.join(absent)} ({task.key}).{cause}"


def _check_layout(value: Tensor, kind: EntryKind, key: str, name: str) -> None:
    if not isinstance(kind, Image) or (value.ndim == 3 and len(value) == kind.channels):
        return
    raise DataError(
        f"{key} of sample {name!r} has the shape {tuple(value.shape)}, expected ({kind.channels}, height, width): "
        f"declare other channels in the data set, as in entries = {{{key!r}: sfumato.targets.Image(bands=1)}}"
    )


def _check_values(value: Tensor, kind: EntryKind, key: str, name: str) -> None:
    if value.dtype == torch.uint8 or not value.numel():
        return
    if not bool(value.isfinite().all()):
        raise DataError(f"{key} of sample {name!r} holds NaN or infinity: correct the file, or take the sample away")
    if isinstance(kind, Image) and not (value.is_floating_point() and value.min() >= 0 and value.max() <= 1):
        raise DataError(
            f"{key} of sample {name!r} holds {value.dtype} from {value.min():g} to {value.max():g}, expected uint8, or "
            "floats from 0 to 1"
        )
