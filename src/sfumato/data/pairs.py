"""Find the target of each image: the file of the same stem in another folder."""

from __future__ import annotations

from pathlib import Path

from sfumato.data.images import PICTURES
from sfumato.data.target_files import TARGETS
from sfumato.errors import DataError, MissingFileError


def pairs(images: Path, targets: Path) -> list[tuple[Path, Path]]:
    """Each image of a folder and the target of the same file stem in another folder, sorted by name.

    Raises:
        MissingFileError: If a folder does not exist, or an image has no target.
        DataError: If a folder holds no file of an expected type, or two of one stem.
    """
    found, wanted = _by_stem(images, PICTURES), _by_stem(targets, TARGETS)
    missing = [path for stem, path in found.items() if stem not in wanted]
    if missing:
        raise MissingFileError(
            f"{missing[0]} has no label or depth: {len(missing)} of {len(found)} images have no file of the same stem "
            f"in {targets} (ending in {' '.join(TARGETS)}): add it, or take the image away"
        )
    return [(path, wanted[stem]) for stem, path in found.items()]


def _by_stem(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder: check the path")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder} is empty: expected files ending in {' '.join(endings)}")
    out: dict[str, Path] = {}
    for path in files:
        if path.stem in out:
            raise DataError(f"{path} and {out[path.stem].name} have the same stem: keep one of them")
        out[path.stem] = path
    return out
