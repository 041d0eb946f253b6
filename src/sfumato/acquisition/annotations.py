"""Areas with a class, as annotation programs exchange them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sfumato.acquisition.areas import Area
from sfumato.errors import DataError, MissingFileError

LARGEST_FILE = 1 << 30  # bytes


@dataclass(frozen=True)
class Picture:
    """An image of the pool.

    Args:
        name: Its file below the folder of the pool, with ``/``.
        height: Height, pixels.
        width: Width, pixels.
    """

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class Annotation:
    """An area with a class.

    Args:
        picture: Number of the image in the list of pictures.
        label: Name of the class.
        area: The pixels.
        attributes: Numbers and texts that belong to it, such as ``entropy`` and ``rank``. Default: none.
    """

    picture: int
    label: str
    area: Area
    attributes: Mapping[str, float | int | str] = field(default_factory=dict)


def read_text(path: Path) -> str:
    """A text file of at most 1 GB.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is larger, or no text.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: name the file that the annotation program has exported")
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path} is larger than 1 GB: export fewer images at a time")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: expected JSON of COCO or Label Studio, or XML of CVAT") from error


@contextmanager
def expecting(content: str) -> Iterator[None]:
    """What is read here has entries that somebody else wrote.

    Args:
        content: What is expected of it.

    Raises:
        DataError: If an entry is missing or of another kind.
    """
    try:
        yield
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(f"it has no {error}, expected {content}") from error


def read_json(text: str) -> Any:
    """The content of a JSON text.

    Raises:
        DataError: If it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no JSON ({' '.join(str(error).split())[:80]}): export it again") from error


class Names:
    """Finds images by the names that annotation programs give them.

    Programs write a path, a URL, or the name of an uploaded copy (``1a2b3c4d-street.png``).

    Args:
        pictures: The images of the pool.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures
        self._exact = {picture.name: number for number, picture in enumerate(pictures)}
        self._last = _unique((picture.name.rpartition("/")[2], number) for number, picture in enumerate(pictures))

    def __getitem__(self, name: str) -> int:
        """The number of the image.

        Raises:
            DataError: If it is not in the pool, or its name is that of several.
        """
        plain = unquote(re.split(r"[?&]d=", name)[-1])
        last = plain.rpartition("/")[2]
        for known, text in ((self._exact, plain), (self._last, last), (self._last, re.sub(r"^[0-9a-f]{8}-", "", last))):
            if text in known:
                return known[text]
        raise DataError(f"image {name!r} is not in the pool, or several have this name: give the pool with --pool")


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The texts that stand once."""
    listed = list(pairs)
    counts = Counter(text for text, _ in listed)
    return {text: number for text, number in listed if counts[text] == 1}
