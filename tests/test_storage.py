"""Files are written as a whole or not at all, with ordinary permissions and reproducible bytes."""

import errno
import os
from dataclasses import dataclass

import pytest
import torch

from sfumato import storage
from sfumato.errors import DataError, MissingFileError, ResourceError, RunError
from sfumato.storage import Stored, atomic_write, read_tensors, write_all, write_tensors


@dataclass(frozen=True)
class Pair(Stored):
    a: torch.Tensor
    b: torch.Tensor | None = None
    unit: str = ""


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "a", {"x": torch.ones(2)})
        with atomic_write(tmp_path / "b") as part:
            part.write_text("b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o666 & ~umask] * 2


def written(path, error):
    """Write half of a file, then fail."""
    with atomic_write(path) as part:
        part.write_text("half")
        raise error


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyError):
        written(path, KeyError())
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(ResourceError, match="a was not written, because the disk is full"):
        written(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(PermissionError):
        written(tmp_path / "a", PermissionError(errno.EACCES, "no"))


def test_several_files_are_written_together_or_not_at_all(tmp_path):
    new, other, stale = (tmp_path / name for name in ("new", "other", "stale"))
    new.write_text("old")
    stale.write_text("stale")

    def fails(part):
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(ResourceError):
        write_all({new: lambda part: part.write_text("new"), other: fails}, delete=[stale])
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"new": "old", "stale": "stale"}
    write_all({new: lambda part: part.write_text("new")}, delete=[stale, tmp_path / "none"])
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"new": "new"}


def test_bytes_do_not_depend_on_the_order_of_names(tmp_path):
    x, y = torch.ones(2), torch.zeros(3)
    write_tensors(tmp_path / "a", {"x": x, "y": y}, {"p": "1", "q": "2", "r": "3"})
    write_tensors(tmp_path / "b", {"y": y, "x": x}, {"r": "3", "q": "2", "p": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_tensors(tmp_path / "a")[1] == {"p": "1", "q": "2", "r": "3"}


def test_tied_and_strided_tensors_are_written(tmp_path):
    x = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "a", {"x": x, "y": x, "z": x.T})
    found, _ = read_tensors(tmp_path / "a")
    assert torch.equal(found["x"], x)
    assert torch.equal(found["y"], x)
    assert torch.equal(found["z"], x.T)


def test_damaged_files_are_named_with_the_error_and_the_advice_of_the_caller(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(MissingFileError, match=r"a\.safetensors does not exist: write it again"):
        read_tensors(path)
    write_tensors(path, {"x": torch.ones(9)})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.safetensors is cut off"):
        read_tensors(path)
    with pytest.raises(RunError, match="fit again"):
        read_tensors(path, error=RunError, advice="fit again")


def test_a_dataclass_is_saved_loaded_and_moved(tmp_path):
    path, pair = tmp_path / "a", Pair(torch.ones(2), None, "m")
    pair.save(path)
    found = Pair.load(path)
    assert torch.equal(found.a, pair.a)
    assert (found.b, found.unit) == (None, "m")
    assert found.to("meta").a.is_meta
    write_tensors(path, {"c": torch.ones(1)}, {"type": "Pair", "fields": "{}"})
    with pytest.raises(DataError, match="holds a Pair with other fields than expected"):
        storage.load((Pair,), path)
    write_tensors(path, {})
    with pytest.raises(DataError, match="holds a file of unknown type, expected a Pair"):
        Pair.load(path)
