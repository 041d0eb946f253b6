"""A CSV file with the metrics of a training. A resumed training continues it."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sfumato.errors import RunError
from sfumato.sections import one_line
from sfumato.storage import atomic_write

FILE = "metrics.csv"


class MetricsFile(Logger):
    """Writes ``metrics.csv`` with one row for each step at which something is logged.

    A score that the data leave undefined has an empty cell. Rows of an earlier, interrupted training stay, up to the
    step at which the new one starts.

    Args:
        folder: The folder of the file.

    Pitfall: Lightning logs the metrics of an epoch after its checkpoint is written. A process that is killed between
    the two leaves no row of that epoch.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / FILE
        self._rows: list[dict[str, float]] | None = None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """There is one version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; metrics of the same step and epoch share one."""
        number = step or 0
        if self._rows is None:
            self._rows = [row for row in read_metrics(self.path) if row["step"] < number]
        row: dict[str, float] = {
            name: float(value) for name, value in metrics.items() if math.isfinite(float(value))
        } | {"step": number}
        if "epoch" in metrics:
            row["epoch"] = int(metrics["epoch"])
        if self._rows and self._rows[-1]["step"] == number and not self._rows[-1].keys() & row.keys() - SHARED:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)

    def log_hyperparams(self, params: dict[str, object] | Namespace, *args: object, **kwargs: object) -> None:
        """Nothing: the plan holds them."""

    @rank_zero_only
    def save(self) -> None:
        """Write the file."""
        if not self._rows:
            return
        names = ["epoch", "step", *sorted({name for row in self._rows for name in row} - SHARED)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)


SHARED = {"epoch", "step"}


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.csv``, each with the cells that are not empty. None if there is no file.

    Raises:
        RunError: If it is cut off or holds something else.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {str(name): int(value) if name in SHARED else float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        if not all("step" in row and all(map(math.isfinite, row.values())) for row in rows):
            raise ValueError("a row lacks the step, or holds a number that is not finite")
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({one_line(error)}): delete it, and there is no training curve") from error
    return rows
