"""What a plan has to know about the training images: colors, counts of classes, centers and spreads of values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.contracts import Likelihood, Sample, Task
from sfumato.errors import DataError
from sfumato.likelihoods import has_location
from sfumato.likelihoods.links import LINKS
from sfumato.targets import EntryKind, Image

CHUNK = 1 << 18  # numbers of each channel that are added at a time
MOST_IMAGES = 200  # statistics of more images differ by less than what matters


class Running:
    """Number, mean and standard deviation of numbers (C, N) that are added one sample after another."""

    def __init__(self) -> None:
        self.count, self._first, self._second = 0, torch.zeros(1).double(), torch.zeros(1).double()

    def add(self, numbers: Tensor) -> None:
        """Add numbers (C, N)."""
        self.count += numbers.shape[1]
        for part in numbers.split(CHUNK, 1):  # a whole large image in double precision would leave a large heap behind
            wide = part.double()
            self._first, self._second = self._first + wide.sum(1), self._second + wide.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """The mean (C,)."""
        return self._first / max(self.count, 1)

    @property
    def std(self) -> Tensor:
        """The standard deviation (C,)."""
        return (self._second / max(self.count, 1) - self.mean.square()).clamp_min(0).sqrt()


@dataclass
class Statistics:
    """What :func:`read_statistics` finds.

    Args:
        colors: Of each input that is an image.
        counts: For each task, the valid pixels of each class, or of all values.
        values: For each task with values, its valid targets behind the likelihood's link.
        largest: For each task with values, the largest valid target.
    """

    colors: dict[str, Running] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Running] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def normalization(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Mean and standard deviation of the colors of each input that is an image."""
        return {
            name: {"mean": _rounded(found.mean), "std": _rounded(found.std.clamp_min(1e-3))}
            for name, found in self.colors.items()
        }

    @property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Center and spread > 0 of the values of each task.

        Raises:
            DataError: If a target lies outside the range of the likelihood's link.
        """
        return {name: _center_and_spread(name, found) for name, found in self.values.items() if found.count}


def read_statistics(
    samples: Iterable[Sample],
    inputs: tuple[str, ...],
    tasks: Mapping[str, Task],
    likelihoods: Mapping[str, Likelihood[object]],
    entries: Mapping[str, EntryKind],
) -> Statistics:
    """Read samples one by one.

    Args:
        samples: Training images.
        inputs: The entries that the network takes.
        tasks: What is predicted, by key.
        likelihoods: The likelihood of each task, not standardized.
        entries: The kind of each entry.
    """
    images = [name for name in inputs if isinstance(entries.get(name), Image)]
    links = {name: _link(likelihoods[name]) for name, task in tasks.items() if task.kind == "value"}
    found = Statistics(
        {name: Running() for name in images},
        {name: torch.zeros(_classes(task), dtype=torch.int64) for name, task in tasks.items()},
        {name: Running() for name in links},
    )
    for sample in samples:
        for name in images:
            value = sample[name]
            assert isinstance(value, Tensor)
            found.colors[name].add(entries[name].numbers(value))
        for name, task in tasks.items():
            target, valid = task.target_and_mask(sample)
            known = target[..., valid]
            count = torch.bincount(known.flatten(), minlength=_classes(task)) if task.kind == "class" else valid.sum()
            found.counts[name] = found.counts[name] + count
            if name in links:
                largest = known.max().item() if known.numel() else -math.inf
                found.largest[name] = max(found.largest.get(name, -math.inf), largest)
                found.values[name].add(LINKS[links[name]].to_z(known.double()).reshape(1, -1))
    return found


def range_scales(
    tasks: Mapping[str, Task], likelihoods: Mapping[str, Likelihood[object]]
) -> dict[str, tuple[float, float]]:
    """Center and spread of values that are spread evenly over the range of a task, for a training without labels.

    A task of vectors has none, so its network works in its unit.

    Args:
        tasks: What is predicted, by key.
        likelihoods: The likelihood of each task, behind whose link values are spread evenly.
    """
    found = {}
    for name, task in tasks.items():
        if task.kind == "value" and getattr(task, "dims", 1) == 1:
            ends = torch.tensor(task.display_range, dtype=torch.float64)
            low, high = LINKS[_link(likelihoods[name])].to_z(ends).sort()[0].tolist()
            found[name] = float(f"{(low + high) / 2:.7g}"), float(f"{(high - low) / 12**0.5:.7g}")
    return found


def _classes(task: Task) -> int:
    return len(getattr(task, "names", ())) if task.kind == "class" else 1


def _link(likelihood: Likelihood[object]) -> str:
    """The link behind which targets are standardized. Without a location the targets themselves are."""
    return str(getattr(likelihood, "link", "identity")) if has_location(likelihood) else "identity"


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.tolist())


def _center_and_spread(name: str, found: Running) -> tuple[float, float]:
    center, spread = float(found.mean), float(found.std)
    if not torch.isfinite(torch.tensor([center, spread])).all():
        raise DataError(
            f"a valid {name} of the training images lies outside the range of the likelihood's link, such as 0 or less "
            "for a logarithm: mask these pixels, or choose another task or likelihood"
        )
    return float(f"{center:.7g}"), float(f"{spread or abs(center) or 1.0:.7g}")
