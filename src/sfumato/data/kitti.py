"""KITTI: stereo and optical flow of 2012 and 2015, and the raw videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sfumato.data.cameras import read_kitti_camera
from sfumato.data.frames import (
    DisparityMap,
    FlowMap,
    Frame,
    Frames,
    check_folder,
    check_found,
    check_split,
    existing,
    frame_number,
    neighbors,
    required,
)
from sfumato.errors import DataError
from sfumato.tasks import BaseTask, Depth, Disparity, Flow

SPLITS = ("train", "val", "all", "test")
DEPTH = Depth(1.0, 120.0)


@dataclass(frozen=True)
class _Layout:
    """Names of folders and calibration entries in one year."""

    left: str
    right: str
    disparity: tuple[str, str]  # of all points, of visible points
    calibration: str
    projections: tuple[str, str]


_LAYOUTS = {
    2012: _Layout("colored_0", "colored_1", ("disp_occ", "disp_noc"), "calib", ("P2", "P3")),
    2015: _Layout("image_2", "image_3", ("disp_occ_0", "disp_noc_0"), "calib_cam_to_cam", ("P_rect_02", "P_rect_03")),
}


class _Benchmark(Frames):
    year: ClassVar[int]
    splits: ClassVar[tuple[str, ...]] = SPLITS

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        layout = _LAYOUTS[self.year]
        part = "testing" if split == "test" else "training"
        folder = check_folder(Path(root) / part, f"{layout.left} and {layout.right} of KITTI {self.year}")
        numbers = sorted(path.name.removesuffix("_10.png") for path in folder.glob(f"{layout.left}/*_10.png"))
        held = [int(number) >= 160 for number in numbers if number.isdecimal()]
        if len(held) != len(numbers):
            raise DataError(f"{folder / layout.left} holds a file that is not named NNNNNN_10.png")
        chosen = [n for n, late in zip(numbers, held) if split in ("all", "test") or late == (split == "val")]
        frames = [_sample(folder, layout, number) for number in chosen]
        check_found(frames, folder, f"{layout.left}/NNNNNN_10.png in split {split}")
        calibrated = all(frame.camera is not None for frame in frames)
        tasks: dict[str, BaseTask] = {"disparity": Disparity(192.0), "flow": Flow(100.0)}
        super().__init__(frames, {**tasks, "depth": DEPTH} if calibrated else tasks, size)
        needed = f"{layout.calibration}/NNNNNN.txt does not exist for every sample, and meters need it"
        self.lacking: Mapping[str, str] = {} if calibrated else {"depth": needed}


class KITTI2012(_Benchmark):
    """KITTI stereo and optical flow of 2012: street scenes with sparse ground truth of a laser scanner.

    The layout is that of the authors: ``training/colored_0``, ``colored_1``, ``disp_occ``, ``disp_noc``, ``flow_occ``,
    ``flow_noc`` and ``calib``. A sample holds ``image``, ``right`` and ``next``, ``disparity`` and ``flow`` with
    ``…_valid``, which includes occluded points, and ``…_occluded``; with a calibration also ``intrinsics``, ``depth``
    in meters and poses; see :class:`~sfumato.data.Frames`.

    Args:
        root: The folder that holds ``training``.
        split: ``train`` (samples 0 to 159), ``val`` (from 160 on), ``all``, or ``test``, which has no ground truth. The
            authors have no validation split. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder or a view is missing.
        DataError: If the split has no sample, or a file cannot be read.

    Source: Geiger, Lenz and Urtasun (2012), "Are we ready for autonomous driving? The KITTI vision benchmark suite".
    """

    year: ClassVar[int] = 2012


class KITTI2015(_Benchmark):
    """KITTI stereo and optical flow of 2015: street scenes with moving cars.

    The layout is that of the authors: ``training/image_2``, ``image_3``, ``disp_occ_0``, ``disp_noc_0``, ``flow_occ``,
    ``flow_noc`` and ``calib_cam_to_cam``. All else is as in :class:`KITTI2012`.

    Args:
        root: The folder that holds ``training``.
        split: As in :class:`KITTI2012`.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder or a view is missing.
        DataError: If the split has no sample, or a file cannot be read.

    Source: Menze and Geiger (2015), "Object scene flow for autonomous vehicles".
    """

    year: ClassVar[int] = 2015


class KITTIRaw(Frames):
    """The raw videos of KITTI, rectified, for training without labels.

    The layout is ``DATE/DATE_drive_NNNN_sync/image_02/data/NNNNNNNNNN.png`` and ``image_03`` beside it, with
    ``DATE/calib_cam_to_cam.txt``. A sample holds ``image``, ``right``, ``previous``, ``next``, ``intrinsics`` and the
    poses ``world_from_camera`` and ``world_from_right`` of the pair. The motion between frames is not known, and there
    is no target. The first and the last frame of a drive are left out, because they lack a neighbor.

    Args:
        root: The folder that holds the dates.
        split: ``train`` (all drives but the last) or ``val`` (the last drive); of one drive ``train`` alone. Default
            ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.
        gap: Number of frames from ``image`` to ``next``, and from ``previous`` to ``image``, ≥ 1. Default 1.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder, a calibration or the right view is missing, or a frame between others.
        DataError: If there is no drive.

    Source: Geiger et al. (2013), "Vision meets robotics: The KITTI dataset".
    """

    def __init__(
        self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None, gap: int = 1
    ) -> None:
        folder = check_folder(root, "DATE/DATE_drive_NNNN_sync/image_02/data")
        drives = sorted(path for path in folder.glob("*/*_sync") if (path / "image_02" / "data").is_dir())
        if not drives:
            raise DataError(f"{folder} holds no drive: expected DATE/DATE_drive_NNNN_sync/image_02/data")
        self.splits = ("train", "val") if len(drives) > 1 else ("train",)
        check_split(split, self.splits)
        chosen = drives if len(drives) == 1 else drives[-1:] if split == "val" else drives[:-1]
        frames = [frame for drive in chosen for frame in _drive(drive, gap)]
        check_found(frames, folder, f"drives of at least {2 * gap + 1} frames")
        super().__init__(frames, {"disparity": Disparity(192.0), "flow": Flow(100.0), "depth": DEPTH}, size)


def _sample(folder: Path, layout: _Layout, number: str) -> Frame:
    left = folder / layout.left / f"{number}_10.png"
    pictures = {"image": left, "right": required(folder / layout.right / left.name, left)}
    if later := existing(left.with_name(f"{number}_11.png")):
        pictures["next"] = later
    maps: dict[str, DisparityMap | FlowMap] = {}
    everywhere, visible = (existing(folder / name / left.name) for name in layout.disparity)
    if known := everywhere or visible:
        maps["disparity"] = DisparityMap(known, visible=visible if everywhere else None)
    everywhere, visible = (existing(folder / name / left.name) for name in ("flow_occ", "flow_noc"))
    if "next" in pictures and (known := everywhere or visible):
        maps["flow"] = FlowMap(known, visible=visible if everywhere else None)
    source = existing(folder / layout.calibration / f"{number}.txt")
    camera = read_kitti_camera(source, *layout.projections) if source else None
    return Frame(number, pictures, maps, camera, source or Path())


def _drive(drive: Path, gap: int) -> list[Frame]:
    """The frames of a drive that have both neighbors."""
    files = sorted((drive / "image_02" / "data").glob("*.*"), key=frame_number)
    source = drive.parent / "calib_cam_to_cam.txt"
    camera = read_kitti_camera(source, "P_rect_02", "P_rect_03")
    frames = []
    for before, path, after in neighbors(files, gap):
        right = required(drive / "image_03" / "data" / path.name, path)
        pictures = {"image": path, "right": right, "previous": before, "next": after}
        frames.append(Frame(f"{drive.name}/{path.stem}", pictures, {}, camera, source))
    return frames
