"""The data set of procedural scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato import targets
from sfumato.contracts import Sample
from sfumato.data.box_maps import box_entries
from sfumato.data.generated import check_place
from sfumato.data.scenes.lens import BASELINE, FOCAL, camera, intrinsics, moved, pose
from sfumato.data.scenes.maps import disparities, flows, instance_boxes, measured_maps, target_maps, textures
from sfumato.data.scenes.motion import motions
from sfumato.data.scenes.render import View, render
from sfumato.data.scenes.shifts import check, shift
from sfumato.data.scenes.splits import SPLITS, VARIED_SPLITS
from sfumato.data.scenes.varied import LARGEST, NOISE, Setting, varied
from sfumato.data.scenes.world import CLASSES, PALETTE, build
from sfumato.errors import ConfigError
from sfumato.tasks import (
    BaseTask,
    BoxObjects,
    CenterOffsets,
    Depth,
    Disparity,
    EdgeDistances,
    Flow,
    InverseDepth,
    Semantic,
)

# Meters above the ground. If it varied, one picture would not determine the scale of the scene, and no network could
# tell the noise of depth from that.
HEIGHT = 1.6
SIZE = (96, 128)
VIEWS = ("image", "right", "next", "previous")
TIMES = {"image": 0, "right": 0, "next": 1, "previous": -1}
_OF_BOXES = {"boxes", "objects", "objects_valid", "distances", "distances_valid"}
_ENDS = ("", "_valid", "_occluded", "_true", "_sigma")
_MADE_WITH = {
    "right": {"right", "world_from_right", "texture", *(f"disparity{a}{b}" for a in ("", "_right") for b in _ENDS)},
    "next": {"next", "world_from_next", "moving", *(f"flow{a}{b}" for a in ("", "_back") for b in _ENDS)},
    "previous": {"previous", "world_from_previous"},
}
"""The entries that a sample holds with each of the other pictures."""


@dataclass(frozen=True)
class Scenes(Dataset[Sample]):
    """Pictures of procedural scenes whose ground truth and noise distributions are known exactly.

    The scenes are ray-cast with a pinhole camera. Scene ``i`` depends on ``(seed, i)`` only. The class of each pixel is
    an independent sample of ``class_probs``. Its depth is ``depth_true · exp(depth_sigma · ε)`` with ε ~ N(0, 1). Both
    distributions are functions of the visible material (and of distance), so the best that a network can learn is
    these distributions.

    A sample holds these tensors:

    - ``image`` (3, H, W) float32 in [0, 1];
    - ``classes`` (H, W) int64, sampled from ``class_probs`` (8, H, W); ``classes_valid`` is False where ``novel``;
    - ``depth`` and ``depth_true`` (1, H, W) meters along the optical axis, the former with noise of ``depth_sigma``
      (1, H, W); all are 0 in the sky, where ``depth_valid`` is False;
    - ``inverse_depth`` (1, H, W) 1/m, one over ``depth``; 0 and valid in the sky;
    - ``instances`` (H, W) int64, 0 where there is no object; ``centers`` (2, H, W) px, from a pixel to the centroid of
      the visible part of its instance, where ``centers_valid``; ``novel`` (H, W) bool;
    - ``intrinsics`` (3, 3) px, ``world_from_camera`` (4, 4) meters, x to the east, y to the north, z up.

    With ``views`` a sample also holds other pictures of the same scene, and what relates them to ``image``:

    - ``right``, at the same time from the right camera of a stereo pair: ``disparity`` (1, H, W) px, where
      ``x_right = x − disparity``, and ``disparity_right`` of the right view; ``world_from_right``;
    - ``next``, a moment later: ``flow`` (2, H, W) px from ``image`` to ``next``, and ``flow_back`` from ``next`` to
      ``image``; ``moving`` (H, W) bool, the objects that move by themselves; ``world_from_next``;
    - ``previous``, a moment earlier, and ``world_from_previous``.

    All of them are exact. Their ``…_valid`` (H, W) is False in the sky and where the other picture does not show the
    point, and ``…_occluded`` (H, W) is True at the latter: the values there are exact too. ``texture`` (H, W) int64
    says how the surface looks: 0 rich, 1 poor (almost of one color), 2 repetitive. On the last two, matching is
    ambiguous.

    With ``boxes`` a sample also holds the boxes of the visible parts of boxes, spheres, cylinders and poles: ``boxes``,
    ``objects`` and ``distances``, see :func:`~sfumato.data.box_maps.box_entries`. Objects of unseen shapes are ignored.

    With ``varied`` (the data set ``varied-scenes``), the focal length is 0.7 to 1.6 widths, the principal point, the
    height of the camera and the baseline vary, and surfaces are random: patches and noise, or of almost one color, or
    stripes, squares and tiles. Two of three of these scenes are shapes of any orientation that hang in front of a wall.
    Each picture has its own exposure and normal noise with the standard deviation ``noise_sigma`` (1,), which is at
    most 0.03. So a network that learns to match on them meets more than one camera and one world.

    With ``noisy`` (the data set ``noisy-scenes``), ``disparity`` and ``flow`` are not exact, as labels that a sensor
    measured: they have noise of a Laplace distribution with the standard deviation ``disparity_sigma`` (1, H, W) px and
    ``flow_sigma`` (2, H, W) px, which are functions of the visible material, 0.4 to 2.4 px. The exact values are
    ``disparity_true`` and ``flow_true``. So a predicted standard deviation can be compared with the true one.

    Args:
        count: Number of scenes, ≥ 1.
        size: (height, width), pixels, ≥ 1. Default (96, 128).
        seed: Seed of the scenes, ≥ 0. Default 0.
        views: Which other pictures samples hold, some of ``right``, ``next`` and ``previous``; True for the first two.
            Each takes as long as ``image``. Default False, none.
        novel: Whether objects of unseen shapes and patterns are added. The rest of a scene stays the same. Not with
            ``varied``. Default False.
        shift: ``fog``, ``darkness``, ``blur`` or ``noise``, see :func:`shift`. It changes images, never targets.
            Default: none.
        severity: Severity of the shift, 1 to 5.
        inputs: The entries that a network takes for tasks that name none, ``image`` and some of the views. Default
            ``("image",)``.
        varied: Whether cameras and surfaces vary, see above. Default False.
        noisy: Whether disparity and flow of ``image`` have noise of a known distribution, see above. Default False.
        boxes: Whether samples hold boxes, see above. Default False.

    Raises:
        ConfigError: If an argument is out of its range.
        IndexError: For an index beyond ``count``.

    Pitfall: Novel pixels have a uniform distribution in ``class_probs``. Do not compare predictions with it.
    """

    count: int
    size: tuple[int, int] = SIZE
    seed: int = 0
    views: bool | tuple[str, ...] = False
    novel: bool = False
    shift: str | None = None
    severity: int = 0
    inputs: tuple[str, ...] = ("image",)
    varied: bool = False
    noisy: bool = False
    boxes: bool = False
    things: ClassVar[tuple[int, ...]] = tuple(map(CLASSES.index, ("box", "sphere", "cylinder", "pole")))
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    any_size: ClassVar[bool] = True
    entries: ClassVar[Mapping[str, targets.EntryKind]] = {
        "class_probs": targets.ScalarMap(dims=len(CLASSES)),
        "depth_true": targets.Depth(),
        "depth_sigma": targets.ScalarMap(),
        "novel": targets.Mask(),
        "moving": targets.Mask(),
        "texture": targets.ClassMap(),
        "noise_sigma": targets.ImageValue(),
        "disparity_true": targets.Disparity(),
        "disparity_sigma": targets.Disparity(),
        "flow_true": targets.VectorMap(),
        "flow_sigma": targets.VectorMap(signed=False),
    }

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count is {self.count}, expected at least 1 scene")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size is {self.size}, expected (height, width) of at least 1 px each")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")
        if not set(self.others) <= set(VIEWS[1:]):
            raise ConfigError(f"views is {self.views}, expected some of {', '.join(VIEWS[1:])}, or True or False")
        if not self.inputs or not set(self.inputs) <= {"image", *self.others}:
            raise ConfigError(f"inputs is {self.inputs}, expected some of {', '.join(('image', *self.others))}")
        if self.varied and self.novel:
            raise ConfigError(
                "novel objects are those that other scenes lack, and varied scenes have all kinds: choose one"
            )
        if self.shift is not None:
            check(self.shift, self.severity)
        elif self.severity:
            raise ConfigError(f"severity is {self.severity} without a shift: name one, or leave severity at 0")

    @property
    def others(self) -> tuple[str, ...]:
        """The other pictures that samples hold."""
        if isinstance(self.views, tuple):
            return self.views
        return VIEWS[1:3] if self.views else ()

    @property
    def augmentation(self) -> Mapping[str, object]:
        """No zoom, which would change the distribution of depth noise, and no color, by which materials differ."""
        return {"scale": (1.0, 1.0), "color": 0.0}

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """Classes, depth in meters, its inverse, the centers of objects, disparity, flow, and the parts of boxes."""
        return {
            "classes": Semantic(CLASSES, PALETTE),
            "depth": Depth(1.0, 80.0, "m"),
            "inverse_depth": InverseDepth(1.0, "1/m"),
            "centers": CenterOffsets(self.size[1] / 6),
            "disparity": Disparity(self.size[1] * (LARGEST if self.varied else 1 / 12)),
            "flow": Flow(self.size[1] / 8),
            "objects": BoxObjects.of(tuple(CLASSES[kind] for kind in self.things)),
            "distances": EdgeDistances(self.size[1] / 4),
        }

    def providing(self, names: Iterable[str]) -> Scenes:
        """The same scenes whose samples also hold the other pictures that these entries are known with, and boxes."""
        wanted = set(names)
        others = tuple(key for key, made in _MADE_WITH.items() if key in self.others or wanted & made)
        boxes = self.boxes or bool(wanted & _OF_BOXES)
        unchanged = set(others) == set(self.others) and boxes == self.boxes
        return self if unchanged else replace(self, views=others, boxes=boxes)

    @property
    def names(self) -> list[str]:
        """``scene-SEED-INDEX``."""
        return [f"scene-{self.seed}-{index:06d}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}: expected 0 to {self.count - 1}")
        streams = (np.random.default_rng((self.seed, index, stream)) for stream in range(7))
        rng, novel, noise, shifts, moving, exposure, measured = streams
        if self.varied:
            setting = varied(rng, moving, self.size)
        else:
            setting = _usual(rng, novel if self.novel else None, moving, self.size)
        views = self._views(setting)
        left = views["image"]
        maps = target_maps(setting.world, left, noise)
        if self.others:
            maps["texture"] = textures(setting.world, left)
        if "right" in views:
            maps |= disparities(left, views["right"], setting.matrix[0, 0] * setting.baseline)
        if "next" in views:
            maps |= flows(left, views["next"], setting.motion)
        if self.noisy:
            maps |= measured_maps(setting.world, left, maps, measured)
        for name in views:
            key = "camera" if name == "image" else name
            maps[f"world_from_{key}"] = setting.poses[key].astype(np.float32)
        maps["intrinsics"] = setting.matrix.astype(np.float32)
        seeds: dict[str, int] = dict(zip(VIEWS, shifts.integers(2**62, size=4).tolist()))
        images = {name: self._image(view, seeds[name]) for name, view in views.items()}
        if self.varied:
            images = photographed(images, exposure)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in maps.items()}
        if self.boxes:
            tensors |= box_entries(instance_boxes(setting.world, left, self.things), self.size)
        return {"name": f"scene-{self.seed}-{index:06d}", **images, **tensors}

    def _views(self, setting: Setting) -> dict[str, View]:
        """The pictures that are requested. Those of one time are rendered together."""
        found: dict[str, View] = {}
        for time in (0, 1, -1):
            names = [name for name in ("image", *self.others) if TIMES[name] == time]
            lenses = [camera(setting.poses["camera" if name == "image" else name], setting.matrix) for name in names]
            if names:
                world = setting.motion.world(setting.world, time) if time else setting.world
                found |= zip(names, render(world, lenses, self.size))
        return found

    def _image(self, view: View, seed: int) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(view.image))
        if self.shift is None:
            return image
        depth = torch.from_numpy(view.depth)[None]
        return shift(image, self.shift, self.severity, depth=depth, generator=torch.Generator().manual_seed(seed))


def open_scenes(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> Scenes:
    """The scenes of a split.

    Args:
        root: It must be empty, because scenes need no files.
        split: ``train``, ``val``, ``novel``, or a shift and its severity, as in ``fog-3``. Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("scenes", root, split, SPLITS)
    return Scenes(size=size or SIZE, **asdict(SPLITS[split]))


def open_varied_scenes(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> Scenes:
    """The scenes of a split, with cameras and surfaces that vary.

    Args:
        root: It must be empty, because scenes need no files.
        split: ``train`` (2000 scenes) or ``val`` (100). Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("varied-scenes", root, split, VARIED_SPLITS)
    return Scenes(size=size or SIZE, varied=True, **asdict(VARIED_SPLITS[split]))


def open_noisy_scenes(root: str | Path = "", split: str = "train", size: tuple[int, int] | None = None) -> Scenes:
    """The scenes of a split, whose disparity and flow have noise of a known distribution.

    Args:
        root: It must be empty, because scenes need no files.
        split: ``train``, ``val`` or another split of :func:`open_scenes`. Default ``train``.
        size: (height, width), pixels. None for 96 × 128. Default None.

    Raises:
        ConfigError: If the split is unknown, or a root is given.
    """
    check_place("noisy-scenes", root, split, SPLITS)
    return Scenes(size=size or SIZE, noisy=True, **asdict(SPLITS[split]))


def _usual(
    rng: np.random.Generator, novel: np.random.Generator | None, moving: np.random.Generator, size: tuple[int, int]
) -> Setting:
    """A world that is photographed by cameras of one kind: 0.9 widths of focal length, 1.6 m above the ground."""
    world = build(rng, novel)
    left = pose(np.array([0, 0, HEIGHT]), rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.02))
    later, earlier = (_step(left, source, sign) for source, sign in ((rng, 1), (moving, -1)))
    poses = {"camera": left, "right": moved(left, np.array([BASELINE, 0, 0])), "next": later, "previous": earlier}
    return Setting(world, motions(world.solids, moving, 0.06), intrinsics(size, FOCAL), poses, BASELINE)


def _step(left: np.ndarray, rng: np.random.Generator, sign: int) -> np.ndarray:
    """The pose of the camera a moment later (sign 1) or earlier (−1)."""
    step = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03), rng.uniform(0.15, 0.6)])
    return moved(left, sign * step, rng.uniform(-0.025, 0.025), rng.uniform(-0.012, 0.012))


def photographed(images: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Pictures (3, H, W) in [0, 1] with an exposure of their own and noise; and ``noise_sigma`` (1,), its deviation.

    The exposures of one scene are alike. The brightest part of a picture is made bright, at most twice as bright.
    """
    sigma, drift = NOISE * float(rng.random()) ** 2, 0.1 * float(rng.random()) ** 2
    bright = float(rng.uniform(0.7, 1.0) / images["image"][:, ::4, ::4].flatten().quantile(0.95).clamp_min(1e-3))
    found: dict[str, Tensor] = {}
    seeds: dict[str, int] = dict(zip(VIEWS, rng.integers(2**62, size=len(VIEWS)).tolist()))
    for name, image in images.items():
        own = np.random.default_rng(seeds[name])  # so that no picture depends on which others there are
        gain, gamma = np.exp(own.uniform(-drift, drift, 2)) * (min(max(bright, 1.0), 2.0), 1.0)
        grain = torch.from_numpy(own.standard_normal(image.shape, np.float32))
        found[name] = (gain * image**gamma + sigma * grain).clamp(0, 1)
    return {**found, "noise_sigma": torch.tensor([sigma])}
