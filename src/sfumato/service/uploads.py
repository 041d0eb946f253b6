"""The images of a request: files of a form, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from sfumato.errors import DataError

FORM, JSON = "multipart/form-data", "application/json"
Files = dict[str, bytes]


def files_of(body: bytes, content_type: str, names: Sequence[str], most: int) -> list[Files]:
    """The files of each sample by the names of the inputs.

    Args:
        body: The body of the request: a form with a file for each input of each sample, or JSON such as
            ``{"inputs": [{"image": "…base64…"}]}``.
        content_type: Its type, ``multipart/form-data`` or ``application/json``.
        names: Names of the inputs.
        most: The largest number of samples.

    Raises:
        DataError: If the body has another form, or too many samples.
    """
    samples = _of_json(body, names) if kind(content_type) == JSON else _of_form(body, content_type, names)
    if not 1 <= len(samples) <= most:
        raise DataError(f"the request has {len(samples)} samples, expected 1 to {most} of {', '.join(names)}")
    return samples


def kind(content_type: str) -> str:
    """The type of a body without its parameters.

    >>> kind("Multipart/Form-Data; boundary=x")
    'multipart/form-data'
    """
    return content_type.partition(";")[0].strip().lower()


def _of_form(body: bytes, content_type: str, names: Sequence[str]) -> list[Files]:
    columns: dict[str, list[bytes]] = {name: [] for name in names}
    for name, content in form_files(body, content_type):
        if name not in columns:
            raise DataError(f"the form has a file {name!r}, expected files named {', '.join(names)}")
        columns[name].append(content)
    counts = {name: len(contents) for name, contents in columns.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"the form has {counts} files, expected as many of each")
    return [dict(zip(names, row)) for row in zip(*columns.values())]


def form_files(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """Names and contents of the files of a form.

    Raises:
        DataError: If the form is cut off, damaged, or has fields that are no files.
    """
    from python_multipart import FormParser  # pyright: ignore[reportMissingImports] of the extra serve
    from python_multipart.exceptions import FormParserError  # pyright: ignore[reportMissingImports]
    from python_multipart.multipart import MultipartState, parse_options_header  # pyright: ignore[reportMissingImports]

    found: list[tuple[str, bytes]] = []

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        found.append(((file.field_name or b"").decode("utf-8", "replace"), file.file_object.read()))
        file.close()

    def on_field(field: Any) -> None:
        raise DataError(
            f"the field {field.field_name.decode('utf-8', 'replace')!r} of the form is no file: give it a filename"
        )

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise DataError("the content type of the form names no boundary: let the client library write it")
    parser = FormParser(FORM, on_field, on_file, boundary=boundary, config={"MAX_MEMORY_FILE_SIZE": 1 << 40})
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the form cannot be read ({error})") from error
    if getattr(parser.parser, "state", None) != MultipartState.END:
        raise DataError("the form is cut off: its last boundary is missing")
    return found


def _of_json(body: bytes, names: Sequence[str]) -> list[Files]:
    found = parsed(body)
    entries = found.get("inputs")
    if found.keys() != {"inputs"} or not isinstance(entries, list):
        raise DataError(f"the JSON has {sorted(found) or 'no entry'}, expected one list 'inputs'")
    return [_decoded(each, number, names) for number, each in enumerate(entries, 1)]


def parsed(body: bytes) -> dict[str, Any]:
    """The object in a JSON text. NaN and Infinity are no JSON.

    Raises:
        DataError: If the text is no JSON object.
    """
    try:
        found = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is no JSON ({str(error)[:200]})") from error
    if not isinstance(found, dict):
        raise DataError(f"the JSON is a {type(found).__name__}, expected an object")
    return found


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _decoded(entry: Any, number: int, names: Sequence[str]) -> Files:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise DataError(f"sample {number} is no object of texts, expected base64 for {', '.join(names)}")
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in entry.items()}
    except (binascii.Error, ValueError) as error:
        raise DataError(f"sample {number} is not base64 ({error})") from error
