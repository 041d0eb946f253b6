"""Move, save and load a prediction, whichever its fields; write any file whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

P = TypeVar("P")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed when the block ends.

    So a reader never meets half a file, and a full disk or a kill leaves the old one as it was.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fields(prediction: Any) -> dict[str, Any]:
    return {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}


def moved(prediction: P, device: torch.device | str) -> P:
    """A copy whose tensors are on ``device``."""
    tensors = {k: v.to(device) for k, v in _fields(prediction).items() if isinstance(v, Tensor)}
    return dataclasses.replace(prediction, **tensors)  # pyright: ignore[reportArgumentType, reportCallIssue]


def save(prediction: Any, path: str | Path) -> None:
    """Tensors as they are, the rest as JSON metadata."""
    fields = _fields(prediction)
    tensors = {k: v.detach().cpu().contiguous() for k, v in fields.items() if isinstance(v, Tensor)}
    rest = {k: v for k, v in fields.items() if not isinstance(v, Tensor)}
    metadata = {"type": type(prediction).__name__, "fields": json.dumps(rest)}
    with atomic_write(path) as part:
        save_file(tensors, part, metadata)


def load(cls: type[P] | tuple[type[P], ...], path: str | Path) -> P:
    """Read what :func:`save` wrote, of type ``cls`` or of one of these.

    Raises:
        ValueError: if the file is cut off or holds something else.
    """
    known = {kind.__name__: kind for kind in (cls if isinstance(cls, tuple) else (cls,))}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): write it anew") from error
    found = metadata.get("type", "file of unknown type")
    if found not in known:
        raise ValueError(f"{path} holds a {found}, expected a {' or a '.join(known)}")
    return known[found](**tensors, **json.loads(metadata["fields"]))


class Stored:
    """What every frozen dataclass of tensors can do: move, be written, be read."""

    def to(self, device: torch.device | str) -> Self:
        """The same on ``device``."""
        return moved(self, device)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, which no reader has to trust."""
        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        return load(cls, path)
