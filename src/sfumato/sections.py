"""Sections of a YAML file as frozen dataclasses, read with limits and checked types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

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
        ValueError: If the section is no mapping, has unknown entries, or has a value of another type than the default.
    """
    known: dict[str, Field[object]] = {each.name: each for each in fields(kind)}  # pyright: ignore[reportArgumentType]  # S is a dataclass
    if not isinstance(entries, dict) or set(entries) - set(known):
        raise ValueError(
            f"unknown entries {sorted(set(entries) - set(known)) if isinstance(entries, dict) else entries}"
        )
    return kind(**{name: _typed(known[name], value) for name, value in entries.items()})


def _typed(field: Field[object], value: Json) -> object:
    """A value in the type of its field's default.

    Raises:
        ValueError: If it has another type.
    """
    like = field.default_factory() if callable(field.default_factory) else field.default
    if isinstance(like, tuple) and isinstance(value, list):
        return _tuples(value)
    if isinstance(like, dict) and isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(like):
        raise ValueError(f"{field.name} is {value!r}, expected a {type(like).__name__}")
    return value


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


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
