"""The data of benchmarks/selfsup.py: scenes of a stereo camera that drives by, and small frames of 7-Scenes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from stored_scenes import StoredScenes, stored
from torch import Tensor

from sfumato.contracts import Sample, Task
from sfumato.data import DatasetView, Scenes, SevenScenes
from sfumato.data.scenes import lens
from sfumato.data.scenes.render import render
from sfumato.data.scenes.world import build
from sfumato.tasks import Depth

Size = tuple[int, int]
FARTHEST = 80.0  # meters, the end of the range of the task
HEIGHT = 1.6  # meters of the camera above the ground
VIEWS = {"camera": "image", "right": "right", "previous": "previous", "next": "next"}
ENTRIES = (*VIEWS.values(), "depth_true", "depth_valid", "intrinsics", *(f"world_from_{name}" for name in VIEWS))
ABOUT = "about.json"
SMALL = (120, 160)


@dataclass(frozen=True)
class Travels(Scenes):
    """Scenes seen by a stereo camera that drives by, with the pictures before and after, and exact depth.

    Between two pictures the camera goes 0.1 to 0.7 m ahead, up to 0.4 m to a side, and turns by up to 1.7°. That is
    more than the camera of :class:`Scenes` does. Nothing else moves.
    """

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        world = build(np.random.default_rng((self.seed, index)))
        poses = travel(np.random.default_rng((self.seed, index, 9)))
        matrix = lens.intrinsics(self.size)
        views = render(world, [lens.camera(pose, matrix) for pose in poses.values()], self.size)
        surface = views[0].index >= 0
        maps = {
            **{VIEWS[name]: np.ascontiguousarray(view.image) for name, view in zip(poses, views)},
            **{f"world_from_{name}": pose.astype(np.float32) for name, pose in poses.items()},
            "intrinsics": matrix.astype(np.float32),
            "depth_true": np.where(surface, views[0].depth, np.float32(0))[None],
            "depth_valid": surface & (views[0].depth <= FARTHEST),
        }
        return {"name": self.names[index], **{name: torch.from_numpy(value) for name, value in maps.items()}}


def travel(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The poses of the left and the right camera, and of the left one before and after."""
    here = lens.pose(np.array([0, 0, HEIGHT]), rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.02))
    found = {"camera": here, "right": lens.moved(here, np.array([lens.BASELINE, 0, 0]))}
    for name, ahead in (("previous", -1), ("next", 1)):
        step = np.array([rng.uniform(-0.4, 0.4), rng.uniform(-0.08, 0.08), ahead * rng.uniform(0.1, 0.7)])
        found[name] = lens.moved(here, step, rng.uniform(-0.03, 0.03), rng.uniform(-0.015, 0.015))
    return found


def scenes(about: dict[str, Any], split: str) -> Travels:
    """The scenes of a split; those of ``val`` have another seed."""
    return Travels(about[split], tuple(about["size"]), int(split == "val"))


def make_scenes(root: Path, size: Size, train: int, val: int, processes: int) -> None:
    """Generate the scenes of both splits, and say in a file how many there are."""
    about: dict[str, Any] = {"size": list(size), "train": train, "val": val}
    for split in ("train", "val"):
        stored(scenes(about, split), ENTRIES, root, processes)
    (root / ABOUT).write_text(json.dumps(about))


class KnownScenes(DatasetView):
    """Stored :class:`Travels`. Depth is known up to 80 m.

    Args:
        root: The folder that :func:`make_scenes` has filled.
        split: ``train`` or ``val``.
        size: None, or the size of the scenes.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, root: str | Path, split: str = "train", size: Size | None = None) -> None:
        del size
        known = scenes(json.loads((Path(root) / ABOUT).read_text()), split)
        super().__init__(stored(known, ENTRIES, Path(root), 1))
        assert isinstance(self.whole, StoredScenes)

    @property
    def tasks(self) -> dict[str, Task]:
        """Depth alone."""
        return {"depth": Depth(1.0, FARTHEST, "m")}

    def __getitem__(self, index: int) -> Sample:
        sample = dict(self.whole[index])
        return {**sample, "depth": sample.pop("depth_true")}


def pack(source: Path, out: Path, size: Size = SMALL) -> None:
    """Write 7-Scenes frames at a small size, with intrinsics of that size."""
    out.mkdir(parents=True, exist_ok=True)
    frames = SevenScenes(source, "all")
    for place, name in enumerate(frames.names):
        image, depth, pose = frames.files(place)
        small = Image.open(image).convert("RGB").resize(size[::-1], Image.Resampling.BOX)
        small.save(out / f"{name}.color.jpg", quality=92)
        Image.open(depth).resize(size[::-1], Image.Resampling.NEAREST).save(out / f"{name}.depth.png")
        (out / f"{name}.pose.txt").write_text(pose.read_text())
    matrix = cast(Tensor, SevenScenes(source, "all", size)[0]["intrinsics"])
    (out / "camera-intrinsics.txt").write_text("\n".join(" ".join(map(str, row)) for row in matrix.tolist()) + "\n")
