"""Find the files that belong together: by the file stem, by a pattern, or by a list."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.data.images import PICTURES
from sfumato.data.motion_files import DISPARITIES, FLOWS
from sfumato.data.target_files import TARGETS
from sfumato.errors import DataError, MissingFileError

LARGEST_LIST = 1 << 26  # bytes
_ENDINGS = {"right": PICTURES, "next": PICTURES, "disparity": DISPARITIES, "flow": FLOWS}


@dataclass(frozen=True)
class Rows:
    """Images and their targets, in order.

    Args:
        names: The name of each image, each once.
        images: The image files.
        targets: For each kind of target the files of each image, one or several.
        missing: A line for each file that was not found. Its image is left out.
    """

    names: list[str] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    targets: dict[str, list[tuple[Path, ...]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def complete(self) -> Rows:
        """The same rows.

        Raises:
            MissingFileError: If a file is missing.
        """
        if self.missing:
            more = f" ({len(self.missing)} such files; `sfumato check` lists them)" if len(self.missing) > 1 else ""
            raise MissingFileError(f"{self.missing[0]}{more}: add it, or take the image away")
        return self


def pairs(images: Path, targets: Path) -> list[tuple[Path, Path]]:
    """Each image of a folder and the target of the same file stem in another folder, sorted by name.

    Raises:
        MissingFileError: If a folder does not exist, or an image has no target.
        DataError: If a folder holds no file of an expected type, or two of one stem.
    """
    rows = find_rows(Path(), str(images), {"label or depth": (str(targets),)}).complete()
    return [(image, files[0]) for image, files in zip(rows.images, rows.targets["label or depth"])]


def find_rows(base: Path, images: str, targets: Mapping[str, Sequence[str]]) -> Rows:
    """Images and their targets in folders, or of patterns.

    Files of folders belong together if they have the same stem. A pattern such as ``train/*_manual1.gif`` has one
    ``*``. What it stands for is compared with that of other patterns, or with the stems of a folder.

    Args:
        base: The folder that relative places begin at.
        images: Folder or pattern of the images.
        targets: For each kind of target its folders or patterns, one or several.

    Raises:
        MissingFileError: If a folder does not exist.
        DataError: If a place holds no file of an expected type, or two that belong to one image.
    """
    found = _files(base, images, PICTURES)
    endings = {kind: _ENDINGS.get(kind, TARGETS) for kind in targets}
    wanted = {kind: [_files(base, place, endings[kind]) for place in places] for kind, places in targets.items()}
    rows = Rows(targets={kind: [] for kind in targets})
    for name, image in found.items():
        lacking = [
            f"{image} has no {kind} in {base / place} (ending in {' '.join(endings[kind])})"
            for kind, places in targets.items()
            for place, files in zip(places, wanted[kind])
            if name not in files
        ]
        rows.missing.extend(lacking)
        if not lacking:
            _add(rows, name, image, {kind: tuple(files[name] for files in wanted[kind]) for kind in targets})
    return rows


def listed_rows(base: Path, place: str, kinds: Sequence[str]) -> Rows:
    """Images and their targets, one image in each line of a text file.

    Names are separated by tabs or, in lines without a tab, by spaces. Empty lines and lines that begin with ``#`` are
    passed over.

    Args:
        base: The folder that relative paths begin at.
        place: The text file.
        kinds: The kinds of targets that follow the image in a line.

    Raises:
        MissingFileError: If there is no such text file.
        DataError: If it cannot be read, lists nothing, or a line has another number of names.
    """
    path = base / place
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).splitlines(), 1)]
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    expected = " ".join(("image", *kinds))
    if not entries:
        raise DataError(f"{path} lists no image: expected lines of `{expected}`")
    rows, taken = Rows(targets={kind: [] for kind in kinds}), set[str]()
    found = [(number, line.split("\t") if "\t" in line else line.split()) for number, line in entries]
    once = len({Path(words[0]).stem for _, words in found}) == len(found)
    for number, words in found:
        where = f"{path}, line {number}"
        if len(words) != 1 + len(kinds):
            raise DataError(f"{where}, holds {len(words)} names, expected `{expected}`")
        name = Path(words[0]).stem if once else str(Path(words[0]).with_suffix(""))
        if name in taken:
            raise DataError(f"{where}, names {words[0]} again: list each image once")
        taken.add(name)
        files = [base / word for word in words]
        for file, endings in zip(files, (PICTURES, *(_ENDINGS.get(kind, TARGETS) for kind in kinds))):
            if file.suffix.lower() not in endings:
                raise DataError(f"{where}: {file} does not end in {' '.join(endings)}")
        lacking = [f"{where}: {file} does not exist" for file in files if not file.exists()]
        rows.missing.extend(lacking)
        if not lacking:
            _add(rows, name, files[0], {kind: (file,) for kind, file in zip(kinds, files[1:])})
    return rows


def _add(rows: Rows, name: str, image: Path, targets: Mapping[str, tuple[Path, ...]]) -> None:
    rows.names.append(name)
    rows.images.append(image)
    for kind, files in targets.items():
        rows.targets[kind].append(files)


def _files(base: Path, place: str, endings: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by their stems, or of a pattern by what its ``*`` stands for, in order."""
    whole = base / place
    if "*" not in place:
        if not whole.is_dir():
            raise MissingFileError(f"{whole} is not a folder: check the path")
        named = [(path.stem, path) for path in whole.iterdir()]
        empty, same = f"{whole} is empty", "have the same stem"
    else:
        if place.count("*") != 1:
            raise DataError(f"{place} has several *, expected one, such as train/*_labels.png")
        start, _, end = whole.as_posix().partition("*")
        pattern = re.compile(f"{re.escape(start)}([^/]*){re.escape(end)}")
        paths = map(Path, glob.glob(f"{glob.escape(start)}*{glob.escape(end)}"))  # noqa: PTH207  # one star, anywhere
        named = [(match[1], path) for path in paths if (match := pattern.fullmatch(path.as_posix()))]
        empty, same = f"{whole} stands for no file", "belong to the same image"
    usable = [(n, p) for n, p in named if p.suffix.lower() in endings and not p.name.startswith(".") and not p.is_dir()]
    if not usable:
        raise DataError(f"{empty}: expected files ending in {' '.join(endings)}")
    out: dict[str, Path] = {}
    for name, path in sorted(usable, key=lambda each: each[1]):
        if name in out:
            raise DataError(f"{path} and {out[name].name} {same}: keep one of them")
        out[name] = path
    return out


def _text(path: Path) -> str:
    if not path.exists():
        raise MissingFileError(f"{path} does not exist: expected a text file with one image in each line")
    if not path.is_file() or path.stat().st_size > LARGEST_LIST:
        raise DataError(f"{path} is no regular file, or larger than {LARGEST_LIST >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from error
