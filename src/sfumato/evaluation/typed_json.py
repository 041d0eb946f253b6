"""JSON of frozen dataclasses: encoding, checked decoding and JSON Schema, all from the type annotations."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import TypeVar, get_args, get_origin, get_type_hints

from sfumato.sections import Json

T = TypeVar("T")

SIMPLE: dict[object, dict[str, Json]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # null stands for NaN and infinities, which JSON does not have
}


def encode(value: object) -> Json:
    """A value as JSON: dataclasses and mappings as objects, tuples as arrays, NaN and infinities as null."""
    if dataclasses.is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def decode(kind: type[T], value: Json) -> T:
    """An object of a dataclass from its JSON. Null becomes NaN where a number is expected.

    Raises:
        ValueError: If the JSON has another form. The message says where.
    """
    found = _decode(kind, value, kind.__name__)
    assert isinstance(found, kind)
    return found


def schema(kind: type) -> dict[str, Json]:
    """The JSON Schema (draft 2020-12) of a dataclass."""
    definitions: dict[str, Json] = {}
    reference = _schema(kind, definitions)
    head: dict[str, Json] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind.__name__}
    return {**head, **reference, "$defs": definitions}


@cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)


def _decode(hint: object, value: Json, where: str) -> object:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _decode_object(hint, value, where)
    if isinstance(hint, types.UnionType):
        (inner,) = (each for each in get_args(hint) if each is not types.NoneType)
        return None if value is None else _decode(inner, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_decode(each, item, f"{where}[{i}]") for i, (each, item) in enumerate(zip(kinds, value)))
    elif origin is Mapping and isinstance(value, dict):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif hint is float and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
        return math.nan if value is None else float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, expected {getattr(hint, '__name__', hint)}")


def _decode_object(kind: type, value: Json, where: str) -> object:
    hints = _hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        found = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{where} holds {found or 'nothing'}, expected {', '.join(sorted(hints))}")
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _schema(hint: object, definitions: dict[str, Json]) -> dict[str, Json]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = None  # keeps its place while its fields are described
            properties: dict[str, Json] = {name: _schema(each, definitions) for name, each in _hints(hint).items()}
            definitions[hint.__name__] = {
                "type": "object",
                "description": (hint.__doc__ or "").partition("\n")[0],
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if isinstance(hint, types.UnionType):
        (inner,) = (each for each in get_args(hint) if each is not types.NoneType)
        return {"anyOf": [_schema(inner, definitions), {"type": "null"}]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items: list[Json] = [_schema(each, definitions) for each in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return dict(SIMPLE[hint])
