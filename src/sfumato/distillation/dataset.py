"""Images whose targets hold, after the label, what a teacher says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample, Task
from sfumato.data.views import Samples, augmentation_of, entries_of, name_of, names_of
from sfumato.distillation.teacher import Teacher
from sfumato.errors import ConfigError, DataError
from sfumato.targets import MASK, EntryKind, Image, ImageValue, ScalarMap, Stacked

LARGEST_HALF = 2048  # up to it, half precision holds every whole number


class DistillationDataset(Dataset[Sample]):
    """Samples with stacked targets: the label, whether it is known, and the distillation target.

    Args:
        teacher: Gives the distillation targets.
        labeled: Images with labels. Their distillation targets count where labels do, so that nothing is learned from
            void pixels.
        unlabeled: Further images. Their labels, if any, are not read, and their distillation targets count everywhere.
            Default: none.
        cached: Whether distillation targets are computed once for each whole image and stored with the teacher. If
            False, they are left out, and :meth:`Teacher.add_targets` adds them after augmentation. Default True.
        labels: Whether the labels of the labeled images are read. If False, distillation targets count everywhere.
            Default True.

    Raises:
        ConfigError: If a task of the teacher declares no kind of target.
    """

    def __init__(
        self,
        teacher: Teacher,
        labeled: Samples,
        unlabeled: Samples | None = None,
        cached: bool = True,
        labels: bool = True,
    ) -> None:
        self.teacher, self.cached, self.labeled, self.unlabeled = teacher, cached, labeled, unlabeled
        self.labels = labels
        self.tasks: Mapping[str, Task] = dict(teacher.run.task.parts)
        self.inputs, self.augmentation = teacher.run.facts.inputs, augmentation_of(labeled)
        self.entries: dict[str, EntryKind] = entries_of(labeled, list(self.tasks.values()))
        # A batch of bytes and of numbers in [0, 1] would be one of numbers, whose bytes were no longer recognized.
        first = self._inputs_of(labeled[0]) if len(labeled) else {}
        self._whole_numbers = {name for name, value in first.items() if value.dtype == torch.uint8}
        if unlabeled is not None and len(unlabeled):
            self._inputs_of(unlabeled[0])  # one that lacks an input is refused before training
        lengths = self._lengths()
        kinds = {key: self._kind(key, length) for key, length in lengths.items()}
        self.entries |= kinds

    def __len__(self) -> int:
        return len(self.labeled) + (0 if self.unlabeled is None else len(self.unlabeled))

    @property
    def names(self) -> Sequence[str]:
        """The names of the labeled images, then those of the others."""
        return [*names_of(self.labeled), *([] if self.unlabeled is None else names_of(self.unlabeled))]

    def __getitem__(self, index: int) -> Sample:
        first = len(self.labeled)
        known = index < first or self.unlabeled is None
        sample = self.labeled[index] if known or self.unlabeled is None else self.unlabeled[index - first]
        inputs = self._inputs_of(sample)
        inputs = inputs if known else {name: self._like_labeled(name, value) for name, value in inputs.items()}
        targets = self.teacher.cached_targets(tuple(inputs.values())) if self.cached else {}
        found: Sample = {"name": name_of(sample, index), **inputs}
        for key, task in self.tasks.items():
            target, valid = _labeled(task, sample if known and self.labels else inputs, known and self.labels)
            found[key] = torch.cat([target, targets[key].to(target.dtype)]) if self.cached else target
            found[key + MASK] = valid
        return found

    def _inputs_of(self, sample: Sample) -> dict[str, Tensor]:
        found = {name: value for name in self.inputs if isinstance(value := sample.get(name), Tensor)}
        if missing := [name for name in self.inputs if name not in found]:
            raise DataError(f"sample {sample.get('name', '')!r} has no {missing[0]!r}, an input of the teacher")
        return found

    def _like_labeled(self, name: str, value: Tensor) -> Tensor:
        """An input of an unlabeled image in the type of the labeled ones, with which it shares batches."""
        kind = self.entries.get(name)
        if not isinstance(kind, Image) or (value.dtype == torch.uint8) == (name in self._whole_numbers):
            return value
        return (255 * value).round().byte() if name in self._whole_numbers else kind.to_float(value)

    def _lengths(self) -> dict[str, int]:
        """The number of channels of each distillation target; 0 if they are left out."""
        if not self.cached or not len(self.labeled):
            return dict.fromkeys(self.tasks, 0)
        found = self.teacher.cached_targets(tuple(self._inputs_of(self.labeled[0]).values()))
        return {key: len(target) for key, target in found.items()}

    def _kind(self, key: str, length: int) -> EntryKind:
        """The kind of a stacked target, so that augmentation treats each of its parts by its own rules."""
        if (kind := self.entries.get(key)) is None:
            raise ConfigError(f"the task {key} declares no kind of target, as in target = sfumato.targets.Depth()")
        width = max(kind.channels, 1)
        if not kind.is_map:
            return ImageValue(dims=width + 1 + length)
        parts = [(kind, width), (ScalarMap(), 1)]
        if kind.channels and length in (kind.channels, 2 * kind.channels):  # mean, and standard deviation
            parts += [(kind, width), (kind.spread(), width)][: length // kind.channels]
        elif length:
            parts += [(ScalarMap(dims=length), length)]
        return Stacked(tuple(parts))


def _labeled(task: Task, sample: Mapping[str, Tensor | str], known: bool) -> tuple[Tensor, Tensor]:
    """A target with channels first, whose last channel says whether it is known; and where distillation counts."""
    entries = task.entries(sample)
    target, valid = entries[task.key], entries[task.key + MASK]
    target = target[None] if target.ndim == valid.ndim else target
    # Class ids up to 2048 are exact in half precision, of which many images fit into memory.
    small = not target.is_floating_point() and len(getattr(task, "names", ())) <= LARGEST_HALF
    kind = torch.half if small else torch.float32
    flag = torch.full((1, *valid.shape), float(known), dtype=kind)
    return torch.cat([target.to(kind), flag]), valid if known else torch.ones_like(valid)
