"""The command line: ``sfumato COMMAND``, one file for each command. Commands parse and print, nothing else."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from sfumato.cli.console import complain
from sfumato.cli.environment import TERMINATED, patient_threads, resource_errors, termination
from sfumato.cli.options import Command, read, summary
from sfumato.errors import ConfigError, ResourceError, SfumatoError, plain, similar

COMMANDS = (
    "demo", "fit", "wrap", "posthoc", "distill", "calibrate", "evaluate", "compare", "sweep", "predict", "decide",
    "acquire", "loop", "egomotion", "fuse", "report", "export", "serve", "check", "plugins",
)  # fmt: skip
OPTIONS = (
    "options:",
    "  --version  show the version",
    "  --help     show this text, or after a command its options",
    "  --debug    show the traceback of an error",
    "",
    "exit codes:",
    "  0 done, 1 the machine lacks something, 2 the request cannot be met, 130 interrupted, 143 terminated",
)
CONTINUE = "`sfumato fit --resume` continues an interrupted training"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done. 1: the machine lacks something, such as disk space. 2: the request cannot be met. 130: interrupted.
    143: terminated. Any other error is a fault of this package and ends with a traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with termination(), resource_errors():
            _run([word for word in words if word != "--debug"])
    except SfumatoError as error:
        if debug:
            print(plain(traceback.format_exc()), end="", file=sys.stderr)
        complain(error)
        return 1 if isinstance(error, ResourceError) else 2
    except KeyboardInterrupt as stop:
        complain(f"interrupted; {_advice(stop)}")
        return 130
    except SystemExit as end:
        if end.code != TERMINATED:
            raise
        complain(f"terminated; {_advice(end)}")
        return TERMINATED
    except BrokenPipeError:  # the reader of the output, such as `head`, has stopped
        sys.stdout = None
        return 1
    return 0


def _run(words: list[str]) -> None:
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        from sfumato import __version__

        print(f"sfumato {__version__}")
    elif name not in COMMANDS:
        meant = similar(name, COMMANDS)
        raise ConfigError(f"there is no command {name!r}{meant}: expected one of {', '.join(COMMANDS)}")
    else:
        patient_threads()
        command = _command(name)
        settings = read(name, command, rest)
        if settings is not None:
            command(**settings)


def _advice(stop: BaseException) -> str:
    """What the interrupted command has left, or how trainings are continued."""
    notes: list[str] = getattr(stop, "__notes__", [])
    return "; ".join(notes) or CONTINUE


def _command(name: str) -> Command:
    return getattr(import_module(f"sfumato.cli.{name}"), name)


def _help() -> str:
    lines = [f"  {name:11s}{plain(summary(_command(name)))}" for name in COMMANDS]
    return "\n".join(["usage: sfumato COMMAND [OPTIONS]", "", "commands:", *lines, "", *OPTIONS])
