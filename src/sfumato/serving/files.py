"""Predict files: images, folders, globs, videos and lists of pairs in; pictures and arrays out."""

from __future__ import annotations

import glob
import shlex
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from torch import Tensor

from sfumato.data.frames import frame_number, neighbors
from sfumato.data.images import MAX_PIXELS, PICTURES, read_image
from sfumato.data.stereo_check import check_views
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.predictions import PosePrediction
from sfumato.runs import BoxFinder, RunBackend
from sfumato.runs.predictor import Predictor
from sfumato.serving.formats import Stereo, check_stereo
from sfumato.serving.frame_source import VIDEOS, frame_source, is_video
from sfumato.serving.outputs import write_sample
from sfumato.serving.pose_files import PoseMotion, write_poses
from sfumato.tasks import CameraPose

OFFSETS = {"previous": -1, "image": 0, "next": 1}
"""Inputs that are frames of one video, and their places in it."""


@dataclass(frozen=True)
class Source:
    """One sample to predict: a file for each input of the network.

    Args:
        files: The files, in the order of the inputs.
        name: Path of its outputs inside the output folder, without an ending.
    """

    files: tuple[Path, ...]
    name: str


def predict_files(
    predictor: Predictor,
    given: Sequence[str],
    out: str | Path,
    *,
    samples: int | None = None,
    seed: int = 0,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
    pairs: bool = False,
    stereo: Stereo | None = None,
    motion: PoseMotion | None = None,
) -> int:
    """Predict files, and write arrays, maps and a figure of each, see :func:`sfumato.serving.outputs.write_sample`.

    Args:
        predictor: Predicts one sample.
        given: Files, folders, globs or videos. If the network has n inputs, exactly n of them: the files of each input,
            which belong together in the order of their names and must have the same names. If the inputs are frames of
            a video (``previous``, ``image`` and ``next``), one video or folder of frames is enough: neighbors are
            predicted. The last number in the name of a frame counts it.
        out: Folder of the outputs; it is made. It holds the same folders as the input folders do.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        tile: Side of the tiles that are predicted one by one, pixels. 0 for whole images. None for tiles of 1024 pixels
            where the network sees more than 1.25 megapixels. Default None.
        max_pixels: The largest number of pixels of a file. Default 64 million.
        progress: Whether to show a progress bar. Default True.
        pairs: Whether ``given`` are text files of which each line names a file for every input, relative to the folder
            of the text file. Names with spaces stand in quotes. Default False.
        stereo: The calibration of a stereo pair, with which depth is written. Default: none is.
        motion: How far the camera moves from one frame to the next, with which camera poses are filtered. Default: they
            are not.

    Returns:
        The number of predictions.

    Raises:
        MissingFileError: If one of the names stands for no image.
        ConfigError: If inputs lack partners, two outputs have one name, ``out`` is one of the inputs, or depth is asked
            for and no task is disparity.
        DataError: If a file cannot be read, frames of a video are missing, or the views of a stereo pair are exchanged.
    """
    from rich.progress import track

    out, inputs = Path(out), predictor.backend.inputs
    if stereo is not None:
        check_stereo(predictor.backend.tasks)
    if motion is not None and CameraPose.key not in predictor.backend.tasks:
        raise ConfigError("filter is for runs of camera poses: leave it out")
    sources = listed_sources(given, inputs, out) if pairs else find_sources(given, inputs, out)
    out.mkdir(parents=True, exist_ok=True)
    written, state = 0, predictor.backend.state
    poses: dict[str, PosePrediction] = {}
    run = predictor.backend.run if isinstance(predictor.backend, RunBackend) else None
    finder = BoxFinder.of(predictor.backend.tasks, None if run is None else run.folder)
    for source in track(sources, description="predict", disable=not progress or len(sources) < 2):
        for number, (name, images) in enumerate(_frames(source, inputs, max_pixels)):
            if number == 0:
                check_views({"name": name, **{key: image[0] for key, image in zip(inputs, images)}})
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            bands = predictor.bands(*images, samples=samples, seed=seed, index=written, tile=tile)
            found = write_sample(bands, predictor.backend.tasks, images[0], out / name, state, stereo, finder)
            if isinstance(pose := found.get(CameraPose.key), PosePrediction):
                poses[name] = pose
            written += 1
    if poses:
        write_poses(list(poses.values()), list(poses), out, motion)
    return written


def find_sources(given: Sequence[str], inputs: tuple[str, ...], out: Path) -> list[Source]:
    """The samples that the names stand for, each with a file for every input. See :func:`predict_files`."""
    video = len(inputs) > 1 and set(inputs) <= set(OFFSETS)
    if video and len(given) == 1:
        sources = _in_time(_files(given[0], out), [OFFSETS[name] for name in inputs])
    elif len(inputs) > 1 and len(given) != len(inputs):
        raise ConfigError(
            f"{len(given)} files, folders or globs, expected {len(inputs)}: one for each of the inputs "
            f"{', '.join(inputs)}{'; or one video or folder of frames' * video}"
        )
    else:
        listed = [_files(name, out) for name in given]
        groups = [[pair] for files in listed for pair in files] if len(inputs) == 1 else _matched(listed, inputs)
        sources = [Source(tuple(file for file, _ in group), group[0][1]) for group in groups]
    _check_names(sources, out)
    return sources


def _in_time(files: Sequence[tuple[Path, str]], offsets: Sequence[int]) -> list[Source]:
    """Videos as they are, and each picture with those at the offsets in the same folder.

    Raises:
        DataError: If a folder has too few frames, or their names do not count them.
        MissingFileError: If frames between others are missing.
    """
    sources = [Source((path,), name) for path, name in files if is_video(path)]
    folders: dict[Path, list[tuple[Path, str]]] = {}
    for path, name in files:
        if not is_video(path):
            folders.setdefault(path.parent, []).append((path, name))
    for folder, frames in folders.items():
        frames.sort(key=lambda frame: frame_number(frame[0]))
        neighbors([path for path, _ in frames], 1)  # checks that none is missing
        first, last = -min(offsets), len(frames) - max(offsets)
        if first >= last:
            raise DataError(f"{folder} holds {len(frames)} frames, expected at least {1 + max(offsets) - min(offsets)}")
        for i in range(first, last):
            sources.append(Source(tuple(frames[i + offset][0] for offset in offsets), frames[i][1]))
    return sources


def listed_sources(given: Sequence[str], inputs: tuple[str, ...], out: Path) -> list[Source]:
    """The samples in text files, of which each line names a file for every input. See :func:`predict_files`."""
    sources = [source for name in given for source in _lines(Path(name), inputs)]
    for source in sources:
        if inside := [path for path in source.files if path.resolve().is_relative_to(out.resolve())]:
            raise ConfigError(f"{inside[0]} lies in --out {out}, where predictions would be inputs the next time")
    _check_names(sources, out)
    return sources


def _lines(listing: Path, inputs: tuple[str, ...]) -> Iterator[Source]:
    if not listing.is_file():
        raise MissingFileError(f"{listing} does not exist: expected a text file with the lines {' '.join(inputs)}")
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
        rows = [shlex.split(line, comments=True) for line in lines]
    except ValueError as error:
        raise DataError(f"{listing} cannot be read as a list of files: {error}") from error
    for number, words in enumerate(rows, 1):
        if not words:
            continue
        if len(words) != len(inputs):
            raise DataError(
                f"{listing}, line {number} names {len(words)} files, expected {len(inputs)}: {' '.join(inputs)}"
            )
        files = tuple(listing.parent / word for word in words)
        if missing := [file for file in files if not _readable(file)]:
            raise MissingFileError(f"{listing}, line {number}: {missing[0]} is no image that exists")
        first = Path(words[0]).with_suffix("")
        inside = not first.is_absolute() and ".." not in first.parts  # so that outputs stay in their folder
        yield Source(files, str(first) if inside else first.name)
    if not any(rows):
        raise DataError(f"{listing} names no file: expected lines of {' '.join(inputs)}")


def _check_names(sources: Sequence[Source], out: Path) -> None:
    """Check that no file is written for two samples, also where the disk does not tell ``A`` from ``a``.

    Raises:
        ConfigError: If one is. The message names both samples.
    """
    taken: dict[str, Path] = {}
    frames = {_plain(source.name): source.files[0] for source in sources if is_video(source.files[0])}
    for source in sources:
        name = _plain(source.name)
        stem, _, number = name.rpartition("_")
        other = taken.get(name) or (frames.get(stem) if number.isdecimal() else None)
        if other is not None:
            raise ConfigError(
                f"{other} and {source.files[0]} would both be written to {out / source.name}: predict them in two "
                "calls with two --out folders, or rename one"
            )
        taken[name] = source.files[0]
    for name, file in taken.items():
        if (other := taken.get(f"{name}_sets")) is not None:  # the name of the sets of the first
            raise ConfigError(f"{file} and {other} would both be written to {out / name}_sets: rename one")


def _plain(name: str) -> str:
    """A name that is the same for all names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _files(given: str, out: Path | None) -> list[tuple[Path, str]]:
    """Every image and video that a name stands for, in order, each with the name of its outputs.

    Earlier outputs in a folder below an input folder are skipped.

    Raises:
        ConfigError: If an image lies in the output folder, where predictions would be inputs the next time.
        MissingFileError: If there is no image.
    """
    root = Path(given)
    if root.is_dir():
        found = [(path, path.relative_to(root)) for path in sorted(root.rglob("*"))]
    elif root.is_file():
        found = [(root, Path(root.name))]
    else:
        found = [(Path(path), Path(Path(path).name)) for path in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
    files = [(path, str(name.with_suffix(""))) for path, name in found if _readable(path)]
    inside = [path for path, _ in files if out is not None and path.resolve().is_relative_to(out.resolve())]
    if own := [path for path in inside if not (root.is_dir() and _is_output(path))]:
        raise ConfigError(f"{own[0]} lies in --out {out}, where predictions would be inputs the next time")
    files = [(path, name) for path, name in files if path not in inside]
    if not files:
        raise MissingFileError(
            f"{given} names no image: expected a file, folder or glob of {' '.join((*PICTURES, *VIDEOS))}"
        )
    return files


def _is_output(path: Path) -> bool:
    """Whether an image is an output of an earlier call, which wrote a JSON file of its sample beside it."""
    return any(path.name.startswith(f"{about.stem}_") for about in path.parent.glob("*.json"))


def _readable(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURES + VIDEOS


def _matched(listed: list[list[tuple[Path, str]]], inputs: tuple[str, ...]) -> list[list[tuple[Path, str]]]:
    """Files of all inputs that belong together. Single files belong together whatever their names."""
    if all(len(files) == 1 for files in listed):
        return [[files[0] for files in listed]]
    names = [{name for _, name in files} for files in listed]
    for other, more in zip(inputs[1:], names[1:]):
        if names[0] != more:
            odd = sorted(names[0] ^ more)[0]
            raise ConfigError(f"{odd} is given for only one of {inputs[0]} and {other}: expected files of equal names")
    by_name = [{name: (path, name) for path, name in files} for files in listed]
    return [[files[name] for files in by_name] for _, name in listed[0]]


def _frames(source: Source, inputs: tuple[str, ...], max_pixels: int) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Names and inputs (1, 3, H, W) of a sample; several for a video."""
    videos = [is_video(file) for file in source.files]
    if not any(videos):
        yield source.name, tuple(read_image(file, max_pixels)[None] for file in source.files)
        return
    if not all(videos):
        raise ConfigError(f"{source.files[0]} belongs to {source.files[1]}: expected videos only, or images only")
    if len(source.files) < len(inputs):
        found = _windows(source.files[0], [OFFSETS[name] for name in inputs])
    else:
        found = enumerate(_together(source.files))
    for number, frames in found:
        yield f"{source.name}_{number:06d}", tuple(frame[None] for frame in frames)


def _together(files: Sequence[Path]) -> Iterator[tuple[Tensor, ...]]:
    """The frames of videos of the same length."""
    for frames in zip_longest(*(_video(file) for file in files)):
        if any(frame is None for frame in frames):
            raise DataError(f"{files[0]} and {files[1]} have different numbers of frames: cut the longer one")
        yield frames


def _windows(file: Path, offsets: Sequence[int]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The number of each frame that has neighbors at the offsets, and these frames. No others are in memory."""
    low, high = min(offsets), max(offsets)
    window: deque[Tensor] = deque(maxlen=high - low + 1)
    number = -1
    for number, frame in enumerate(_video(file)):
        window.append(frame)
        if len(window) == window.maxlen:
            yield number - high, tuple(window[offset - low] for offset in offsets)
    if number + 1 <= high - low:
        raise DataError(f"{file} holds {number + 1} frames, expected at least {high - low + 1}")


def _video(file: Path) -> Iterator[Tensor]:
    return (frame for _, frame in frame_source(str(file)).frames())
