"""Keep the samples that training reads in memory or on disk, so that files are decoded once."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data.views import DatasetView, Samples, files_of
from sfumato.errors import ConfigError, DataError, MissingFileError, plain
from sfumato.storage import read_tensors, write_tensors

MODES = ("auto", "none", "memory", "disk")
GB = 1e9
RESERVE = 1 * GB  # left free on the disk, for the checkpoints of the training that reads the cache


class CachedDataset(DatasetView):
    """A data set whose samples are read once and then kept.

    In memory, each process keeps the samples that it has read; nothing is shared between processes. Class ids are kept
    as bytes where they fit. On disk, there is
    one safetensors file for each sample, which all processes use. If the disk is full or cannot be written, a line says
    so, and the remaining samples are read from the data set as without a cache.

    Args:
        whole: The data set. Keep only entries that are read, see :class:`~sfumato.data.loading.SelectedDataset`.
        mode: ``"memory"``, ``"disk"``, ``"none"``; or ``"auto"``, which is memory if all samples fit into the budget,
            else none. Default ``"auto"``.
        budget_bytes: The memory that ``"auto"`` may use, in all processes together, bytes. Default 2 GB.
        folder: Where ``"disk"`` keeps its files. Each data set gets a folder of its own in it. Default None.
        processes: Number of processes that read samples. Default 1.

    Raises:
        ConfigError: If the mode is unknown, or ``"disk"`` has no folder.

    Pitfall: A disk cache notices changed files by their size and time, but only for data sets that say which files they
    read. For others, delete the folder after a change of the data.
    """

    def __init__(
        self,
        whole: Samples,
        mode: str = "auto",
        budget_bytes: float = 2 * GB,
        folder: str | Path | None = None,
        processes: int = 1,
    ) -> None:
        super().__init__(whole)
        if mode not in MODES:
            raise ConfigError(f"cache is {mode!r}, expected one of {', '.join(MODES)}")
        if mode == "disk" and folder is None:
            raise ConfigError("cache is 'disk', but there is no folder for it: give a folder, or choose memory or none")
        self.budget_bytes = budget_bytes
        self.size_bytes = 0 if mode == "none" or not len(self) else _size(compact(whole[0])) * len(self)
        fits = self.size_bytes * max(processes, 1) <= budget_bytes
        self.mode = mode if mode != "auto" else "memory" if fits else "none"
        self.folder = Path(folder) / fingerprint(whole) if self.mode == "disk" and folder is not None else None
        self._samples: dict[int, Sample] = {}
        self._writable = True

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_samples": {}}  # another process reads for itself

    def __getitem__(self, index: int) -> Sample:
        if self.folder is not None:
            return self._from_disk(index, self.folder / f"{index:06d}.safetensors")
        if self.mode != "memory":
            return self.whole[index]
        if index not in self._samples:
            self._samples[index] = compact(self.whole[index])
        return widened(self._samples[index])

    def describe(self) -> str:
        """One line for people, as in ``cache: memory, 367 images, 0.2 GB``."""
        amount = f"{len(self)} images, {self.size_bytes / GB:.1f} GB"
        if self.mode == "none":
            over = f", because {amount} exceed the budget of {self.budget_bytes / GB:g} GB" if self.size_bytes else ""
            return f"cache: none{over}"
        return f"cache: {self.mode}, {amount}" + (f" in {self.folder}" if self.folder else "")

    def _from_disk(self, index: int, path: Path) -> Sample:
        state = _file_state(self.whole, index)
        try:
            tensors, texts = read_tensors(path)
            if texts.pop("files", None) == state:
                return {**texts, **tensors}
        except (MissingFileError, DataError):
            pass  # not there yet, or damaged: it is written again
        sample = self.whole[index]
        if self._writable:
            self._write(path, sample, state)
        return sample

    def _write(self, path: Path, sample: Sample, state: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if free < RESERVE + _size(sample):
                raise OSError(f"{free / GB:.1f} GB are free, of which {RESERVE / GB:g} GB are kept for checkpoints")
            tensors = {key: value for key, value in sample.items() if isinstance(value, Tensor)}
            texts = {key: value for key, value in sample.items() if isinstance(value, str)}
            write_tensors(path, tensors, {**texts, "files": state})
        except OSError as error:  # ResourceError is one
            self._writable = False
            reason = " ".join(str(error).split())
            line = f"no more samples are cached in {path.parent} ({reason}): the others are read from the data set"
            print(f"warning: {plain(line)}", file=sys.stderr)


def compact(sample: Sample) -> Sample:
    """The same sample with class ids as bytes where they fit, an eighth of the memory."""
    return {key: _as_bytes(value) if isinstance(value, Tensor) else value for key, value in sample.items()}


def _as_bytes(value: Tensor) -> Tensor:
    fits = value.dtype == torch.int64 and value.numel() and int(value.min()) >= 0 and int(value.max()) < 256
    return Ids(value.byte()) if fits else value


class Ids(Tensor):
    """Class ids as bytes, which a reader gets as int64 again."""


def widened(sample: Sample) -> Sample:
    """The sample that :func:`compact` was given."""
    return {key: value.as_subclass(Tensor).long() if isinstance(value, Ids) else value for key, value in sample.items()}


def fingerprint(dataset: Samples) -> str:
    """A name for the content of a data set: a digest of its length and of its first, middle and last sample."""
    digest = hashlib.blake2b(str(len(dataset)).encode(), digest_size=8)
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1} if len(dataset) else ()):
        for key, value in sorted(dataset[index].items()):
            if isinstance(value, Tensor):
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
            else:
                digest.update(f"{key} {value}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _size(sample: Sample) -> int:
    return sum(value.nbytes for value in sample.values() if isinstance(value, Tensor))


def _file_state(dataset: Samples, index: int) -> str:
    """Path, size and time of change of the files of a sample."""
    try:
        stats = [(str(path), path.stat()) for path in files_of(dataset, index)]
    except FileNotFoundError:
        return "missing"
    return json.dumps([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])
