"""Text on the terminal. Names from files are printed as plain text: no markup, no control characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from sfumato.errors import plain

LONGEST = 1000  # characters of a message; names from files may be longer


def first_process() -> bool:
    """Whether this is the first of all processes that run the command together. Only this one prints."""
    rank = os.environ.get("RANK")
    if rank is not None:
        return rank == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def echo(text: object) -> None:
    """Print a line to the standard output, once for all processes."""
    if first_process():
        print(plain(text))


def complain(problem: object) -> None:
    """Print a problem to the standard error, in one line."""
    text = plain(" ".join(str(problem).split()))
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 300]}…{text[-290:]}"
    print(f"sfumato: {cut}", file=sys.stderr)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to the standard output, once for all processes."""
    if not first_process():
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(title)), title_justify="left")
    for name in columns:
        table.add_column(Text(plain(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    Console(markup=False, highlight=False, emoji=False).print(table)
