"""A data set by its name, as the command line says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from sfumato.data.camvid import CamVid
from sfumato.data.cityscapes import Cityscapes
from sfumato.data.folder import Folder
from sfumato.data.nyuv2 import NYUv2
from sfumato.data.scenes import SHIFTS, Scenes
from sfumato.data.sevenscenes import SevenScenes

Size = tuple[int, int] | None
FILES: dict[str, type[CamVid] | type[Cityscapes] | type[NYUv2] | type[SevenScenes]] = {
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "nyuv2": NYUv2,
    "sevenscenes": SevenScenes,
}
# The unseen shapes and the shifts befall the very scenes of val, so that whatever changes is theirs.
SCENES: dict[str, dict[str, Any]] = {
    "train": {"count": 512, "seed": 0},
    "val": {"count": 100, "seed": 1},
    "novel": {"count": 100, "seed": 1, "novel": True},
    **{
        f"{shift}-{n}": {"count": 100, "seed": 1, "shift": shift, "severity": n}
        for shift in SHIFTS
        for n in range(1, 6)
    },
}


class DatasetSlice(Dataset[dict[str, Any]]):
    """Consecutive images of a data set, of which they keep all else.

    Args:
        whole: the data set.
        first: share of its images that come before, in [0, 1).
        last: share up to which they go, in (0, 1].

    Raises:
        ValueError: if no image lies between.

    Pitfall: frames of a video resemble their neighbors, so parts are blocks and never drawn at random.
    """

    def __init__(self, whole: Any, first: float, last: float) -> None:
        start, end = round(first * len(whole)), round(last * len(whole))
        if not 0 <= start < end <= len(whole):
            raise ValueError(f"{first:.0%} to {last:.0%} of {len(whole)} images holds none: ask for a larger part")
        self.whole, self.images = whole, range(start, end)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.whole[self.images[index]]

    @property
    def tasks(self) -> dict[str, Any]:
        """Those of the whole."""
        return self.whole.tasks

    @property
    def things(self) -> tuple[int, ...]:
        """Those of the whole."""
        return getattr(self.whole, "things", ())


def load(
    name: str, root: str | Path = "", split: str = "train", size: Size = None
) -> CamVid | Cityscapes | Folder | NYUv2 | DatasetSlice | Scenes | SevenScenes:
    """Open a data set.

    Args:
        name: ``scenes``, ``camvid``, ``cityscapes``, ``nyuv2``, ``sevenscenes``, or the path of a folder that holds
            ``sfumato.yaml``.
        root: where the files lie; folders are looked for in it.
        split: ``train`` or ``val`` of all but folders, which name their own; of ``camvid``, ``cityscapes`` and
            ``nyuv2`` also ``test``; of ``scenes`` also ``novel`` and the shifts, ``fog-1`` to ``fog-5`` and so on.
            ``val[:50%]`` is the first half of it, ``val[50%:]`` the other.
        size: (height, width) of images, pixels; None for the data's own.

    Returns:
        A data set.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: for an unknown name or split.
    """
    if part := re.fullmatch(r"(.+)\[(?:(\d+)%)?:(?:(\d+)%)?\]", split):
        first, last = int(part[2] or 0) / 100, int(part[3] or 100) / 100
        return DatasetSlice(load(name, root, part[1], size), first, last)
    if name == "scenes":
        if split not in SCENES:
            raise ValueError(f"split of scenes is {split!r}, expected one of {', '.join(SCENES)}")
        return Scenes(**SCENES[split]) if size is None else Scenes(size=size, **SCENES[split])
    if name in FILES:
        if not str(root):
            raise ValueError(f"{name} lies in files: say where with --root FOLDER")
        return FILES[name](Path(root), split, size)
    path = Path(root) / name
    if not path.exists():
        raise ValueError(f"data is {name!r}, expected scenes, {', '.join(FILES)} or a folder that holds sfumato.yaml")
    return Folder(path, split, size)
