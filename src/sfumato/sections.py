"""Sections of a YAML file as frozen dataclasses, read with limits and checked types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
S = TypeVar("S")
LARGEST_YAML = 1 << 20  # bytes; the plan of a run with 1,000 classes is below 100 kB


class _PlainLoader(yaml.SafeLoader):
    """A loader without aliases, which can make a short file stand for billions of nodes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it holds an alias (*name), which plans and data descriptions do not use")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Json:
    """The content of a YAML file.

    Raises:
        ValueError: If it is no regular file, is larger than 1 MiB, is not YAML, or holds aliases.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    if path.stat().st_size > LARGEST_YAML:
        raise ValueError(f"it has {path.stat().st_size} bytes, expected at most {LARGEST_YAML}")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def read_section(kind: type[S], entries: Json) -> S:
    """A section as a frozen dataclass whose fields all have defaults.

    Args:
        kind: The dataclass.
        entries: The section.

    Raises:
        ValueError: If the section is no mapping, has unknown entries, or has a value of another type than its
            annotation. Numbers are finite.
    """
    hints = get_type_hints(kind)
    if not isinstance(entries, dict):
        raise ValueError(f"{kind.__name__.lower()} is {short(entries)}, expected entries")
    if unknown := [name for name in entries if name not in hints]:
        raise ValueError(f"unknown entries {short(sorted(map(str, unknown)))}")
    return kind(**{name: _typed(name, hints[name], value) for name, value in entries.items()})


def _typed(where: str, hint: object, value: Json) -> object:
    """A value in the type of an annotation.

    Raises:
        ValueError: If it has another type. The message says where.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_typed(f"{where}[{i}]", each, item) for i, (each, item) in enumerate(zip(kinds, value)))
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {str(key): _typed(f"{where}.{key}", arguments[1], item) for key, item in value.items()}
    elif origin is UnionType:  # any JSON
        return _tuples(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif hint is not float and type(value) is hint:
        return value
    raise ValueError(f"{where} is {short(value)}, expected {EXPECTED.get(origin or hint, hint)}")


EXPECTED: dict[object, str] = {
    str: "text", bool: "true or false", int: "a whole number", float: "a finite number",
    tuple: "a list of numbers or names", dict: "entries", Mapping: "entries",
}  # fmt: skip


def _tuples(value: object) -> object:
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def plain(entries: Mapping[str, object]) -> dict[str, Json]:
    """The same with plain dicts and lists in the place of mappings and tuples, as YAML and JSON store them."""
    return {key: _plain(each) for key, each in entries.items()}


def _plain(value: object) -> Json:
    if isinstance(value, Mapping):
        return plain(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else cast(Json, value)


def short(value: object, length: int = 60) -> str:
    """A value as text for a message, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}…"


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
