"""What surrounds a command: signals, exceptions about the machine, and the messages of other libraries."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sfumato.errors import ResourceError, SfumatoError, out_of_memory

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ": free some disk space and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ": change the permissions, or choose another place"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), ": lower --workers, or raise the limit of open files (ulimit -n)"),
}
TERMINATED = 143  # the exit code after SIGTERM


@contextmanager
def termination() -> Iterator[None]:
    """End with exit code 143 after SIGTERM, in such a way that open files are closed and temporary files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


@contextmanager
def resource_errors() -> Iterator[None]:
    """Turn what Python and torch raise when the machine lacks something into a :class:`ResourceError`."""
    try:
        yield
    except (SfumatoError, BrokenPipeError):
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ResourceError(
            "there is not enough memory: take a smaller --batch, --crop, --size or network to train, --tile to predict"
        ) from error
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise ResourceError(f"{what}{ADVICE.get(error.errno or 0, '')}") from error


def patient_threads() -> None:
    """Let idle threads sleep instead of spinning. This has an effect only before torch is imported.

    Where another program uses one of the cores, spinning threads make a training many times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
