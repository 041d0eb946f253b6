"""The Open Inference Protocol V2 with binary tensors: what Triton, KServe and their clients speak.

Source: https://github.com/kserve/open-inference-protocol, and the binary tensor data extension of Triton.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sfumato.errors import DataError
from sfumato.sections import Json
from sfumato.service.uploads import parsed
from sfumato.serving.metadata import InputKind

HEADER = "Inference-Header-Content-Length"
TYPES = {"BOOL": "bool", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "FP32": "float32"}
NAMES = {kind: name for name, kind in TYPES.items()}
LONGEST = 1 << 24  # side of a tensor
ON_REQUEST = "probs"  # arrays that are sent only if they are named, because they are large


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Args:
        id: Its name, which the answer repeats. Empty without one.
        arrays: The inputs (B, …) by name.
        outputs: For each named output whether it is sent as bytes. Empty for all but the large ones.
        binary: Whether outputs are sent as bytes if none is named.
    """

    id: str
    arrays: dict[str, np.ndarray]
    outputs: dict[str, bool]
    binary: bool


def read(body: bytes, header: str | None, kinds: Sequence[InputKind], most: int, pixels: int) -> Asked:
    """A request.

    Args:
        body: JSON, and after it the bytes of the tensors.
        header: The value of the header that gives the length of the JSON. None if all is JSON.
        kinds: The inputs of the model.
        most: The largest batch.
        pixels: The largest number of pixels of all inputs together.

    Raises:
        DataError: If the request is not of this form.
    """
    length = _length(header, len(body))
    about, rest = parsed(body[:length]), memoryview(body)[length:]
    given = [each for each in _list(about, "inputs") if isinstance(each, dict)]
    names = [str(each.get("name")) for each in given]
    if sorted(names) != sorted(kind.name for kind in kinds):
        raise DataError(f"the inputs are {', '.join(names) or 'none'}, expected {', '.join(k.name for k in kinds)}")
    arrays: dict[str, np.ndarray] = {}
    for entry in given:
        (kind,) = (kind for kind in kinds if kind.name == entry["name"])
        arrays[kind.name], rest = _array(entry, kind, rest)
    if len(rest):
        raise DataError(f"{len(rest)} bytes follow the last tensor, expected none")
    _check_batch(arrays, kinds, most, pixels)
    outputs = {str(each.get("name")): _binary(each) for each in _list(about, "outputs") if isinstance(each, dict)}
    parameters = about.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    return Asked(str(about.get("id", ""))[:200], arrays, outputs, binary)


def _length(header: str | None, whole: int) -> int:
    if header is None:
        return whole
    if not (header.isascii() and header.isdecimal() and len(header) < 12 and int(header) <= whole):
        raise DataError(f"the header {HEADER} is {header[:50]!r}, expected a number of bytes up to {whole}")
    return int(header)


def _list(about: Mapping[str, Any], name: str) -> list[Any]:
    found = about.get(name) or []
    if not isinstance(found, list):
        raise DataError(f"{name} is a {type(found).__name__}, expected a list of tensors")
    return found


def _binary(entry: Mapping[str, Any]) -> bool:
    parameters = entry.get("parameters")
    return isinstance(parameters, dict) and parameters.get("binary_data") is True


def _array(entry: Mapping[str, Any], kind: InputKind, rest: memoryview) -> tuple[np.ndarray, memoryview]:
    """A tensor, and the bytes that follow it."""
    allowed = ("UINT8", "FP32") if kind.type == "uint8" else ("FP32",)
    type_name = str(entry.get("datatype"))
    if type_name not in allowed:
        raise DataError(f"{kind.name} has the datatype {type_name[:50]!r}, expected {' or '.join(allowed)}")
    shape = _shape(entry.get("shape"), kind)
    dtype = np.dtype(TYPES[type_name]).newbyteorder("<")
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        values = _numbers(entry.get("data"), dtype, kind.name)
        if values.size != prod(shape):
            raise DataError(f"{kind.name} has {values.size} numbers, expected {prod(shape)} for the shape {shape}")
        return _checked(values.reshape(shape), kind), rest
    wanted = prod(shape) * dtype.itemsize
    if size != wanted or len(rest) < wanted:
        raise DataError(f"{kind.name} has {size} bytes and {len(rest)} follow, expected {wanted} for {shape}")
    values = np.frombuffer(rest[:wanted], dtype).reshape(shape).astype(TYPES[type_name])  # a copy that can be written
    return _checked(values, kind), rest[wanted:]


def _shape(given: Any, kind: InputKind) -> list[int]:
    shape: list[int] = given if isinstance(given, list) else []
    expected = ["B", *([str(kind.channels)] if kind.channels else []), *(["H", "W"] if kind.map else [])]
    sides = all(type(side) is int and 0 < side < LONGEST for side in shape)
    if not sides or len(shape) != len(expected) or (kind.channels and shape[1] != kind.channels):
        raise DataError(f"{kind.name} has the shape {str(given)[:50]}, expected [{', '.join(expected)}]")
    return shape


def _numbers(data: Any, dtype: np.dtype, name: str) -> np.ndarray:
    try:
        found = np.array(data, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"the data of {name} are no rectangular list of numbers") from error
    if dtype.kind == "u" and not ((found >= 0) & (found <= 255) & (found == np.round(found))).all():
        raise DataError(f"the data of {name} are not whole numbers from 0 to 255")
    if not (np.abs(found) <= np.finfo(np.float32).max).all():
        raise DataError(f"the data of {name} hold NaN, infinity or a number too large for FP32")
    return found.astype(dtype)


def _checked(values: np.ndarray, kind: InputKind) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all():
        raise DataError(f"{kind.name} holds NaN or infinity")
    if kind.type == "uint8" and not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"{kind.name} is FP32 and holds values outside [0, 1]: scale it, or send UINT8")
    return values


def _check_batch(arrays: Mapping[str, np.ndarray], kinds: Sequence[InputKind], most: int, pixels: int) -> None:
    batches = {name: len(values) for name, values in arrays.items()}
    if len(set(batches.values())) != 1 or not 1 <= next(iter(batches.values())) <= most:
        raise DataError(f"the batches are {batches}, expected one number from 1 to {most}")
    found = sum(len(arrays[k.name]) * prod(arrays[k.name].shape[-2:]) for k in kinds if k.map)
    if found > pixels:
        raise DataError(f"the inputs have {found} pixels, more than {pixels}: send fewer, or smaller ones")


def write(
    asked: Asked, arrays: Mapping[str, np.ndarray], name: str, version: str
) -> tuple[bytes, int | None]:  # fmt: skip
    """The answer to a request.

    Args:
        asked: The request.
        arrays: All outputs (B, …) by name.
        name: Name of the model.
        version: Its version.

    Returns:
        The body, and the length of its JSON; None if the body is nothing else.

    Raises:
        DataError: If an output is asked for that the model does not give.
    """
    if unknown := sorted(set(asked.outputs) - set(arrays)):
        raise DataError(f"the model has no output {unknown[0]!r}, expected some of {', '.join(arrays)}")
    wanted = asked.outputs or {key: asked.binary for key in arrays if not key.endswith(ON_REQUEST)}
    entries: list[Json] = []
    tail: list[bytes] = []
    for key, binary in wanted.items():
        values = np.ascontiguousarray(arrays[key])
        entry: dict[str, Json] = {"name": key, "datatype": NAMES[values.dtype.name], "shape": list(values.shape)}
        if binary:
            tail.append(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = values.flatten().tolist()
        entries.append(entry)
    about: dict[str, Json] = {"model_name": name, "model_version": version, "outputs": entries}
    head = json.dumps(about | ({"id": asked.id} if asked.id else {}), allow_nan=False).encode()
    return b"".join([head, *tail]), len(head) if tail else None


def tensors(arrays: Mapping[str, np.ndarray], event: tuple[int, int]) -> list[Json]:
    """What the outputs of a model are, from those for one image of a height and a width."""
    return [
        {"name": name, "datatype": NAMES[values.dtype.name], "shape": _open(values.shape, event)}
        for name, values in arrays.items()
    ]


def _open(shape: tuple[int, ...], event: tuple[int, int]) -> list[Json]:
    ends = [-1, -1] if tuple(shape[-2:]) == event else list(shape[-2:]) if len(shape) > 2 else []
    return [-1, *(shape[1:-2] if len(shape) > 2 else shape[1:]), *ends]


def inputs(kinds: Sequence[InputKind]) -> list[Json]:
    """What the inputs of a model are."""
    found: list[Json] = []
    for kind in kinds:
        shape: list[Json] = [-1, *([kind.channels] if kind.channels else []), *([-1, -1] if kind.map else [])]
        found.append({"name": kind.name, "datatype": NAMES[kind.type], "shape": shape})
    return found
