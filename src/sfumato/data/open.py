"""A data set by its name, as the command line says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.data.camvid import CamVid
from sfumato.data.folder import Folder
from sfumato.data.scenes import SHIFTS, Scenes
from sfumato.data.sevenscenes import SevenScenes

Size = tuple[int, int] | None
FILES: dict[str, type[CamVid] | type[SevenScenes]] = {"camvid": CamVid, "sevenscenes": SevenScenes}
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


def load(
    name: str, root: str | Path = "", split: str = "train", size: Size = None
) -> CamVid | Folder | Scenes | SevenScenes:
    """Open a data set.

    Args:
        name: ``scenes``, ``camvid``, ``sevenscenes``, or the path of a folder that holds ``sfumato.yaml``.
        root: where ``camvid`` or ``sevenscenes`` lies; folders are looked for in it.
        split: ``train`` or ``val`` of all but folders, which name their own; of ``scenes`` also ``novel`` and the
            shifts, ``fog-1`` to ``fog-5`` and so on.
        size: (height, width) of images, pixels; None for the data's own.

    Returns:
        A data set.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: for an unknown name or split.
    """
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
