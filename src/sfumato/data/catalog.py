"""Open a data set by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from sfumato import registry
from sfumato.contracts import DataSet
from sfumato.data.folder import Folder
from sfumato.data.folds import DIVIDED, FoldedDataset
from sfumato.data.views import DatasetSlice, any_size
from sfumato.errors import ConfigError, MissingFileError, PluginError
from sfumato.registry import Trust

Size = tuple[int, int] | None
_SLICE = re.compile(r"(.+)\[(?:(\d+)%)?:(?:(\d+)%)?\]")
REQUIRED = ("__len__", "__getitem__", "inputs", "tasks", "names")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def load(
    name: str,
    root: str | Path = "",
    split: str = "train",
    size: Size = None,
    trust: Trust | bool | str | Iterable[str] = (),
    fold: int = -1,
    folds: int = 0,
) -> DataSet:
    """Open a data set.

    A data set of a plug-in is a class, or a function, that is called as ``cls(root, split, size)``. ``root`` is a path,
    which may be empty. ``split`` is text without a slice. ``size`` is (height, width) to resize to, pixels, or None for
    the size of the files. The result has ``__len__``, ``__getitem__``, ``inputs``, ``tasks`` and ``names``, see
    :class:`sfumato.contracts.DataSet`. It may also have ``splits``; ``entries``, the kinds of entries whose names are
    not standard; ``things``, ``augmentation`` and ``files(index)``; ``providing(names)``, which makes entries that are
    otherwise left out; ``lacking``, why it has no task of a name; and the class attributes
    ``needs_root = True`` and ``any_size = True`` (images are generated at whatever size is requested).

    Args:
        name: The name of a built-in data set, such as ``scenes`` or ``camvid``, or of a plug-in;
            the path of a folder that holds ``sfumato.yaml``; or a class path such as ``my_package.MyData``.
        root: Folder that holds the files. The path of a folder is relative to it. Default: none.
        split: ``train``, ``val`` or another split of the data set. ``val[:50%]`` is the first half of ``val``, and
            ``val[50%:]`` the second half. Default ``train``.
        size: (height, width) of images, pixels. None for the size of the files. Default None.
        trust: Class paths outside this package that may be imported, see :class:`~sfumato.registry.Trust`.
        fold: Which fold of the training images is ``val``, from 0; the others are ``train``. −1 for none. Default −1.
        folds: Number of folds. 0 for what the data set declares as ``folds``. Default 0.

    Raises:
        ConfigError: If the name, the split or the fold is unknown, or ``root`` is needed.
        MissingFileError: If the folder or files are missing.
        PluginError: If a plug-in fails to import or returns something else.
        UntrustedCodeError: If a class path is not trusted.
    """
    if part := _SLICE.fullmatch(split):
        first, last = int(part[2] or 0) / 100, int(part[3] or 100) / 100
        return DatasetSlice(load(name, root, part[1], size, trust, fold, folds), first, last)
    if fold >= 0 and split in DIVIDED:
        return FoldedDataset(load(name, root, "train", size, trust), fold, folds, held_out=split == "val")
    path = Path(root) / name
    if name not in registry.names("datasets"):
        if path.exists():
            return _checked(Folder(path, split, size), name)
        if "/" in name or os.sep in name:
            raise MissingFileError(f"{path} does not exist: expected a folder that holds sfumato.yaml")
        if not _CLASS_PATH.fullmatch(name):
            known = ", ".join(registry.names("datasets"))
            raise ConfigError(f"data is {name!r}, expected {known} or a folder that holds sfumato.yaml")
    opener = registry.load("datasets", name, Trust.of(trust))
    if not callable(opener):
        raise PluginError(f"{name} is a {type(opener).__name__}, expected a class of data sets: cls(root, split, size)")
    if isinstance(opener, type) and not hasattr(opener, "__getitem__"):
        raise PluginError(f"{name} has no __getitem__: see help(sfumato.data.load)")
    if getattr(opener, "needs_root", False) and not str(root):
        here = f", or write ./{name} for the folder of this name that holds sfumato.yaml" if path.is_dir() else ""
        raise ConfigError(f"{name} is read from files: name their folder with --root FOLDER{here}")
    return _checked(opener(root, split, size), name)


def load_original(
    name: str,
    root: str | Path = "",
    split: str = "train",
    size: Size = None,
    trust: Trust | bool | str | Iterable[str] = (),
    fold: int = -1,
    folds: int = 0,
) -> DataSet:
    """Open a data set at its original size. Arguments as of :func:`load`, but for the size.

    Args:
        name: As of :func:`load`.
        root: As of :func:`load`.
        split: As of :func:`load`.
        size: The size at which images are generated, for a data set that declares ``any_size``. Others ignore it.
        trust: As of :func:`load`.
        fold: As of :func:`load`.
        folds: As of :func:`load`.
    """
    found = load(name, root, split, None, trust, fold, folds)
    return load(name, root, split, size, trust, fold, folds) if size and any(size) and any_size(found) else found


def absolute_place(name: str, root: str | Path = "") -> tuple[str, str]:
    """Name and root of a data set by absolute paths, so that no other folder of the same name is found later.

    >>> absolute_place("scenes")
    ('scenes', '')
    """
    if root:
        return name, str(Path(root).absolute())
    own = name and name not in registry.names("datasets") and Path(name).exists()
    return str(Path(name).absolute()) if own else name, ""


def _checked(found: object, name: str) -> DataSet:
    if _is_dataset(found):
        return found
    missing = ", ".join(key for key in REQUIRED if not hasattr(found, key))
    raise PluginError(f"the data set {name} has no {missing}: see help(sfumato.data.load)")


def _is_dataset(found: object) -> TypeGuard[DataSet]:
    return all(hasattr(found, key) for key in REQUIRED)
