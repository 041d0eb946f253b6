"""The Middlebury stereo pairs of 2001 to 2021, and the Middlebury optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from sfumato.data.cameras import read_middlebury_camera
from sfumato.data.frames import (
    DisparityMap,
    FlowMap,
    Frame,
    Frames,
    check_folder,
    check_found,
    check_split,
    existing,
    required,
)
from sfumato.data.images import picture_size
from sfumato.tasks import BaseTask, Depth, Disparity, Flow

PICTURES = (".png", ".ppm", ".pgm")
_BYTES = 256  # numbers of a file with 8 bits; times the unit, the largest disparity that it can hold


class Middlebury(Frames):
    """Stereo pairs of the Middlebury benchmark, in the layouts of all years.

    Each folder below the root that holds a pair is a sample:

    - 2001 and 2003: ``im2``, ``im6``, ``disp2``, ``disp6``; of Tsukuba also ``scene1.row3.col3`` and others;
    - 2005 and 2006: ``view1``, ``view5``, ``disp1``, ``disp5``;
    - 2014, 2021 and the third evaluation: ``im0``, ``im1``, ``calib.txt``, ``disp0.pfm`` or ``disp0GT.pfm``.

    Names are those of the folders. A pair without a disparity map has no target. The data have no official split:
    ``train`` holds all pairs. Slices such as ``train[:50%]`` divide them.

    A sample holds ``image``, ``right``, ``disparity`` and, where the files exist, ``disparity_right``; with
    ``calib.txt`` also ``depth`` in meters and ``intrinsics``. See :class:`~sfumato.data.Frames`. Unknown disparities, 0
    or infinity in the files, are not valid. Points that the right view does not show are valid.

    Args:
        root: A folder of folders of pairs.
        split: ``train``. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the folder does not exist, or a view is missing.
        DataError: If it holds no pair.

    Source: Scharstein and Szeliski (2002); Scharstein and Szeliski (2003); Scharstein and Pal (2007); Hirschmüller and
        Scharstein (2007); Scharstein et al. (2014).
    """

    splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        folder = check_folder(root, "folders of Middlebury pairs")
        found = [each for path in (folder, *_folders(folder)) if (each := _pair(path, folder)) is not None]
        check_found([frame for frame, _ in found], folder, "folders with im2 and im6, view1 and view5, or im0 and im1")
        calibrated = all(frame.camera is not None for frame, _ in found)
        tasks: dict[str, BaseTask] = {"disparity": Disparity(max(largest for _, largest in found))}
        if calibrated:
            tasks["depth"] = Depth(0.2, 50.0)
        super().__init__([frame for frame, _ in found], tasks, size)
        self.lacking: Mapping[str, str] = (
            {} if calibrated else {"depth": "not every pair has a calib.txt, which meters need"}
        )


class MiddleburyFlow(Frames):
    """The optical flow of the Middlebury benchmark whose ground truth is public.

    The layouts are ``other-data/NAME/frame10.png``, ``frame11.png`` with ``other-gt-flow/NAME/flow10.flo``, and
    ``NAME1.png``, ``NAME2.png``, ``NAME.flo`` in one folder. ``train`` holds all pairs.

    Args:
        root: The folder.
        split: ``train``. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the folder does not exist, or a picture is missing.
        DataError: If it holds no pair.

    Source: Baker et al. (2011), "A database and evaluation methodology for optical flow".
    """

    splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        folder = check_folder(root, "other-data and other-gt-flow, or NAME1.png, NAME2.png and NAME.flo")
        frames = [
            _moving(path.parent.name, folder / "other-data" / path.parent.name / "frame10.png", "frame11.png", path)
            for path in sorted(folder.glob("other-gt-flow/*/flow10.flo"))
        ]
        frames += [
            _moving(path.stem, path.with_name(f"{path.stem}1.png"), f"{path.stem}2.png", path)
            for path in sorted(folder.glob("*.flo"))
            if path.with_name(f"{path.stem}1.png").is_file()
        ]
        check_found(frames, folder, "other-gt-flow/NAME/flow10.flo, or NAME.flo beside NAME1.png")
        super().__init__(frames, {"flow": Flow(5.0)}, size)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir() and not path.name.startswith("."))


def _pair(path: Path, root: Path) -> tuple[Frame, float] | None:
    """The pair in a folder and the largest disparity that its file can hold, or None if there is no pair."""
    name = path.relative_to(root).as_posix() if path != root else path.name
    if left := _picture(path, "im2"):
        return _numbered(name, path, left, ("im6", "disp2", "disp6"), _unit_of_2003(path, left))
    if left := _picture(path, "view1"):
        width = picture_size(left)[1]
        unit = 1.0 if width > 1000 else 0.5 if width > 550 else 1 / 3  # full, half or third size
        return _numbered(name, path, left, ("view5", "disp1", "disp5"), unit)
    if left := _picture(path, "scene1.row3.col3"):
        return _numbered(name, path, left, ("scene1.row3.col4", "truedisp.row3.col3", ""), 1 / 16)
    left, source = _picture(path, "im0"), path / "calib.txt"
    if left is None:
        return None
    if not source.is_file():  # the pair Map of 2001
        return _numbered(name, path, left, ("im1", "disp0", "disp1"), 1 / 8)
    camera, disparities = read_middlebury_camera(source)
    maps = {
        key: DisparityMap(file, occluded=existing(path / f"mask{n}nocc.png"))
        for n, key in enumerate(("disparity", "disparity_right"))
        if (file := existing(path / f"disp{n}.pfm", path / f"disp{n}GT.pfm"))
    }
    pictures = {"image": left, "right": _right(path, "im1", left)}
    return Frame(name, pictures, maps, camera, source), float(disparities or picture_size(left)[1] / 4)


def _numbered(name: str, path: Path, left: Path, others: tuple[str, str, str], unit: float) -> tuple[Frame, float]:
    """A pair whose disparities are stored with 8 bits. ``others`` names the right view and the two maps."""
    right, *maps = others
    found = {
        key: DisparityMap(file, unit)
        for key, stem in zip(("disparity", "disparity_right"), maps)
        if stem and (file := _picture(path, stem))
    }
    return Frame(name, {"image": left, "right": _right(path, right, left)}, found), _BYTES * unit


def _unit_of_2003(path: Path, left: Path) -> float:
    """The pixels that a stored 1 stands for: 1/8 in 2001, in 2003 1/4 at quarter size, 1/2 at half size, 1 at full."""
    name = path.name.lower()
    if name.startswith("tsukuba"):
        return 1 / 16
    return picture_size(left)[1] / 1800 if name.startswith(("cones", "teddy")) else 1 / 8


def _picture(path: Path, stem: str) -> Path | None:
    return existing(*(path / f"{stem}{ending}" for ending in PICTURES))


def _right(path: Path, stem: str, left: Path) -> Path:
    return _picture(path, stem) or required(path / f"{stem}{left.suffix}", left)


def _moving(name: str, first: Path, second: str, flow: Path) -> Frame:
    pictures = {"image": required(first, flow), "next": required(first.with_name(second), first)}
    return Frame(name, pictures, {"flow": FlowMap(flow)})
