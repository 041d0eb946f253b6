"""Write files as a whole or not at all, and save frozen dataclasses of tensors as safetensors files."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import DataError, MissingFileError, NotFiniteError, ResourceError, SfumatoError

S = TypeVar("S", bound="Stored")
FULL = (errno.ENOSPC, errno.EDQUOT)
LEAST_SPACE = 4096  # bytes that must be free before long work starts
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG)
METADATA = "sfumato"  # one key for all metadata, because safetensors writes several keys in a random order


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to. It is renamed to ``path`` when the block ends without an error.

    A reader never sees half a file. If the disk is full or the process is killed, the old file stays as it was. The
    file gets the permissions of any new file (0666 without the bits of the umask).

    Args:
        path: The file to write.

    Raises:
        ResourceError: If the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _create(part, path)
        mode = part.stat().st_mode & 0o777
        yield part
        part.chmod(mode)  # some writers replace the file by one that only its owner may read
        part.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(f"{path} was not written, because the disk is full: free some space") from error
        raise
    finally:
        _remove(part)


def check_writable(path: str | Path) -> None:
    """Check that a file can be written, before the long work whose result it holds. Nothing is left behind.

    Args:
        path: The file. If its folder does not exist yet, the next one above that does is checked.

    Raises:
        ResourceError: If it cannot be written.
    """
    path = Path(path).absolute()
    folder = next((each for each in path.parents if each.exists()), path.parent)
    part = folder / f"{path.name}.{os.getpid()}.part"
    try:
        _create(part, path, b"0" * LEAST_SPACE)
    finally:
        _remove(part)


def _create(part: Path, path: Path, content: bytes = b"") -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        part.unlink(missing_ok=True)
        part.write_bytes(content)
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(f"{path} cannot be written, because the disk is full: free some space") from error
        if error.errno not in REFUSED:
            raise
        raise ResourceError(
            f"{path} cannot be written ({error.strerror}): change the permissions of its folder, or choose another "
            "place"
        ) from error


def _remove(part: Path) -> None:
    with suppress(OSError):  # where nothing can be written there is nothing to remove
        part.unlink(missing_ok=True)


def write_all(writers: Mapping[Path, Callable[[Path], object]], delete: Iterable[Path] = ()) -> None:
    """Write several files, then delete others that the new ones make invalid.

    All files are written beside their place first, then they are renamed, the first one last, then those of ``delete``
    are removed. So a full disk changes nothing, and a new first file has all other new ones beside it. A kill just
    before the end leaves a file of ``delete``: readers must see that it does not belong to the new ones.

    Args:
        writers: For each file, the function that writes it to the path it is given.
        delete: Files to remove. Those that do not exist are skipped.

    Raises:
        ResourceError: If the disk is full.
    """
    with ExitStack() as parts:
        for path, write in writers.items():
            write(parts.enter_context(atomic_write(path)))
    for path in delete:
        path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Digest of the content of a file, 16 hexadecimal digits. Empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_finite(tensors: Mapping[str, Tensor], owner: str) -> None:
    """Check that no number is NaN or infinite.

    Args:
        tensors: Tensors by name.
        owner: What the message says that they belong to.

    Raises:
        NotFiniteError: If one is. The message names the tensor.
    """
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            raise NotFiniteError(f"{name} of {owner} holds NaN or infinity, so it cannot be used")


def tensors_to_file(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file in place. The same tensors and metadata always give the same bytes.

    Args:
        tensors: Tensors by name, on any device.
        path: The file to write, usually one that :func:`atomic_write` gave.
        metadata: Text by name. Default: none.

    Raises:
        ResourceError: If it cannot be written, because the disk is full for example.
    """
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    ready = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    try:
        save_file(ready, path, {METADATA: json.dumps(dict(metadata or {}), sort_keys=True)})
    except SafetensorError as error:
        if "os error 28" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise ResourceError(f"{path} was not written ({error}): free some space and run again") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file as a whole or not at all, see :func:`tensors_to_file`."""
    with atomic_write(path) as part:
        tensors_to_file(tensors, part, metadata)


def read_tensors(
    path: str | Path, *, error: type[SfumatoError] = DataError, advice: str = "write it again"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Args:
        path: The file.
        error: The exception for a damaged file. Default :class:`DataError`; ``RunError`` suits the files of a run.
        advice: What the user should do about a missing or damaged file. Default: write it again.

    Raises:
        MissingFileError: If there is no such file.
        DataError: (or ``error``) If the file is cut off or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: {advice}")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata are no texts by name")
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as problem:
        raise error(f"{path} is cut off or not a safetensors file ({problem}): {advice}") from problem


class Stored:
    """A frozen dataclass of tensors and JSON values that can be moved to a device, saved and loaded."""

    def to(self, device: torch.device | str) -> Self:
        """A copy whose tensors are on ``device``."""
        tensors = {name: value.to(device) for name, value in fields(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)  # pyright: ignore[reportArgumentType] subclasses are dataclasses

    def save(self, path: str | Path) -> None:
        """Write a safetensors file as a whole or not at all. Reading it runs no code."""
        with atomic_write(path) as part:
            self.write_to(part)

    def write_to(self, path: Path) -> None:
        """Write a safetensors file in place, for use with :func:`write_all`.

        Raises:
            NotFiniteError: If a number is not finite.
        """
        derived = self.derived()
        tensors = self.tensors() | derived
        check_finite(tensors, f"the {type(self).__name__} for {path.name.partition('.')[0]}")
        tensors_to_file(tensors, path, describe(self, derived))

    def derived(self) -> dict[str, Tensor]:
        """Tensors that follow from the fields, by name. A file holds them for its readers; loading ignores them."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, by name."""
        return {name: value for name, value in fields(self).items() if isinstance(value, Tensor)}

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote. See :func:`load` for the errors."""
        return load((cls,), path)


def describe(value: Stored, derived: Iterable[str]) -> dict[str, str]:
    """The metadata of a file: the type, the fields that are no tensors, and the names of derived tensors."""
    rest = {name: each for name, each in fields(value).items() if not isinstance(each, Tensor)}
    known = {"type": type(value).__name__, "fields": json.dumps(rest, sort_keys=True)}
    return known | ({"derived": json.dumps(sorted(derived))} if derived else {})


def fields(value: Stored) -> dict[str, object]:
    """The fields of a frozen dataclass by name."""
    names = dataclasses.fields(value)  # pyright: ignore[reportArgumentType] subclasses are dataclasses
    return {field.name: getattr(value, field.name) for field in names}


def load(
    kinds: tuple[type[S], ...],
    path: str | Path,
    *,
    error: type[SfumatoError] = DataError,
    advice: str = "write it again",
) -> S:
    """Read what :meth:`Stored.save` wrote.

    Args:
        kinds: The classes that the file may hold.
        path: The file.
        error: The exception for a damaged file, see :func:`read_tensors`.
        advice: What the user should do about a missing or damaged file.

    Raises:
        MissingFileError: If there is no such file.
        DataError: (or ``error``) If the file is cut off or holds something else.
    """
    known = {kind.__name__: kind for kind in kinds}
    tensors, metadata = read_tensors(path, error=error, advice=advice)
    found = metadata.get("type", "file of unknown type")
    if found not in known:
        raise error(f"{path} holds a {found}, expected a {' or a '.join(known)}: {advice}")
    try:
        for name in json.loads(metadata.get("derived", "[]")):
            tensors.pop(name, None)
        return known[found](**tensors, **json.loads(metadata["fields"]))
    except NotFiniteError as problem:
        raise error(f"{path} cannot be used ({problem}): {advice}") from problem
    except (TypeError, KeyError, json.JSONDecodeError) as problem:
        raise error(f"{path} holds a {found} with other fields than expected ({problem}): {advice}") from problem
