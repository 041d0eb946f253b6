"""Read samples for training and evaluation: select and check entries, and load batches in worker processes."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sfumato.contracts import Sample, Task
from sfumato.data.checks import check_inputs, check_targets
from sfumato.data.views import DatasetView, Samples, entries_of, name_of, providing
from sfumato.errors import DataError, ResourceError, SfumatoError
from sfumato.targets import MASK

MMAP_THRESHOLD = -3  # the number of M_MMAP_THRESHOLD in <malloc.h>
Batch = dict[str, "Tensor | list[str]"]


class SelectedDataset(DatasetView):
    """The entries of a data set that are read: ``name``, inputs, targets with masks. Each sample is checked.

    Args:
        whole: The data set.
        inputs: The entries that the network takes, in order.
        tasks: Their targets are read. A sample without a target gets one that is nowhere valid. Default: none.
        further: Other entries, which are kept where a sample has them. Default: none.
    """

    def __init__(
        self, whole: Samples, inputs: Sequence[str], tasks: Sequence[Task] = (), further: Sequence[str] = ()
    ) -> None:
        self.selected, self.further = tuple(inputs), tuple(further)
        self.parts = tuple(part for task in tasks for part in task.parts.values())
        super().__init__(providing(whole, (*self.selected, *(task.key for task in self.parts), *self.further)))
        self._kinds = entries_of(whole, self.parts)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that were selected."""
        return self.selected

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        inputs = check_inputs(sample, self.selected, self._kinds, index)
        out: Sample = {"name": name_of(sample, index), **inputs}
        out |= {key: sample[key] for key in self.further if key in sample}
        for task in self.parts:
            if task.key in sample and task.key + MASK not in sample:
                raise DataError(
                    f"sample {out['name']!r} has {task.key!r} but no {task.key + MASK!r}: add a bool mask, True where "
                    "the target is known"
                )
            targets = task.entries(sample)
            check_targets(out, targets, (task,), self._kinds)
            out |= targets
        return out


def loader(
    dataset: Dataset[Sample],
    batch: int,
    *,
    sampler: Sampler[int] | Sampler[tuple[int, int]] | None = None,
    drop_last: bool = False,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SampleLoader:
    """Batches of a data set, read in the main process or in worker processes.

    Args:
        dataset: Samples that all have the same entries and sizes.
        batch: Images per batch, ≥ 1.
        sampler: The order of the images. None for their own. Default None.
        drop_last: Whether a last batch that is not full is left out. Default False.
        workers: Number of processes that read images; 0 reads them in this one. Default 0.
        seed: Seed of the random numbers of workers. Default 0.
        device: Where batches are used. On a GPU they come in pinned memory. Default the CPU.
    """
    workers = min(workers, len(dataset))  # pyright: ignore[reportArgumentType]: torch's Dataset does not declare __len__
    generator = torch.Generator().manual_seed(seed)  # torch seeds Python, NumPy and itself from it in each worker
    return SampleLoader(
        _Guarded(dataset),
        batch,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=generator,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=torch.device(device).type == "cuda",
    )


def _end_quietly(worker: int) -> None:
    """Let a signal to all processes, as from Ctrl-C or ``timeout``, be answered by the main process alone.

    A worker that is killed by SIGTERM would raise an error in the main process, which is ending by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))


def _start_worker(worker: int) -> None:
    """Prepare a worker: how it ends, and that it gives the memory of decoded images back to the system.

    Else its heap grows with large images, by 8 MB for each of 2 megapixels.
    """
    _end_quietly(worker)
    with suppress(OSError, AttributeError, TypeError):  # only the C library of most Linux systems has this
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 20)


class SampleLoader(DataLoader["Sample | _Failure"]):
    """A ``DataLoader`` that raises errors of its workers as they were, with no traceback of another process in them."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]: a generator suffices
        """Batches: tensors (B, …), uint8 stays uint8, and ``name`` as a list.

        Raises:
            SfumatoError: Whatever reading a sample raised.
            ResourceError: If a worker was killed.
        """
        batches = super().__iter__()
        while True:
            try:
                found = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" in str(error) and ("killed" in str(error) or "exited" in str(error)):
                    raise ResourceError(
                        "a process that reads images was killed, perhaps because memory ran out: use fewer --workers, "
                        "or 0"
                    ) from error
                raise
            if isinstance(found, _Failure):
                raise found.error
            yield found


def collate(samples: Sequence[Sample | _Failure]) -> Batch | _Failure:
    """A batch of samples.

    Raises:
        DataError: If entries of two samples differ in shape, or one sample lacks an entry of another one.
    """
    failure = next((sample for sample in samples if isinstance(sample, _Failure)), None)
    if failure is not None:
        return failure
    whole = [sample for sample in samples if not isinstance(sample, _Failure)]
    try:
        _check_alike(whole)
    except DataError as error:
        return _Failure(error)
    return default_collate(whole)


@dataclass(frozen=True)
class _Failure:
    """An error that travels from a worker in the place of a batch."""

    error: SfumatoError


class _Guarded(Dataset["Sample | _Failure"]):
    """A data set that returns errors in the place of samples."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]: torch's Dataset does not declare __len__

    def __getitem__(self, index: int) -> Sample | _Failure:
        try:
            return self.dataset[index]
        except SfumatoError as error:
            return _Failure(error)


def _check_alike(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples[1:]:
        names = f"the samples {name_of(first, 0)!r} and {name_of(sample, 1)!r}"
        if differing := first.keys() ^ sample.keys():
            raise DataError(
                f"only one of {names} has {', '.join(sorted(differing))}: all samples need the same entries"
            )
        for key, value in sample.items():
            other = first[key]
            if isinstance(value, Tensor) and isinstance(other, Tensor) and value.shape != other.shape:
                raise DataError(
                    f"{key} of {names} has the shapes {tuple(other.shape)} and {tuple(value.shape)}: give all images "
                    "one size with --size HEIGHT WIDTH"
                )
