"""The frames of a video file, of a folder or glob of pictures, or of a camera, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data.frames import frame_number, neighbors
from sfumato.data.images import MAX_PIXELS, PICTURES, check_pixels, read_image
from sfumato.errors import DataError, MissingDependencyError, MissingFileError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
USUAL_RATE = 10.0  # frames per second of the video that is written, where the frames have no rate

Note = Callable[[str], object]


@dataclass(frozen=True)
class FrameSource:
    """Where frames come from.

    Args:
        given: A video file, a folder or glob of numbered pictures, or the number of a camera.
        files: The pictures in order. Empty for a video file or a camera.
        max_pixels: The largest number of pixels of a picture. Default 64 million.

    Pitfall: A decoder of videos conceals or drops frames that are damaged. Where the file says how many frames it has,
    lost ones are noticed.
    """

    given: str
    files: tuple[Path, ...] = ()
    max_pixels: int = MAX_PIXELS

    @property
    def is_camera(self) -> bool:
        """Whether it is a camera, which has no end."""
        return is_camera(self.given)

    @property
    def name(self) -> str:
        """The name of its outputs: that of the file or folder, or ``camera0``."""
        if self.is_camera:
            return f"camera{self.given}"
        path = self.files[0].parent if self.files and not Path(self.given).is_file() else Path(self.given)
        return path.resolve().name if self.files and path.is_dir() else path.stem

    @property
    def rate(self) -> float:
        """Frames per second; 10 where it is not known."""
        if self.files:
            return USUAL_RATE
        with _captured(self.given) as capture:
            return _property(capture, "CAP_PROP_FPS") or USUAL_RATE

    def frames(self, note: Note | None = None) -> Iterator[tuple[int, Tensor]]:
        """The numbers of the frames, from 0, and the frames (3, H, W).

        Args:
            note: Called with one sentence about each frame that cannot be read, which is left out. None to refuse such
                a picture.

        Raises:
            DataError: If no frame can be read, or a picture cannot be and there is no ``note``.
        """
        found = -1
        for found, frame in self._pictures(note) if self.files else self._captures(note):
            yield found, frame
        if found < 0:
            raise DataError(f"{self.given} holds no frame that can be read: convert it, or give a folder of images")

    def _pictures(self, note: Note | None) -> Iterator[tuple[int, Tensor]]:
        for number, path in enumerate(self.files):
            try:
                frame = read_image(path, self.max_pixels)
            except DataError as error:
                if note is None:
                    raise
                note(f"frame {number} is left out: {error}")
                continue
            yield number, frame

    def _captures(self, note: Note | None) -> Iterator[tuple[int, Tensor]]:
        with _captured(self.given) as capture:
            known, number = int(_property(capture, "CAP_PROP_FRAME_COUNT")), 0
            read, frame = capture.read()
            while read:
                check_pixels(Path(self.given), frame.shape[0], frame.shape[1], self.max_pixels)
                yield number, torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)
                number += 1
                read, frame = capture.read()
            if 0 < number < known and note is not None:  # some formats only estimate it, so nothing is refused
                note(f"{number} frames of {self.given} were read, and it says that it has {known}: some are damaged")


def _property(capture: Any, name: str) -> float:
    import cv2

    found = float(capture.get(getattr(cv2, name)))
    return found if 0 < found < 1e9 else 0.0


@contextmanager
def _captured(given: str) -> Iterator[Any]:  # untyped: the stubs of OpenCV lack its exceptions
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(f"{given} is a video: pip install 'sfumato[video]' to read it") from error
    capture: Any = cv2.VideoCapture(int(given) if is_camera(given) else given)
    try:
        if is_camera(given) and not capture.isOpened():
            raise DataError(f"there is no camera {given}, or another program uses it: expected its number, from 0")
        yield capture
    finally:
        capture.release()


def is_camera(given: str) -> bool:
    """Whether a name is the number of a camera: digits, and no file or folder of this name."""
    return given.isascii() and given.isdecimal() and not Path(given).exists()


def is_video(file: Path) -> bool:
    """Whether a file is a video, by its ending."""
    return file.suffix.lower() in VIDEOS


def frame_source(given: str, max_pixels: int = MAX_PIXELS) -> FrameSource:
    """The frames that a name stands for.

    Args:
        given: A video file, a folder or glob of numbered pictures, or the number of a camera.
        max_pixels: The largest number of pixels of a picture. Default 64 million.

    Raises:
        MissingFileError: If there is no such video, folder or picture, or frames between others are missing.
        DataError: If names do not count the frames, or they lie in several folders.
    """
    if is_camera(given):
        return FrameSource(given, (), max_pixels)
    if is_video(Path(given)):
        if not Path(given).is_file():
            raise MissingFileError(f"{given} does not exist: expected a video")
        return FrameSource(given, (), max_pixels)
    return FrameSource(given, tuple(files_in_time(given)), max_pixels)


def files_in_time(given: str) -> list[Path]:
    """The pictures of a folder or a glob in the order of the numbers in their names, none missing.

    Raises:
        MissingFileError: If there is no picture, or frames between others are missing.
        DataError: If names do not count the frames, or they lie in several folders.
    """
    from glob import glob

    root = Path(given)
    found = root.rglob("*") if root.is_dir() else [Path(path) for path in glob(given, recursive=True)]  # noqa: PTH207
    files = [path for path in found if path.is_file() and path.suffix.lower() in PICTURES]
    if not files:
        raise MissingFileError(
            f"{given} names no frame: expected a folder or glob of numbered {' '.join(PICTURES)}, a video "
            f"({' '.join(VIDEOS)}) or the number of a camera"
        )
    files.sort(key=frame_number)
    if len({path.parent for path in files}) > 1:
        raise DataError(f"{given} names frames in several folders: expected those of one video")
    neighbors(files, 1)  # checks that none is missing
    return files
