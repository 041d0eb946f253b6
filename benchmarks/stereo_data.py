"""Stereo pairs for benchmarks/stereo.py: procedural scenes with random surfaces, and eight Middlebury pairs.

    python benchmarks/stereo_data.py --out DIR --count 4000 --processes 16 [--seconds 60]

The scenes are those of ``sfumato.data.Scenes`` with more solids near the camera, and with random colors and patterns in
the place of those of their materials: a network that is to work on other pictures must not learn that grass is green.
The distance of the two cameras is random too, so that the largest disparities are between 10 and 62 pixels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from processes import pool
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.scenes import lens, world
from sfumato.data.scenes import materials as m
from sfumato.data.scenes.render import render
from sfumato.data.scenes.solids import BALL, BOX, GEM, TUBE, Solid
from sfumato.tasks import Disparity

SIZE = (256, 352)
MAXIMUM = 63.0  # px
PART = 16  # pairs that one process generates at a time
ARRAYS = {"image": np.uint8, "right": np.uint8, "disparity": np.float16, "disparity_valid": np.bool_}


def random_pattern(rng: np.random.Generator) -> m.Pattern:
    """A pattern of grids of random shades, noise and stripes at several scales, turned by a random angle."""
    turn = rng.uniform(0, np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    kinds = rng.choice(3, rng.integers(2, 6), p=(0.5, 0.35, 0.15))
    layers = [(int(kind), float(np.exp(rng.uniform(np.log(0.02), np.log(1.2)))), rng.uniform(0.5, 2),
               float(rng.uniform(0.3, 1)), float(rng.uniform(0, 9)), rng.random() < 0.4) for kind in kinds]  # fmt: skip
    plain = rng.random() < 0.12

    def pattern(position: m.Vectors, normal: m.Vectors, footprint: np.ndarray) -> np.ndarray:
        across, up = m._surface(position, normal)
        u, v = c * across + s * up, c * up - s * across
        total, weights = np.full_like(footprint, 0.5), 0.0
        if plain:
            return total
        mixed = np.zeros_like(footprint)
        for kind, size, aspect, weight, shift, sharp in layers:
            if kind == 0:
                value = m._hash(np.floor(u / size + shift), np.floor(v / (size * aspect) + shift))
                value = np.where(value > 0.5, np.float32(1), np.float32(0)) if sharp else value
            elif kind == 1:
                value = 0.5 + 0.5 * m.noise(position, footprint, 2 * size)
                value = np.clip((value - 0.5) * 8 + 0.5, 0, 1) if sharp else value
            else:
                value = 0.5 + 0.5 * np.clip(np.sin(u * np.float32(2 * np.pi / size)) * 3, -1, 1)
            fade = m._fade(footprint, size / 2)
            mixed += np.float32(weight) * (0.5 + (value - 0.5) * fade)
            weights += weight
        mean = np.float32(1 / weights)
        return (0.5 + (mixed * mean - 0.5) * np.float32(len(layers) ** 0.5)).astype(np.float32)

    return pattern


def surface(solid: Solid, rng: np.random.Generator) -> Solid:
    """The same solid with random colors and a random pattern, or now and then as it was."""
    if rng.random() < 0.15:
        return solid
    first = rng.random(3)
    second = np.clip(first + rng.normal(0, 0.35, 3) + rng.normal(0, 0.3), 0, 1)
    colors = np.stack([first, second]).astype(np.float32) ** 2
    material = replace(solid.material, pattern=random_pattern(rng))
    return replace(solid, material=material, colors=colors, phase=float(rng.uniform(0, 50)))


def more_solids(rng: np.random.Generator, like: Solid) -> list[Solid]:
    """Boards, balls, tubes and gems at random places in front of the camera, also in the air."""
    found = []
    if rng.random() < 0.7:  # a wall behind everything
        y = float(rng.uniform(5, 25))
        found.append(
            replace(like, shape=BOX, center=(0.0, y, 0.0), half=(3 * y, 0.1, 2 * y), yaw=float(rng.normal(0, 0.3)))
        )
    for _ in range(rng.integers(3, 12)):
        y = float(np.exp(rng.uniform(np.log(2.0), np.log(12))))
        x, z = rng.uniform(-0.6, 0.6) * y, 1.6 + rng.uniform(-0.5, 0.4) * y
        reach = y * np.exp(rng.uniform(np.log(0.02), np.log(0.3), 3))
        shape = (BOX, BOX, BALL, TUBE, GEM)[rng.integers(5)]
        if shape is BOX and rng.random() < 0.6:
            reach[1] = 0.01  # a board
        found.append(replace(like, shape=shape, center=(float(x), y, float(z)), half=tuple(map(float, reach)),
                             yaw=float(rng.uniform(-1.2, 1.2))))  # fmt: skip
    return found


def pair(seed: int, index: int, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """One stereo pair: both views (3, H, W) uint8, disparity (1, H, W) px, and where it is known and at most 62 px."""
    rng = np.random.default_rng((seed, index, 7))
    built = world.build(rng)
    like = next((s for s in built.solids if s.shape is BOX), built.solids[0])
    solids = tuple(surface(s, rng) for s in (*built.solids, *more_solids(rng, like)))
    scene = world.World(solids, built.light)
    left = lens.pose(np.array([0, 0, 1.6]), rng.uniform(-0.5, 0.5), rng.uniform(-0.35, 0.05))
    eyes = [lens.camera(left, size)]
    depth = render_depth(scene, eyes[0], size)
    near = float(np.quantile(depth[np.isfinite(depth)], 0.02)) if np.isfinite(depth).any() else 3.0
    focal = lens.intrinsics(size)[0, 0]
    baseline = float(np.exp(rng.uniform(np.log(10), np.log(62)))) * near / focal
    eyes.append(lens.camera(lens.moved(left, np.array([baseline, 0, 0])), size))
    views = render(scene, eyes, size)
    disparity = np.float32(focal * baseline) / views[0].depth[None]
    images = [np.round(255 * np.clip(view.image, 0, 1)).astype(np.uint8) for view in views]
    valid = (views[0].index >= 0) & (disparity[0] <= MAXIMUM - 1)
    return {
        "image": images[0],
        "right": images[1],
        "disparity": np.where(valid, disparity, 0),
        "disparity_valid": valid,
    }


def render_depth(scene: world.World, eye: lens.Lens, size: tuple[int, int]) -> np.ndarray:
    """Depths (h, w) of every eighth pixel, meters."""
    from sfumato.data.scenes.rays import Sight

    small = size[0] // 8, size[1] // 8
    coarse = lens.Lens(eye.origin, eye.axes @ np.diag([8.0, 8.0, 1.0]))
    return Sight(scene.bodies, coarse).first(small)[0]


def _generate(folder: Path, seed: int, start: int, count: int, end: float) -> int:
    """Write the pairs with the numbers from ``start``. Returns how many."""
    if time.time() > end:
        return 0
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    stop = min(start + PART, count)
    for index in range(start, stop):
        for name, value in pair(seed, index).items():
            arrays[name][index] = value
    return stop - start


def store(folder: Path, count: int, seed: int, processes: int, seconds: float = float("inf")) -> int:
    """Generate pairs in several processes until there are ``count`` or the time is over. Returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in ARRAYS.items():
        shape = (3, *SIZE) if kind is np.uint8 else (1, *SIZE) if kind is np.float16 else SIZE
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (count, *shape)).flush()
    starts = range(0, count, PART)
    with pool(processes) as workers:
        end = time.time() + seconds
        made = list(workers.map(_generate, *zip(*[(folder, seed, start, count, end) for start in starts])))
    done = 0
    for number in made:  # parts are begun in order
        if not number:
            break
        done += number
    (folder / "pairs.json").write_text(json.dumps({"count": done, "seed": seed}))
    return done


class PatternPairs(Dataset[Sample]):
    """Stored pairs. Those of ``train`` get noise, and light that differs between the views, anew each time.

    Args:
        root: The folder that :func:`store` filled.
        split: ``train``, or ``val`` for the last 16 of them.
        size: Must be None.
    """

    inputs = ("image", "right")
    splits = ("train", "val")
    tasks: ClassVar[Mapping[str, Disparity]] = {"disparity": Disparity(MAXIMUM)}
    augmentation: ClassVar[Mapping[str, object]] = {"scale": (0.75, 1.0), "color": 0.4}
    HELD = 16

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
            self._arrays = {name: np.load(self.root / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        number = self.numbers[index]
        sample: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(array[number])) for name, array in self._arrays.items()
        }
        sample["disparity"] = sample["disparity"].float()
        if self.split == "train":
            sample |= spoilt({name: sample[name] for name in self.inputs})
        return {"name": self.names[index], **sample}


def spoilt(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both views uint8 with other light in each, blurred a little now and then, and with noise."""
    noise = float(torch.rand(()) ** 2) * 8
    out = {}
    for name, view in views.items():
        x = view.float() / 255
        gain, gamma = 1 + 0.1 * torch.randn(3, 1, 1) * torch.rand(()), (0.15 * torch.randn(()) * torch.rand(())).exp()
        x = (x.clamp(0, 1) ** gamma * gain).clamp(0, 1) * 255
        out[name] = (x + noise * torch.randn_like(x)).round().clamp(0, 255).byte()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    start = time.perf_counter()
    count = store(options.out, options.count, options.seed, options.processes, options.seconds)
    print(json.dumps({"pairs": count, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
