"""The curves of a comparison as figures for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfumato.report.curves import COLORS, FADED
from sfumato.report.figures import STYLE
from sfumato.storage import atomic_write

if TYPE_CHECKING:
    from sfumato.evaluation import ComparedCurve, Comparison

AXES = {
    "reliability": ("predicted", "observed"),
    "risk_coverage": ("kept: share of the most certain pixels", "risk of the kept"),
    "sparsification": ("left out: share of the most uncertain pixels", "risk above the least possible"),
    "ood_aleatoric": ("false-positive rate", "true-positive rate (aleatoric)"),
    "ood_epistemic": ("false-positive rate", "true-positive rate (epistemic)"),
    "ood_novelty": ("false-positive rate", "true-positive rate (novelty)"),
}
FORMATS = ("pdf", "svg")
LINES = ("-", "--", "-.", ":")


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write each curve of a comparison as ``TASK-CURVE.pdf`` and ``.svg``: a line for each run.

    Bands are one standard deviation over the seeds.

    Args:
        comparison: The comparison.
        folder: Where the files are written. It is made if it is not there.

    Returns:
        The files.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [path for task in comparison.curves for path in _save(comparison, task, Path(folder))]


def _save(comparison: Comparison, task: str, folder: Path) -> Iterator[Path]:
    for name, curves in comparison.curves[task].items():
        # The same curves give the same bytes; letters stay letters in a PDF too.
        with rc_context({**STYLE, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": name}):
            figure = Figure((4.2, 3.4), layout="constrained")
            _draw(figure.subplots(), name, comparison.names, curves)
            for kind in FORMATS:
                path = folder / f"{task}-{name}.{kind}"
                with atomic_write(path) as part:
                    figure.savefig(part, format=kind, metadata={"CreationDate" if kind == "pdf" else "Date": None})
                yield path


def _draw(axis: Axes, name: str, names: Sequence[str], curves: Sequence[ComparedCurve]) -> None:
    if name == "reliability" or name.startswith("ood_"):
        axis.plot([0, 1], [0, 1], color=FADED, lw=1, ls=":", label="ideal" if name == "reliability" else "chance")
        axis.set(ylim=(0, 1), aspect="equal")
    for number, (label, curve) in enumerate(zip(names, curves, strict=True)):
        color, line = COLORS[number % len(COLORS)], LINES[number // len(COLORS) % len(LINES)]
        marker = "o" if name == "reliability" and len(curve.x) < 30 else ""  # an empty bin interrupts the line
        axis.plot(curve.x, curve.y, color=color, ls=line, lw=1.6, marker=marker, ms=3, label=label)
        low, high = ([y + sign * s for y, s in zip(curve.y, curve.spread)] for sign in (-1, 1))
        axis.fill_between(curve.x, low, high, color=color, alpha=0.2, lw=0)
    horizontal, vertical = AXES.get(name, (name, ""))
    axis.set(xlim=(0, 1), xlabel=horizontal, ylabel=vertical)
    axis.legend(frameon=False, fontsize=8)
