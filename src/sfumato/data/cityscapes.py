"""Cityscapes: street scenes of fifty cities with 19 classes, instances, and depth from stereo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.center_offsets import center_entries
from sfumato.data.images import read_turned_image
from sfumato.data.stored import read_channel
from sfumato.data.transforms import resize, tensor
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.tasks import BaseTask, CenterOffsets, Depth, InverseDepth, Semantic

# The official ids that are evaluated, in the order of their train ids. All other ids from 0 to 33 are void.
CLASSES = {
    7: ("road", (128, 64, 128)),
    8: ("sidewalk", (244, 35, 232)),
    11: ("building", (70, 70, 70)),
    12: ("wall", (102, 102, 156)),
    13: ("fence", (190, 153, 153)),
    17: ("pole", (153, 153, 153)),
    19: ("traffic light", (250, 170, 30)),
    20: ("traffic sign", (220, 220, 0)),
    21: ("vegetation", (107, 142, 35)),
    22: ("terrain", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
    24: ("person", (220, 20, 60)),
    25: ("rider", (255, 0, 0)),
    26: ("car", (0, 0, 142)),
    27: ("truck", (0, 0, 70)),
    28: ("bus", (0, 60, 100)),
    31: ("train", (0, 80, 100)),
    32: ("motorcycle", (0, 0, 230)),
    33: ("bicycle", (119, 11, 32)),
}
IDS = 34
NATIVE = (1024, 2048)
FIRST_INSTANCE = 1000  # a smaller number in an instance file is a label id: stuff, or a crowd that was not divided
STEREO = Depth(1.0, 150.0)  # meters; at 150 m a pixel of disparity is 50 m
SKY = list(CLASSES).index(23)
SEMANTIC = Semantic(tuple(name for name, _ in CLASSES.values()), tuple(color for _, color in CLASSES.values()))
LAYOUT = "expected the folder that holds leftImg8bit and gtFine as https://www.cityscapes-dataset.com gives them"


class Cityscapes(Dataset[Sample]):
    """Cityscapes in its own layout, with the 19 classes that are evaluated.

    A sample holds ``name``; ``image`` (3, H, W) uint8; ``classes`` (H, W) int64 train ids and ``classes_valid`` (H, W)
    bool; ``instances`` (H, W) int64, which is 0 where there is none, else 1000 × label id + number, as in the files;
    ``centers`` (2, H, W) px, from a pixel to the centroid of the visible part of its instance, where ``centers_valid``.
    With disparity it also holds ``disparity`` (1, H, W) px; ``depth`` (1, H, W) meters, baseline · focal length /
    disparity; ``inverse_depth`` (1, H, W) 1/m, which is 0 and valid in the sky; their ``…_valid``; ``intrinsics``
    (3, 3) px.

    Crowds that were not divided have a class and the instance 0. Caravans and trailers are void and no instances.

    Args:
        root: Folder that holds ``leftImg8bit`` and ``gtFine``; for depth also ``disparity`` and ``camera``.
        split: ``train``, ``val`` or ``test``, whose labels are all void. Default ``train``.
        size: (height, width) to resize to, pixels. None for the 1024 × 2048 of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder or a file is missing.
        DataError: If a folder is empty, or a file holds an unknown id.

    Source: Cordts et al. (2016), "The Cityscapes dataset"; ids and colors from its scripts.
    Pitfall: Disparity comes from semi-global matching. It is missing on sky and glass, and wrong at thin objects.
    """

    inputs: tuple[str, ...] = ("image",)

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    things: ClassVar[tuple[int, ...]] = tuple(range(11, 19))
    needs_root: ClassVar[bool] = True

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ConfigError(f"split is {split!r}, expected one of {list(self.splits)}")
        self.root, self.split, self.size = Path(root), split, size
        folder = self.root / "leftImg8bit" / split
        if not folder.is_dir():
            raise MissingFileError(f"{folder} is not a folder: {LAYOUT}")
        self._images = sorted(folder.glob("*/*_leftImg8bit.png"))
        if not self._images:
            raise DataError(f"{folder} holds no CITY/*_leftImg8bit.png: {LAYOUT}")
        self.names = [path.name.removesuffix("_leftImg8bit.png") for path in self._images]
        self._stereo = (self.root / "disparity" / split).is_dir()
        self.tasks: dict[str, BaseTask] = {"classes": SEMANTIC}
        if self._stereo:
            self.tasks |= {"depth": STEREO, "inverse_depth": InverseDepth(1 / STEREO.minimum, "1/m")}
        self.tasks["centers"] = CenterOffsets((size or NATIVE)[1] / 6)
        self._kinds = ("gtFine_labelIds.png", "gtFine_instanceIds.png")
        self._kinds += ("disparity.png", "camera.json") if self._stereo else ()
        for kind in self._kinds:
            self._check_all_have(kind)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image, orientation = read_turned_image(path)
        fit = image.shape[1:], orientation
        classes, valid = _classes(self._beside(path, "gtFine_labelIds.png"), *fit)
        instances = _instances(self._beside(path, "gtFine_instanceIds.png"), *fit)
        sample: Sample = {"name": self.names[index], "image": image}
        sample |= {"classes": classes, "classes_valid": valid, "instances": instances}
        if self._stereo:
            sky = valid & (classes == SKY)
            files = self._beside(path, "disparity.png"), self._beside(path, "camera.json")
            sample |= _stereo(*files, sky, orientation)
        sample = resize(sample, self.size)
        return sample | center_entries(tensor(sample, "instances"))

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and the files that belong to it."""
        path = self._images[index]
        return path, *(self._beside(path, kind) for kind in self._kinds)

    def _beside(self, image: Path, kind: str) -> Path:
        """The file of a kind that belongs to an image."""
        folder = self.root / kind.partition("_")[0].partition(".")[0] / self.split / image.parent.name
        return folder / image.name.replace("leftImg8bit.png", kind)

    def _check_all_have(self, kind: str) -> None:
        missing = [path for path in self._images if not self._beside(path, kind).is_file()]
        if missing:
            raise MissingFileError(
                f"{self._beside(missing[0], kind)} does not exist, and {len(missing)} of {len(self._images)} images "
                f"have no {kind}: unpack the archive again, or take the images away"
            )


def _classes(path: Path, shape: tuple[int, ...], orientation: int) -> tuple[Tensor, Tensor]:
    """Train ids (H, W), 0 where not valid; valid (H, W)."""
    table = torch.full((IDS,), -1)
    table[list(CLASSES)] = torch.arange(len(CLASSES))
    ids = read_channel(path, shape, orientation)
    _refuse(path, ids[ids >= IDS], f"the official label ids 0 to {IDS - 1}")
    found = table[torch.from_numpy(ids.astype(np.int64))]
    return found.clamp_min(0), found >= 0


def _instances(path: Path, shape: tuple[int, ...], orientation: int) -> Tensor:
    """Ids (H, W) of the instances that are evaluated, 0 elsewhere."""
    ids = read_channel(path, shape, orientation).astype(np.int64)
    label = np.where(ids >= FIRST_INSTANCE, ids // FIRST_INSTANCE, ids)
    _refuse(path, ids[label >= IDS], f"label ids 0 to {IDS - 1}, or {FIRST_INSTANCE} × a label id + a number")
    return torch.from_numpy(np.where((ids >= FIRST_INSTANCE) & np.isin(label, list(CLASSES)), ids, 0))


def _refuse(path: Path, unknown: np.ndarray, expected: str) -> None:
    if unknown.size:
        raise DataError(
            f"{path} holds {unknown.max()}, expected {expected}: unpack the file from gtFine_trainvaltest.zip "
            "again, because ids of another convention cannot be read"
        )


def _stereo(disparity: Path, camera: Path, sky: Tensor, orientation: int) -> dict[str, Tensor]:
    """Disparity, depth and its inverse, their masks, intrinsics."""
    fx, fy, u, v, baseline = _camera(camera)
    counts = torch.from_numpy(read_channel(disparity, tuple(sky.shape), orientation).astype(np.float32))
    shift = ((counts - 1) / 256).clamp_min(0)
    inverse = shift / (fx * baseline)
    depth = 1 / inverse.clamp_min(1e-6)
    near = (counts > 0) & (depth >= STEREO.minimum) & (depth <= STEREO.maximum)
    seen = (counts > 0) & (depth >= STEREO.minimum)
    return {
        "disparity": shift[None],
        "disparity_valid": counts > 0,
        "depth": depth.where(near, 0)[None],
        "depth_valid": near,
        "inverse_depth": inverse.where(seen & ~sky, 0)[None],
        "inverse_depth_valid": seen | sky,
        "intrinsics": torch.tensor([[fx, 0, u], [0, fy, v], [0, 0, 1]]),
    }


def _camera(path: Path) -> tuple[float, ...]:
    """Focal lengths and principal point, px, and baseline, meters."""
    try:
        camera = json.loads(path.read_text())
        numbers = [float(camera["intrinsic"][key]) for key in ("fx", "fy", "u0", "v0")]
        numbers.append(float(camera["extrinsic"]["baseline"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} does not give intrinsic fx, fy, u0, v0 and extrinsic baseline ({reason}): unpack camera again"
        ) from error
    if not min(numbers[0], numbers[1], numbers[4]) > 0 or not np.isfinite(numbers).all():
        raise DataError(f"{path} gives fx, fy, baseline {numbers[0]}, {numbers[1]}, {numbers[4]}: unpack camera again")
    return tuple(numbers)
