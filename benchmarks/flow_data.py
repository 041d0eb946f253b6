"""Pairs of pictures with known optical flow for benchmarks/flow.py: procedural scenes with moving patches.

    python benchmarks/flow_data.py --out DIR --count 2000 --processes 16 [--seconds 60]

The background is a scene of ``varied-scenes``, through which the camera and some objects move, or a generated texture
that is moved, turned and scaled. Up to seven patches with generated textures move over it, each by an affine motion of
its own, and hide what is behind them. Flow is exact, also where the next picture hides a point.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from processes import pool
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data import FlyingChairs, Scenes, Textures
from sfumato.data.images import read_image
from sfumato.data.motion_files import read_flow
from sfumato.tasks import Flow

SIZE = (192, 256)
PART = 8  # pairs that one process generates at a time
LARGEST = 80.0  # px; a longer vector is not used
ARRAYS = {"image": np.uint8, "next": np.uint8, "flow": np.float32, "flow_valid": np.bool_}


class Motion:
    """A similarity from the plane of a patch to the pixels of both pictures.

    Args:
        rng: Source of random numbers.
        middle: Its center in the first picture, px.
        reach: Its half width and half height, px.
        longest: Scale of its displacement, px.
    """

    def __init__(self, rng: np.random.Generator, middle: np.ndarray, reach: np.ndarray, longest: float) -> None:
        self.middle, self.reach = middle, reach
        self.turn = rng.uniform(-np.pi, np.pi)
        relative = min(1.0, longest / 20)
        self.shift = rng.normal(0, longest, 2)
        self.turned, self.grown = rng.normal(0, 0.12) * relative, np.exp(rng.normal(0, 0.1) * relative)

    def matrix(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """The map ``x = A u + b`` from patch to picture."""
        turn = self.turn + later * self.turned
        c, s = np.cos(turn), np.sin(turn)
        scale = self.grown if later else 1.0
        return scale * np.array([[c, -s], [s, c]]) * self.reach, self.middle + later * self.shift

    def box(self, stretch: float, later: bool) -> tuple[slice, slice, slice]:
        """Channels, rows and columns of a picture that a patch of ``stretch`` times the size can reach."""
        far = stretch * float(np.hypot(*self.reach)) * (self.grown if later else 1.0) + 1
        x, y = self.middle + later * self.shift
        rows, columns = (
            slice(int(np.clip(place - far, 0, size)), int(np.clip(place + far + 1, 0, size)))
            for place, size in ((y, SIZE[0]), (x, SIZE[1]))
        )
        return slice(None), rows, columns

    def places(self, grid: Tensor, later: bool) -> Tensor:
        """Where the pixels (2, H, W) of a picture are on the patch."""
        matrix, offset = self.matrix(later)
        inverse = torch.from_numpy(np.linalg.inv(matrix)).float()
        away = grid - torch.from_numpy(offset).float().view(2, 1, 1)
        return torch.einsum("ij,jhw->ihw", inverse, away)

    def flow(self, grid: Tensor) -> Tensor:
        """How far the pixels of the first picture that show the patch move (2, H, W), px."""
        matrix, offset = (torch.from_numpy(each).float() for each in self.matrix(True))
        return torch.einsum("ij,jhw->ihw", matrix, self.places(grid, False)) + offset.view(2, 1, 1) - grid


def outline(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A blob, an ellipse or a rectangle: waves of its radius, their phases, and the power of its norm."""
    power = (2.0, 2.0, 8.0)[rng.integers(3)]
    waves = rng.normal(0, 0.25, 5) / np.arange(2, 7) ** 0.5 if rng.random() < 0.6 else np.zeros(5)
    return waves, rng.uniform(0, 2 * np.pi, 5), power


def cover(shape: tuple[np.ndarray, np.ndarray, float], places: Tensor, reach: float) -> Tensor:
    """How much of each pixel (H, W) the patch covers, in [0, 1]; its edge is one pixel wide."""
    waves, phases, power = shape
    u, v = places
    angle = torch.atan2(v, u)
    edge = 1 + sum(float(w) * torch.cos((n + 2) * angle + float(p)) for n, (w, p) in enumerate(zip(waves, phases)))
    radius = (u.abs() ** power + v.abs() ** power) ** (1 / power)
    return ((torch.as_tensor(edge) - radius) * reach + 0.5).clamp(0, 1)


def painted(texture: Tensor, places: Tensor, pixels: np.ndarray) -> Tensor:
    """The colors (3, H, W) of a texture on a patch whose half sides are so many of its pixels; mirrored beyond."""
    height, width = texture.shape[-2:]
    size = torch.tensor([2 * pixels[0] / width, 2 * pixels[1] / height]).float().view(2, 1, 1)
    return grid_sample(texture[None], (places * size).movedim(0, -1)[None], padding_mode="reflection",
                       align_corners=False)[0]  # fmt: skip


def picture(rng: np.random.Generator) -> Tensor:
    """The colors (3, H, W) of a generated texture, or of a scene."""
    number = int(rng.integers(2**31))
    if rng.random() < 0.25:
        found = Scenes(number + 1, (96, 128), seed=3)[number]["image"]
        assert isinstance(found, Tensor)
        return found.float()
    found = Textures(number + 1, SIZE, seed=3)[number]["image"]
    assert isinstance(found, Tensor)
    return found.float() / 255


def background(rng: np.random.Generator, longest: float) -> list[Tensor]:
    """Both pictures, flow and mask of what is behind the patches."""
    if rng.random() < 0.5:
        number = int(rng.integers(2**31))
        found = Scenes(number + 1, SIZE, seed=4, views=("next",), varied=True)[number]
        first, second, flow, seen = (tensor_of(found, name) for name in ARRAYS)
        return [first.float(), second.float(), flow, seen | tensor_of(found, "flow_occluded")]
    grid = pixels()
    reach = np.array([SIZE[1], SIZE[0]]) / 2
    motion, texture = Motion(rng, reach - 0.5, reach, longest), picture(rng)
    first, second = (painted(texture, motion.places(grid, later), reach) for later in (False, True))
    return [first, second, motion.flow(grid), torch.ones(SIZE, dtype=torch.bool)]


def pixels() -> Tensor:
    """The pixels (2, H, W) as (x, y)."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]).float(), torch.arange(SIZE[1]).float(), indexing="ij")
    return torch.stack([x, y])


def pair(seed: int, index: int) -> dict[str, np.ndarray]:
    """One pair: both pictures (3, H, W) uint8, the flow (2, H, W) px, and where it is known."""
    rng = np.random.default_rng((seed, index, 11))
    longest = float(np.exp(rng.uniform(np.log(0.8), np.log(20))))  # the scale of all motions of this pair, px
    first, second, flow, valid = (part.clone() for part in background(rng, longest))
    grid = pixels()
    for _ in range(rng.integers(0, 8)):
        reach = np.exp(rng.uniform(np.log(6), np.log(80), 1)) * np.exp(rng.normal(0, 0.3, 2))
        motion = Motion(rng, rng.uniform((0, 0), (SIZE[1], SIZE[0])), reach, longest)
        shape, texture, detail = outline(rng), picture(rng), float(np.exp(rng.uniform(-0.5, 0.5)))
        for later in (False, True):
            box = motion.box(1 + float(np.abs(shape[0]).sum()), later)
            places = motion.places(grid[box], later)
            share = cover(shape, places, float(reach.min()))
            color = painted(texture, places, reach * detail) if places.numel() else places.new_zeros(3, *share.shape)
            below = second[box] if later else first[box]
            below.copy_(share * color + (1 - share) * below)
            if not later:
                hidden = share > 0.5
                flow[box] = torch.where(hidden, motion.flow(grid[box]), flow[box])
                valid[box[1:]] |= hidden
    valid = valid & (flow.norm(dim=0) < LARGEST)
    return {
        "image": np.rint(255 * first.clamp(0, 1).numpy()).astype(np.uint8),
        "next": np.rint(255 * second.clamp(0, 1).numpy()).astype(np.uint8),
        "flow": flow.where(valid, 0.0).numpy(),
        "flow_valid": valid.numpy(),
    }


def sample_of(seed: int, index: int) -> Sample:
    """The same pair as a sample."""
    return {"name": f"pair-{index:05d}", **{name: torch.from_numpy(value) for name, value in pair(seed, index).items()}}


def _generate(folder: Path, seed: int, start: int, count: int, end: float) -> int:
    """Write the pairs with the numbers from ``start``. Returns how many."""
    if time.time() > end:
        return 0
    torch.set_num_threads(1)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    stop = min(start + PART, count)
    for index in range(start, stop):
        for name, value in pair(seed, index).items():
            arrays[name][index] = value
    return stop - start


def store(folder: Path, count: int, seed: int, processes: int, seconds: float = float("inf")) -> int:
    """Generate pairs in several processes until there are ``count`` or the time is over. Returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = {"image": (3,), "next": (3,), "flow": (2,), "flow_valid": ()}
    for name, kind in ARRAYS.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (count, *channels[name], *SIZE)).flush()
    starts = range(0, count, PART)
    with pool(processes) as workers:
        list(workers.map(abs, range(processes)))  # so that the time begins when the processes have started
        end = time.time() + seconds
        made = list(workers.map(_generate, *zip(*[(folder, seed, start, count, end) for start in starts])))
    done = 0
    for number in made:  # parts are begun in order
        if not number:
            break
        done += number
    (folder / "pairs.json").write_text(json.dumps({"count": done, "seed": seed}))
    return done


class MovingPatches(Dataset[Sample]):
    """Stored pairs. Those of ``train`` get noise, and light that differs between the pictures, anew each time.

    Args:
        root: The folder that :func:`store` filled.
        split: ``train``, or ``val`` for the last 32 of them.
        size: Must be None.
    """

    inputs = ("image", "next")
    splits = ("train", "val")
    tasks: ClassVar[Mapping[str, Flow]] = {"flow": Flow(20.0)}
    augmentation: ClassVar[Mapping[str, object]] = {"scale": (0.8, 1.5), "color": 0.3}
    HELD = 32

    def __init__(self, root: str = "", split: str = "train", size: tuple[int, int] | None = None) -> None:
        assert size is None
        self.root, self.split = Path(root), split
        count = json.loads((self.root / "pairs.json").read_text())["count"]
        held = min(self.HELD, count // 4)
        self.numbers = range(count - held) if split == "train" else range(count - held, count)
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def names(self) -> list[str]:
        """``pair-NUMBER``."""
        return [f"pair-{number:05d}" for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        if not self._arrays:
            self._arrays = {name: np.load(self.root / f"{name}.npy", mmap_mode="c") for name in ARRAYS}
        number = self.numbers[index]
        found = {name: torch.from_numpy(array[number]) for name, array in self._arrays.items()}
        if self.split == "train":
            found |= {name: disturbed(found[name]) for name in ("image", "next")}
        return {"name": f"pair-{number:05d}", **found}


class Chairs(Dataset[Sample]):
    """The FlyingChairs pairs 0 to 3 of a folder, each many times, for fine-tuning; ``val`` is pair 4.

    Args:
        root: The folder with ``0000000-img0.ppm`` and so on.
        split: ``train`` or ``val``.
        size: Must be None.
    """

    inputs = ("image", "next")
    splits = ("train", "val")
    tasks: ClassVar[Mapping[str, Flow]] = {"flow": Flow(20.0)}
    augmentation: ClassVar[Mapping[str, object]] = {"scale": (0.3, 1.2), "color": 0.3}
    REPEATS = 32

    def __init__(self, root: str = "", split: str = "train", size: tuple[int, int] | None = None) -> None:
        assert size is None
        self.split, self.chairs = split, FlyingChairs(root)
        assert len(self.chairs) == 5, f"{root} holds {len(self.chairs)} pairs, expected those with the numbers 0 to 4"
        self.numbers = [4] if split == "val" else [0, 1, 2, 3] * self.REPEATS
        self._read: dict[int, Sample] = {}

    @property
    def names(self) -> list[str]:
        """The number of the pair, and how many were before it."""
        return [f"{self.chairs.names[number]}-{index}" for index, number in enumerate(self.numbers)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        number = self.numbers[index]
        if number not in self._read:
            self._read[number] = self.chairs[number]
        found = {**self._read[number], "name": self.names[index]}
        if self.split == "train":
            found |= {name: disturbed(tensor_of(found, name)) for name in ("image", "next")}
        return found


def rubber_whale(root: str | Path) -> Sample:
    """The pair RubberWhale of the Middlebury evaluation, from a folder with its two pictures and its ``.flo`` file."""
    root = Path(root)
    first, second = (read_image(root / f"RubberWhale{n}.png") for n in (1, 2))
    flow, valid = read_flow(root / "RubberWhale.flo", tuple(first.shape[-2:]))
    return {"name": "RubberWhale", "image": first, "next": second, "flow": flow, "flow_valid": valid}


def tensor_of(sample: Mapping[str, Tensor | str], name: str) -> Tensor:
    """An entry of a sample that is a tensor."""
    found = sample[name]
    assert isinstance(found, Tensor)
    return found


def disturbed(image: Tensor) -> Tensor:
    """A picture uint8 with noise and a slightly other light."""
    noise, gain, offset = torch.rand(3).tolist()
    bright = image.float() * (0.95 + 0.1 * gain) + 8 * (offset - 0.5)
    return (bright + 5 * noise * torch.randn(image.shape)).round().clamp(0, 255).byte()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time after which no part is begun")
    given = parser.parse_args()
    start = time.perf_counter()
    made = store(given.out, given.count, given.seed, given.processes, given.seconds)
    print(json.dumps({"pairs": made, "seconds": round(time.perf_counter() - start, 1)}))
