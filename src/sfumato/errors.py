"""The errors that users see, each with one clear line.

The command line catches :class:`SfumatoError` and prints it. Any other exception is a fault of this package. Each error
also derives from the built-in exception it stands for, so ``except ValueError`` works as usual.

    SfumatoError
    ├── ConfigError             a choice that cannot be met
    ├── DataError               a file or a sample that cannot be used
    ├── MissingFileError        a file or folder that does not exist
    ├── RunError                a run folder that is damaged or does not fit
    ├── RunExistsError          a folder that holds a run already
    ├── PluginError             a plug-in that is missing, broken, or has the name of another one
    │   └── UntrustedCodeError  a class path outside this package that the user did not name
    ├── NotFiniteError          a result that holds NaN or infinity
    ├── ExportError             a run that cannot be exported
    ├── MissingDependencyError  an optional library that is not installed
    └── ResourceError           not enough disk space, memory or file handles
"""

from __future__ import annotations

import sys
from collections.abc import Iterable


def plain(text: object) -> str:
    r"""The text with every character that a terminal may obey, such as an escape, written out.

    >>> plain("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    found = str(text)
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in found)


class SfumatoError(Exception):
    """The base of every error that this package raises on purpose."""


class ConfigError(SfumatoError, ValueError):
    """A choice that cannot be met: an unknown name, a value out of range, or choices that exclude each other."""


class DataError(SfumatoError, ValueError):
    """A file or a sample that cannot be used. The message names it."""


class MissingFileError(SfumatoError, FileNotFoundError):
    """A file or a folder that does not exist. The message names it."""


class RunError(SfumatoError, ValueError):
    """A run folder that is damaged, or whose parts do not belong together."""


class RunExistsError(SfumatoError, FileExistsError):
    """A folder that holds a run already, so it is not overwritten."""


class PluginError(SfumatoError, ValueError):
    """A plug-in that is missing, fails to import, or has the name of another one."""


class UntrustedCodeError(PluginError):
    """A class path outside this package that a run names and the user did not."""


class NotFiniteError(SfumatoError, ValueError):
    """A result that holds NaN or infinity. Such results are never saved or printed."""


class ExportError(SfumatoError, ValueError):
    """A run that cannot be exported, or an exported file that computes something else."""


class MissingDependencyError(SfumatoError, ImportError):
    """An optional library that is not installed. The message says how to install it."""


class ResourceError(SfumatoError, OSError):
    """The machine ran out of something: disk space, memory or file handles."""


def similar(name: str, known: Iterable[str]) -> str:
    """What a person may have meant by a name that does not exist, to follow it in a message. Empty if nothing is close.

    >>> similar("mc-dropuot", ["ensemble", "mc-dropout"])
    " (did you mean 'mc-dropout'?)"
    """
    from difflib import get_close_matches  # here, because most commands need it not

    found = get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a device ran out of memory."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
