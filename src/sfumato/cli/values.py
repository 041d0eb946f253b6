"""Values of options: from text or YAML to the type of a parameter, with a clear message where that fails."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sfumato.errors import ConfigError

MISSING: Final = object()  # the default of an argument that must be given
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
LEAST = {  # the smallest value of a number, by its name
    "samples": 1, "devices": 1, "gap": 1, "num_nodes": 1, "parallel_members": 1,
    "members": 0, "limit": 0, "epochs": 0, "batch": 0, "seed": 0, "tile": 0, "workers": -1, "cache_gb": 0,
    "learning_rate": 0, "weight_decay": 0, "delta": 0, "max_megapixels": 0,
}  # fmt: skip
MOST = {"seed": 2**31 - 1, "samples": 10**6}  # the largest


@dataclass(frozen=True)
class Converter:
    """How a value becomes one of a type.

    Args:
        metavar: What the help shows for the value.
        expected: What the message says where the value does not fit.
        read: From text, or from what YAML gives. Raises ValueError or TypeError for other values.
    """

    metavar: str
    expected: str
    read: Callable[[object], object]


def convert(name: str, kind: str, value: object) -> object:
    """The value of an option in the type of its parameter.

    Raises:
        ConfigError: If it does not fit, or is a number below the smallest that makes sense.

    >>> convert("size", "tuple[int, int]", "584x565"), convert("quiet", "bool", "true")
    ((584, 565), True)
    """
    converter = CONVERTERS[kind]
    try:
        found = converter.read(value)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ConfigError(f"{name} is {value!r}, expected {converter.expected}") from error
    least = LEAST.get(name)
    if least is not None and isinstance(found, int | float) and found < least:
        raise ConfigError(f"{name} is {found}, expected {least} or more")
    if name in MOST and isinstance(found, int) and found > MOST[name]:
        raise ConfigError(f"{name} is {found}, expected {MOST[name]} or less")
    return found


def is_flag(kind: str) -> bool:
    """Whether a parameter is true or false."""
    return kind == "bool"


def is_numbers(kind: str) -> bool:
    """Whether a parameter takes several numbers."""
    return kind.startswith("tuple[")


def _text(value: object) -> str:
    if isinstance(value, dict | list):
        raise TypeError
    return str(value)


def _flag(value: object) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return found


def _several(one: Callable[[object], object], count: int = 0) -> Callable[[object], object]:
    def read(value: object) -> object:
        words = re.split(r"[\s,x×]+", value.strip(" []()")) if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or (count and len(words) != count):
            raise ValueError
        return tuple(one(word) for word in words if word != "")

    return read


def _entries(value: object) -> object:
    import yaml

    try:
        found = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ValueError from error
    if not isinstance(found, dict):
        raise TypeError
    return found


CONVERTERS: dict[str, Converter] = {
    "str": Converter("TEXT", "text", _text),
    "bool": Converter("true|false", "true or false", _flag),
    "int": Converter("NUMBER", "a whole number", _whole),
    "float": Converter("NUMBER", "a finite number", _real),
    "Path": Converter("PATH", "a path", lambda value: Path(_text(value))),
    "list[str]": Converter("TEXT", "words", lambda value: [_text(each) for each in _list(value)]),
    "list[Path]": Converter("PATH", "paths", lambda value: [Path(_text(each)) for each in _list(value)]),
    "tuple[int, int]": Converter("H W", "two whole numbers, such as 480 640", _several(_whole, 2)),
    "tuple[float, float]": Converter("A B", "two numbers, such as 0.5 2", _several(_real, 2)),
    "tuple[float, ...]": Converter("NUMBERS", "numbers, such as 1 0.5", _several(_real)),
    "dict[str, Json]": Converter("YAML", "entries, such as '{\"widths\": [16, 32]}'", _entries),
}
CONVERTERS |= {f"{kind} | None": CONVERTERS[kind] for kind in ("str", "int", "float", "Path", "dict[str, Json]")}


def _list(value: object) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return value
