"""Stereo pairs of varied scenes, generated once by several processes and kept in files that all trainings share.

    python benchmarks/stereo_data.py --out DIR --count 4000 --processes 16 [--seconds 60]

Pairs are 256 × 352. Disparities above 62 px are not valid, so that 64 planes are enough. Those of points that the right
view does not show are valid: Scenes knows them, and the networks are to fill them in.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from processes import pool
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data import Scenes
from sfumato.tasks import Disparity

SIZE = (256, 352)
MAXIMUM = 63.0  # px
SEED = 160
PART = 16  # pairs that one process generates at a time
ARRAYS = {"image": np.uint8, "right": np.uint8, "disparity": np.float32, "disparity_valid": np.bool_,
          "occluded": np.bool_, "texture": np.uint8}  # fmt: skip


def pair(scenes: Scenes, index: int) -> dict[str, np.ndarray]:
    """One pair as it is stored, see :data:`ARRAYS`."""
    sample = cast("dict[str, Tensor]", scenes[index])
    hidden = sample["disparity_occluded"]
    valid = (sample["disparity_valid"] | hidden) & (sample["disparity"][0] <= MAXIMUM - 1)
    found = {name: (255 * sample[name]).round() for name in ("image", "right")}
    found |= {"disparity": sample["disparity"].where(valid, 0), "disparity_valid": valid}
    found |= {"occluded": hidden, "texture": sample["texture"]}
    return {name: value.numpy().astype(ARRAYS[name]) for name, value in found.items()}


def _generate(folder: Path, scenes: Scenes, start: int, end: float) -> int:
    """Write the pairs with the numbers from ``start``. Returns how many."""
    if time.time() > end:
        return 0
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    stop = min(start + PART, len(scenes))
    for index in range(start, stop):
        for name, value in pair(scenes, index).items():
            arrays[name][index] = value
    return stop - start


def store(folder: Path, count: int, processes: int, seconds: float = float("inf")) -> int:
    """Generate pairs in several processes until there are ``count`` or the time is over. Returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = Scenes(count, SIZE, SEED, views=("right",), varied=True)
    for name, value in pair(scenes, 0).items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", ARRAYS[name], (count, *value.shape)).flush()
    end = time.time() + seconds
    with pool(processes) as workers:
        made = list(workers.map(_generate, *zip(*[(folder, scenes, start, end) for start in range(0, count, PART)])))
    done = sum(made[: made.index(0)] if 0 in made else made)  # parts are begun in order
    (folder / "pairs.json").write_text(json.dumps({"count": done, "seed": SEED, "size": SIZE}))
    return done


class StoredPairs(Dataset[Sample]):
    """Stored pairs.

    Args:
        root: The folder that :func:`store` filled.
        split: ``train``, or ``val`` for the last 40 of them.
        size: Must be None.
    """

    inputs = ("image", "right")
    splits = ("train", "val")
    tasks: ClassVar[Mapping[str, Disparity]] = {"disparity": Disparity(MAXIMUM)}
    augmentation: ClassVar[Mapping[str, object]] = {"scale": (0.75, 1.0), "color": 0.4}
    held = 40

    def __init__(self, root: str = "", split: str = "train", size: tuple[int, int] | None = None) -> None:
        assert size is None
        self.root = Path(root)
        count = json.loads((self.root / "pairs.json").read_text())["count"]
        held = min(self.held, count // 4)
        self.numbers = range(count - held) if split == "train" else range(count - held, count)

    @property
    def names(self) -> list[str]:
        """``pair-NUMBER``."""
        return [f"pair-{number:05d}" for number in self.numbers]

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.load(self.root / f"{name}.npy", mmap_mode="r") for name in ARRAYS}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        number = self.numbers[index]
        tensors = {name: torch.from_numpy(np.array(array[number])) for name, array in self._arrays.items()}
        return {"name": f"pair-{number:05d}", **tensors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    start = time.perf_counter()
    count = store(options.out, options.count, options.processes, options.seconds)
    print(json.dumps({"pairs": count, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
