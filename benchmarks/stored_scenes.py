"""Procedural scenes that are generated once, by several processes, and kept in files that all processes share."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from processes import pool
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data import DatasetView, Scenes

PART = 32  # scenes that one process generates at a time
DTYPES = {torch.int64: np.uint8, torch.bool: np.bool_, torch.float32: np.float32}
IMAGES = ("image", "right", "next", "previous")


class StoredScenes(DatasetView):
    """Scenes in a folder with one array for each entry. Images are rounded to 1/255.

    Args:
        scenes: The scenes that were generated.
        folder: Where :func:`stored` put them.
    """

    def __init__(self, scenes: Scenes, folder: Path) -> None:
        super().__init__(scenes)
        self.folder = folder

    def __getitem__(self, index: int) -> Sample:
        tensors = {name: torch.from_numpy(array[index]) for name, array in self._arrays.items()}
        labels = {name: tensors[name].long() for name in ("classes",) if name in tensors}
        return {"name": self._names[index], **tensors, **labels}

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {path.stem: np.load(path, mmap_mode="c") for path in sorted(self.folder.glob("*.npy"))}

    @cached_property
    def _names(self) -> list[str]:
        return list(self.names)


def stored(scenes: Scenes, entries: Sequence[str], root: Path, processes: int) -> StoredScenes:
    """Some entries of scenes, generated unless they are in a folder below ``root`` already.

    Args:
        scenes: The scenes.
        entries: Names of their entries.
        root: Where folders of scenes lie.
        processes: How many generate them.
    """
    height, width = scenes.size
    folder = root / f"scenes-{scenes.seed}-{scenes.count}-{height}x{width}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        sample = scenes[0]
        for name in entries:
            value = cast(Tensor, sample[name])
            dtype = np.uint8 if name in IMAGES else DTYPES[value.dtype]
            np.lib.format.open_memmap(part / f"{name}.npy", "w+", dtype, (scenes.count, *value.shape))
        starts = range(0, scenes.count, PART)
        with pool(processes) as workers:
            list(workers.map(_generate, *zip(*[(scenes, tuple(entries), part, start) for start in starts])))
        part.rename(folder)
    return StoredScenes(scenes, folder)


def _generate(scenes: Scenes, entries: Sequence[str], folder: Path, start: int) -> None:
    """Write the scenes with the numbers from ``start``."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in entries}
    for index in range(start, min(start + PART, scenes.count)):
        sample = scenes[index]
        for name, array in arrays.items():
            value = cast(Tensor, sample[name])
            array[index] = (value * 255).round().numpy() if name in IMAGES else value.numpy()
    for array in arrays.values():
        cast(np.memmap, array).flush()
