"""The Scene Flow data sets: FlyingThings3D, Monkaa and Driving."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from sfumato.data.frames import DisparityMap, FlowMap, Frame, Frames, check_folder, check_found, check_split, existing
from sfumato.errors import DataError
from sfumato.tasks import Disparity, Flow

PASSES = ("frames_finalpass", "frames_finalpass_webp", "frames_cleanpass", "frames_cleanpass_webp")


class SceneFlow(Frames):
    """Rendered stereo videos with disparity and optical flow.

    The layout is that of the authors: ``frames_finalpass`` (or ``frames_cleanpass``; with ``_webp``), ``disparity`` and
    ``optical_flow`` beside each other, each with the same folders below, whose last is ``left`` or ``right``. The root
    is the folder that holds them. Of FlyingThings3D, ``train`` is TRAIN and ``val`` is TEST. Of Monkaa and Driving,
    ``train`` is all.

    A sample holds ``image``, ``right``, ``next`` where there is a next frame, and of those whose files exist
    ``disparity``, ``disparity_right``, ``flow`` and ``flow_back``; see :class:`~sfumato.data.Frames`.

    Args:
        root: The folder that holds ``frames_finalpass`` or ``frames_cleanpass``. The former is used if both exist.
        split: ``train``, or ``val`` if there is a folder TEST. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the folder does not exist, or the right view is missing.
        DataError: If it holds no frame.

    Source: Mayer et al. (2016), "A large dataset to train convolutional networks for disparity, optical flow, and scene
        flow estimation".
    Pitfall: Some frames of FlyingThings3D have disparities of hundreds of pixels, because objects come close to the
        camera.
    """

    known: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        folder = check_folder(root, "frames_finalpass or frames_cleanpass, disparity and optical_flow")
        place = next((folder / name for name in PASSES if (folder / name).is_dir()), None)
        if place is None:
            raise DataError(f"{folder} holds none of {', '.join(PASSES)}: name the folder that does")
        self.splits = self.known if (place / "TEST").is_dir() else ("train",)
        check_split(split, self.splits)
        parts = {"train": "TRAIN", "val": "TEST"} if (place / "TRAIN").is_dir() or len(self.splits) == 2 else {}
        files = [p for p in sorted((place / parts.get(split, "")).rglob("left/*")) if p.suffix in (".png", ".webp")]
        frames = [_frame(folder, place, path) for path in files]
        check_found(frames, place, "…/left/NNNN.png")
        super().__init__(frames, {"disparity": Disparity(192.0), "flow": Flow(60.0)}, size)


def _frame(folder: Path, place: Path, left: Path) -> Frame:
    number, scene = left.stem, left.parent.parent
    right = scene / "right" / left.name
    if not right.is_file():
        raise DataError(f"{right} does not exist, the right view of {left}: copy the data again")
    if not number.isdecimal():
        raise DataError(f"{left} is not named by the number of its frame")
    later = f"{int(number) + 1:0{len(number)}d}"
    pictures = {"image": left, "right": right}
    if (following := left.with_name(later + left.suffix)).is_file():
        pictures["next"] = following
    below = scene.relative_to(place)
    disparity, flow = folder / "disparity" / below, folder / "optical_flow" / below
    files = {
        "disparity": disparity / "left" / f"{number}.pfm",
        "disparity_right": disparity / "right" / f"{number}.pfm",
        "flow": flow / "into_future" / "left" / f"OpticalFlowIntoFuture_{number}_L.pfm",
        "flow_back": flow / "into_past" / "left" / f"OpticalFlowIntoPast_{later}_L.pfm",
    }
    kinds = {key: FlowMap if key.startswith("flow") else DisparityMap for key in files}
    maps = {key: kinds[key](path) for key, path in files.items() if existing(path)}
    if "next" not in pictures:
        maps = {key: each for key, each in maps.items() if not key.startswith("flow")}
    return Frame(f"{below.as_posix()}/{number}", pictures, maps)
