"""Frames of a video with poses, as views that a volume takes: depth of the camera, or predictions of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data import SevenScenes
from sfumato.errors import ConfigError, DataError
from sfumato.fusion.sensors import depth_camera
from sfumato.fusion.view import View
from sfumato.fusion.volume import Volume
from sfumato.predictions import ClassPrediction, JointPrediction, ValuePrediction
from sfumato.runs.predictor import Predictor
from sfumato.targets import Image
from sfumato.tasks import Depth, Semantic

ViewOf = Callable[[int, Sample], View]
"""Number of a frame and its sample to what is known of it."""


def view_of_camera(number: int, sample: Sample) -> View:
    """The depth that the camera measured, with the variances of :func:`depth_camera`."""
    image = Image().to_float(_tensor(sample, "image")[None])
    depth, valid = depth_camera(_tensor(sample, "depth")[None], _tensor(sample, "depth_valid")[None], image)
    return View(depth, valid, _tensor(sample, "intrinsics"), _tensor(sample, "world_from_camera"))


def views_of_run(predictor: Predictor) -> tuple[ViewOf, Semantic | None]:
    """What a run predicts of an image: its depth, its classes, or both. What it does not predict the camera measures.

    Args:
        predictor: A run, or an exported file.

    Returns:
        The function, and the task of classes if there is one.

    Raises:
        ConfigError: If the run is not of depth in meters or classes of one image.
    """
    tasks = predictor.backend.tasks
    depths = [name for name, task in tasks.items() if isinstance(task, Depth)]
    classes = [(name, task) for name, task in tasks.items() if isinstance(task, Semantic)]
    if predictor.backend.inputs != ("image",) or not (depths or classes):
        raise ConfigError(f"the run is of {', '.join(tasks)}, expected depth or classes of one image")
    if depths and (unit := _unit(tasks, depths[0])) != "m":
        raise ConfigError(f"the run predicts depth in {unit!r}, expected meters: poses are in meters")

    def view(number: int, sample: Sample) -> View:
        image = _tensor(sample, "image")[None]
        found = predictor(image, index=number).prediction
        parts = found if isinstance(found, JointPrediction) else {next(iter(tasks)): found}
        depth, valid = _measured(sample) if not depths else _predicted(parts[depths[0]])
        labels = parts[classes[0][0]].to("cpu") if classes else None
        assert labels is None or isinstance(labels, ClassPrediction)
        depth = depth.with_image(Image().to_float(image))
        return View(depth, valid, _tensor(sample, "intrinsics"), _tensor(sample, "world_from_camera"), labels)

    return view, (classes[0][1] if classes else None)


@dataclass(frozen=True)
class FusedFrames:
    """A volume, and the frames that it was made of.

    Args:
        volume: The volume.
        frames: The data set.
        used: Numbers of the frames that were fused.
        task: The task of the classes. None without classes.
    """

    volume: Volume
    frames: SevenScenes
    used: Sequence[int]
    task: Semantic | None = None


def fuse_frames(
    root: str | Path,
    predictor: Predictor | None = None,
    *,
    step: int = 1,
    voxel: float = 0.02,
    truncation: float = 0.0,
    independent: bool = False,
    gate: float | None = None,
    progress: bool = False,
) -> FusedFrames:
    """Fuse a folder of frames with poses.

    Args:
        root: Folder of frames as of :class:`sfumato.data.SevenScenes`.
        predictor: What predicts depth, classes or both. None for the depth of the camera alone. Default None.
        step: Use every n-th frame, ≥ 1. Default 1.
        voxel: Side of a voxel, meters. Default 0.02.
        truncation: Largest distance that is kept, meters. 0 for 4 voxels. Default 0.
        independent: Whether errors of the frames are independent. Default False.
        gate: Share of the innovations that are kept, in (0, 1), see :class:`Volume`. Default: all.
        progress: Whether to show a progress bar. Default False.

    Raises:
        ConfigError: If a choice is out of range, or the run predicts something else.
        DataError: If a frame cannot be used. The message names it.
    """
    from rich.progress import track

    if step < 1:
        raise ConfigError(f"step is {step}, expected at least 1 frame")
    view, task = (view_of_camera, None) if predictor is None else views_of_run(predictor)
    classes = 0 if task is None else len(task.names)
    volume = Volume(voxel, truncation, classes, independent=independent, gate=gate)
    frames = SevenScenes(root, "all")
    used = range(0, len(frames), step)
    for number in track(used, "fuse", disable=not progress):
        try:
            volume.add(view(number, frames[number]))
        except DataError as error:
            raise DataError(f"{frames.names[number]}: {error}") from error
    if not len(volume.blocks):
        raise DataError(f"{root}: no frame has valid depth, so there is nothing to fuse")
    return FusedFrames(volume, frames, used, task)


def _unit(tasks: Mapping[str, object], name: str) -> str:
    return str(getattr(tasks[name], "unit", ""))


def _measured(sample: Sample) -> tuple[ValuePrediction, Tensor]:
    return depth_camera(_tensor(sample, "depth")[None], _tensor(sample, "depth_valid")[None])


def _predicted(prediction: object) -> tuple[ValuePrediction, Tensor]:
    assert isinstance(prediction, ValuePrediction)
    found = prediction.to("cpu")
    return found, (found.mean[:, 0] > 0) & (found.variance[:, 0] > 0)


def _tensor(sample: Sample, name: str) -> Tensor:
    found = sample.get(name)
    if not isinstance(found, torch.Tensor):
        raise DataError(f"a frame has no {name}: fusing needs images with depth, intrinsics and poses")
    return found
