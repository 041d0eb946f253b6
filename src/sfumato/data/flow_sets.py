"""Data sets of optical flow: FlyingChairs and MPI Sintel."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from sfumato.data.frames import FlowMap, Frame, Frames, check_folder, check_found, check_split, existing, required
from sfumato.errors import DataError
from sfumato.tasks import Flow


class FlyingChairs(Frames):
    """FlyingChairs: pictures of chairs that move over photographs.

    The layouts are ``NUMBER_img1.ppm``, ``NUMBER_img2.ppm``, ``NUMBER_flow.flo``, in the root or its folder ``data``,
    and ``NUMBER-img0.ppm``, ``NUMBER-img1.ppm``, ``NUMBER-gt.flo``. Where the file ``FlyingChairs_train_val.txt``
    exists, it says by 1 and 2 which samples are ``train`` and ``val``. Else ``train`` holds all of them, and slices
    such as ``train[:80%]`` divide them.

    Args:
        root: The folder.
        split: ``train``, or ``val`` if the file of the split exists. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the folder does not exist, or a picture is missing.
        DataError: If it holds no sample, or the file of the split does not fit.

    Source: Dosovitskiy et al. (2015), "FlowNet: Learning optical flow with convolutional networks".
    """

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        folder = check_folder(root, "NUMBER_img1.ppm, NUMBER_img2.ppm and NUMBER_flow.flo")
        files = sorted(path for place in (folder, folder / "data") for path in place.glob("*_flow.flo"))
        frames = [_chairs(path, path.name.removesuffix("_flow.flo"), "_img1.ppm", "_img2.ppm") for path in files]
        if not frames:
            files = sorted(folder.glob("*-gt.flo"))
            frames = [_chairs(path, path.name.removesuffix("-gt.flo"), "-img0.ppm", "-img1.ppm") for path in files]
        check_found(frames, folder, "NUMBER_flow.flo")
        listed = existing(*(place / "FlyingChairs_train_val.txt" for place in (folder, folder / "data", folder.parent)))
        self.splits = ("train", "val") if listed else ("train",)
        check_split(split, self.splits)
        if listed:
            marks = listed.read_text(encoding="utf-8", errors="replace").split()
            if len(marks) != len(frames) or not set(marks) <= {"1", "2"}:
                raise DataError(
                    f"{listed} holds {len(marks)} marks, expected a 1 or a 2 for each of the {len(frames)} samples"
                )
            frames = [frame for frame, mark in zip(frames, marks) if mark == ("1" if split == "train" else "2")]
        super().__init__(frames, {"flow": Flow(40.0)}, size)


class Sintel(Frames):
    """MPI Sintel: scenes of an animated film.

    The layout is ``training/final/SCENE/frame_NNNN.png`` with ``flow``, ``occlusions`` and ``invalid`` beside
    ``final``. Occlusions and invalid pixels are read where their folders exist. The data have no official validation
    split. Frames are in the order of their scenes, so slices such as ``train[:80%]`` divide them by scenes but for one.

    Args:
        root: The folder that holds ``training``.
        split: ``train``, the final pass, or ``clean``, the same frames without blur and fog. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder does not exist, or a frame between others is missing.
        DataError: If there is no frame.

    Source: Butler et al. (2012), "A naturalistic open source movie for optical flow evaluation".
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "clean")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        folder = check_folder(Path(root) / "training", "the folders final, clean and flow of MPI Sintel")
        passed = "clean" if split == "clean" else "final"
        files = sorted(folder.glob("flow/*/frame_*.flo"))
        frames = [_of_a_film(folder, passed, path.parent.name, path.stem) for path in files]
        check_found(frames, folder, "flow/SCENE/frame_NNNN.flo")
        super().__init__(frames, {"flow": Flow(40.0)}, size)


def _chairs(flow: Path, number: str, first: str, second: str) -> Frame:
    pictures = {
        "image": required(flow.with_name(number + first), flow),
        "next": required(flow.with_name(number + second), flow),
    }
    return Frame(number, pictures, {"flow": FlowMap(flow)})


def _of_a_film(folder: Path, passed: str, scene: str, stem: str) -> Frame:
    number = stem.removeprefix("frame_")
    if not number.isdecimal():
        raise DataError(f"{folder / 'flow' / scene / stem}.flo is not named frame_NNNN.flo")
    flow, later = folder / "flow" / scene / f"{stem}.flo", f"frame_{int(number) + 1:0{len(number)}d}.png"
    pictures = {
        "image": required(folder / passed / scene / f"{stem}.png", flow),
        "next": required(folder / passed / scene / later, flow),
    }
    masks = (existing(folder / kind / scene / f"{stem}.png") for kind in ("occlusions", "invalid"))
    return Frame(f"{scene}/{stem}", pictures, {"flow": FlowMap(flow, None, *masks)})
