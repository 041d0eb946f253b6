"""Predict the frames of videos one after another, with or without merging them, to files or to a playable video."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.images import MAX_PIXELS
from sfumato.errors import ConfigError, DataError, MissingDependencyError, ResourceError
from sfumato.geometry import FlowFunction
from sfumato.predictions import TemporalAggregation
from sfumato.report.video_frame import DRAWINGS, VideoPainter
from sfumato.runs import part_of
from sfumato.runs.predictor import Predicted, Predictor, RunBackend
from sfumato.runs.temporal import TemporalBackend
from sfumato.serving.frame_source import FrameSource, Note, frame_source
from sfumato.serving.outputs import write_sample
from sfumato.storage import atomic_write, check_finite

ENDING, CODEC = ".mp4", "mp4v"

Take = Callable[[int, Tensor], None]
"""What is done with the number and the picture (1, 3, H, W) of a frame."""


def _nobody(text: str) -> None:
    """Tell nobody."""


def predict_videos(
    predictor: Predictor,
    given: Sequence[str],
    out: str | Path,
    *,
    flow: FlowFunction | None = None,
    drawing: str = "",
    samples: int | None = None,
    seed: int = 0,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    note: Note = _nobody,
) -> int:
    """Predict the frames of videos. One frame and one prediction are in memory at a time.

    Args:
        predictor: Predicts one frame.
        given: Video files, folders or globs of numbered pictures, and numbers of cameras. Each is one video.
        out: Folder of the outputs; it is made.
        flow: The optical flow with which the frames are merged, see :class:`sfumato.TemporalAggregation`. None to
            predict each frame by itself. Default None.
        drawing: ``side-by-side`` or ``overlay`` to write one playable NAME.mp4 for each video. Empty for the files of
            each frame, NAME_000000_label.png and so on, see :func:`sfumato.serving.outputs.write_sample`. Default
            empty.
        samples: Number of draws of a stochastic method for each frame. None for the number in the plan.
        seed: Seed of the draws. Each frame has draws of its own. Default 0.
        tile: As of :meth:`sfumato.runs.Predictor.__call__`.
        max_pixels: The largest number of pixels of a frame. Default 64 million.
        note: Called with one sentence about each frame that is left out, and about each cut. Default: nobody is told.

    Returns:
        The number of frames that were predicted.

    Raises:
        ConfigError: If the run takes several pictures, an exported file shall merge frames, two videos have one name,
            or the drawing is unknown.
        MissingFileError: If there is no such video, or frames between others are missing.
        DataError: If a video holds no frame that can be read, or frames of a playable video differ in size.

    Pitfall: A camera has no end: stop it with Ctrl-C. What was predicted before is kept.
    """
    if drawing and drawing not in DRAWINGS:
        raise ConfigError(f"video is {drawing!r}, expected {' or '.join(DRAWINGS)}")
    if predictor.backend.inputs != ("image",):
        raise ConfigError(
            f"the run takes {', '.join(predictor.backend.inputs)}, and this is for runs that take one image: leave out "
            "--temporal and --video"
        )
    if drawing and (lacking := [key for key, task in predictor.backend.tasks.items() if not task.target.is_map]):
        raise ConfigError(f"{lacking[0]} has one value for each image and no map to draw: leave out --video")
    sources = [frame_source(name, max_pixels) for name in given]
    _check_places(sources, Path(out))
    if twice := [each.given for place, each in enumerate(sources) if each.name in [s.name for s in sources[:place]]]:
        raise ConfigError(f"{twice[0]} has the name of another video, so both would be written to the same files")
    predictor, aggregation = _merging(predictor, flow)
    Path(out).mkdir(parents=True, exist_ok=True)
    how, done = {"samples": samples, "seed": seed, "tile": tile}, 0
    for source in sources:
        path = Path(out) / source.name
        if drawing:
            with _films(path, tuple(predictor.backend.tasks), source.rate) as films:
                done += _each(source, _drawn(predictor, source, films, drawing, how), aggregation, note)
        else:
            done += _each(source, _saved(predictor, path, how), aggregation, note)
    return done


def _check_places(sources: Sequence[FrameSource], out: Path) -> None:
    """Check that nothing is written over an input, or where it would be an input the next time.

    Raises:
        ConfigError: If something would be.
    """
    for source in sources:
        folders = {path.parent.resolve() for path in source.files}
        if any(out.resolve().is_relative_to(folder) for folder in folders):
            raise ConfigError(f"--out {out} lies among the frames of {source.given}: predictions would be frames")
        if not source.files and (out / f"{source.name}{ENDING}").resolve() == Path(source.given).resolve():
            raise ConfigError(f"{source.given} would be written over: choose another --out")


def _merging(predictor: Predictor, flow: FlowFunction | None) -> tuple[Predictor, TemporalAggregation[Any] | None]:
    """The predictor that merges frames with a flow, and what it merges with."""
    if flow is None:
        return predictor, None
    if not isinstance(predictor.backend, RunBackend):
        raise ConfigError(
            "an exported file holds its calibration, and frames are merged before that: give the folder of the run"
        )
    aggregation: TemporalAggregation[Any] = TemporalAggregation(flow)
    return Predictor(TemporalBackend(predictor.backend.run, aggregation)), aggregation


def _each(source: FrameSource, take: Take, aggregation: TemporalAggregation[Any] | None, note: Note) -> int:
    """Take one frame after another, and return their number. Cuts are told, and Ctrl-C ends a camera."""
    done = 0
    if aggregation is not None:
        aggregation.restart()
    try:
        for number, frame in source.frames(note):
            take(number, frame[None])
            done += 1
            if done > 1 and aggregation is not None and aggregation.frames == 1:
                note(f"the aggregation starts again at frame {number} of {source.given}, which follows a cut")
    except KeyboardInterrupt:
        if not source.is_camera:
            raise
    return done


def _saved(predictor: Predictor, path: Path, how: dict[str, Any]) -> Take:
    """Write the files of each frame."""

    def take(number: int, frame: Tensor) -> None:
        bands = predictor.bands(frame, index=number, **how)
        name = path.with_name(f"{path.name}_{number:06d}")
        write_sample(bands, predictor.backend.tasks, frame, name, predictor.backend.state)

    return take


def _drawn(
    predictor: Predictor, source: FrameSource, films: dict[str, _Film], drawing: str, how: dict[str, Any]
) -> Take:
    """Draw each frame into the video of each task."""
    tasks, painters, sizes = predictor.backend.tasks, dict[str, VideoPainter](), dict[str, torch.Size]()

    def take(number: int, frame: Tensor) -> None:
        first, size = sizes.setdefault("first", frame.shape[-2:]), frame.shape[-2:]
        if size != first:
            raise DataError(
                f"frame {number} of {source.given} has {size[0]} × {size[1]} pixels, and the first {first[0]} × "
                f"{first[1]}: a video has one size. Resize the frames, or leave out --video"
            )
        found: Predicted = predictor(frame, index=number, **how)
        for name, task in tasks.items():
            part = part_of(found.prediction, name)
            check_finite(part.tensors(), f"the prediction of frame {number} of {source.given}")
            painter = painters.setdefault(name, VideoPainter.starting_with(task, part))
            films[name].add(DRAWINGS[drawing](painter, found.prediction.image[0], part))

    return take


@dataclass
class _Film:
    """A video file that is written frame by frame.

    Args:
        path: The file.
        rate: Frames per second.
    """

    path: Path
    rate: float
    writer: Any = None  # untyped: the stubs of OpenCV lack its exceptions

    def add(self, pixels: np.ndarray) -> None:
        """Add a frame (H, W, 3) uint8. An odd last row or column is left out, which the format does not have."""
        import cv2

        height, width = (max(2, side - side % 2) for side in pixels.shape[:2])
        if self.writer is None:
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*CODEC), self.rate, (width, height))
            if not self.writer.isOpened():
                raise ResourceError(f"{self.path} cannot be written: OpenCV has no encoder for {CODEC} here")
        self.writer.write(np.ascontiguousarray(pixels[:height, :width, ::-1]))


@contextmanager
def _films(path: Path, tasks: Sequence[str], rate: float) -> Iterator[dict[str, _Film]]:
    """A video for each task, NAME.mp4, or NAME_TASK.mp4 if there are several. All appear at the end, or none."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("a video is written by OpenCV: pip install 'sfumato[video]'") from error
    names = {task: f"{path.name}{f'_{task}' if len(tasks) > 1 else ''}{ENDING}" for task in tasks}
    parts = {task: path.with_name(f".{os.getpid()}.part.{name}") for task, name in names.items()}
    films = {task: _Film(part, rate) for task, part in parts.items()}
    try:
        yield films
        for task, film in films.items():
            if film.writer is not None:  # a camera may be stopped before its first frame
                film.writer.release()
                with atomic_write(path.with_name(names[task])) as final:
                    film.path.replace(final)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
