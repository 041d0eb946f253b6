"""The command line: ``sfumato COMMAND``, a file for each command."""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

GO_ON = "`sfumato fit --resume` goes on where it stopped"
FLAGS = ("--resume", "--quiet", "--json", "--all", "--deterministic", "--on_the_fly")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 the machine failed, 2 the request cannot be met."""
    parser, commands = _parser()
    given = [_underscored(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    asked = parser.parse_args([f"{a}=true" if a in FLAGS else a for a in given])
    settings = vars(parser.instantiate_classes(asked)[asked.subcommand])
    settings.pop("config", None)
    _hush()
    try:
        commands[asked.subcommand](**settings)
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        return _complain(error, 2)
    except OSError as error:
        full = error.errno == errno.ENOSPC or "No space left" in str(error)
        return _complain(f"{error}: free some disk space; {GO_ON}" if full else error, 1)
    except KeyboardInterrupt:
        return _complain(f"interrupted; {GO_ON}", 130)
    return 0


def _hush() -> None:
    """Keep Lightning's advice to developers from users; our own warnings and every error still speak."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def _underscored(argument: str) -> str:
    """``--num-nodes=2`` as ``--num_nodes=2``: both spellings are understood."""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def _complain(problem: object, code: int) -> int:
    print(f"sfumato: {' '.join(str(problem).split())}", file=sys.stderr)
    return code


def _parser() -> tuple[Any, dict[str, Callable[..., None]]]:
    from jsonargparse import ArgumentParser

    from sfumato import __version__
    from sfumato.cli.calibrate import calibrate
    from sfumato.cli.demo import demo
    from sfumato.cli.distill import distill
    from sfumato.cli.evaluate import evaluate
    from sfumato.cli.export import export
    from sfumato.cli.fit import fit
    from sfumato.cli.predict import predict
    from sfumato.cli.report import report

    parser = ArgumentParser(prog="sfumato", description="Uncertainty in dense prediction.", version=__version__)
    subcommands = parser.add_subcommands()
    table: dict[str, Callable[..., None]] = {}
    for command in (demo, fit, distill, calibrate, evaluate, predict, report, export):
        summary = (command.__doc__ or "").partition("\n\n")[0]
        sub = ArgumentParser(description=summary)
        sub.add_argument("--config", action="config", help="YAML file with these settings; `fit` takes a plan.yaml")
        sub.add_function_arguments(command, None, as_group=False, as_positional=True, skip={"inputs"})
        if command is predict:  # several words, which a signature cannot say
            sub.add_argument("inputs", nargs="+", help="image files, folders, globs or videos")
        subcommands.add_subcommand(command.__name__, sub, help=summary)
        table[command.__name__] = command
    return parser, table
