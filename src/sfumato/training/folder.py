"""The folder of a run while it is trained: one training at a time, and no finished run is overwritten."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from sfumato.errors import RunError, RunExistsError, plain
from sfumato.runs import Plan
from sfumato.storage import check_writable

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

PLAN, LOCK = "plan.yaml", "fit.lock"
OF_A_RUN = ("weights-*.safetensors", "member-*.ckpt", "*method.safetensors", "*calibrator.safetensors",
            "*conformal.safetensors")  # fmt: skip
_held: set[Path] = set()  # the locks of this process: fcntl does not lock against the process that holds the lock


@rank_zero_only
def print_rank_zero(text: str) -> None:
    """Print, in the first process only."""
    print(plain(text))


@rank_zero_only
def warn_rank_zero(text: str) -> None:
    """Print a warning to stderr, in the first process only."""
    print(f"warning: {plain(text)}", file=sys.stderr)


def is_first() -> bool:
    """Whether this is the first process. The others start later and find what it wrote."""
    return getattr(rank_zero_only, "rank", 0) == 0


def check_output_dir(plan: Plan, folder: Path, resume: bool) -> None:
    """Check that a folder holds no run and no part of one, or the run to resume.

    Args:
        plan: The plan to train.
        folder: Where the run is written.
        resume: Whether an interrupted run is continued.

    Raises:
        RunExistsError: If the folder holds a run and ``resume`` is False.
        RunError: If the plan in the folder is another one.
        ResourceError: If nothing can be written there.
    """
    path = folder / PLAN
    if not is_first():
        return
    check_writable(path)
    if not path.exists():
        if left := sorted(each.name for kind in OF_A_RUN for each in folder.glob(kind)):
            raise RunExistsError(f"{folder} has no {PLAN}, but {left[0]} of another run: choose another --out")
        return
    if not resume:
        raise RunExistsError(f"{folder} holds a run already: pass --resume to go on with it, or another --out")
    if changed := Plan.load(path).difference(plan):
        raise RunError(f"{path} is another plan than requested ({changed}): change --out, or the choices")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process trains in it.

    The operating system releases the lock when the process ends in any way, so a killed training leaves none. On
    Windows nothing is locked.

    Raises:
        RunError: If another training holds the lock.
    """
    if fcntl is None or not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / LOCK).absolute()
    handle = _lock(path)
    _held.add(path)
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        _held.discard(path)


def _lock(path: Path) -> int:
    """The open and locked file. It is opened again if its last owner has just deleted it."""
    assert fcntl is not None
    while path not in _held:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except OSError:
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise RunError(
                f"process {owner} is training in {path.parent} (it holds {path.name}): wait until it ends, stop it, or "
                "choose another --out"
            ) from None
        os.close(handle)
    raise RunError(f"this process is training in {path.parent} already: wait until it ends, or choose another --out")
