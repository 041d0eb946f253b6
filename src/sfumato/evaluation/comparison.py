"""What a comparison of runs finds, and its tables: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sfumato.evaluation.results import NAN, Value
from sfumato.evaluation.typed_json import encode
from sfumato.sections import Json

COLUMNS = ("task", "score", "run", "seeds", "value", "low", "high", "std", "difference", "difference_low",
           "difference_high")  # fmt: skip
SIGNS = {"±": r"$\pm$", "−": "$-$"}


@dataclass(frozen=True)
class ComparedScore:
    """A score of one of several runs, or the mean of the score over runs that differ in their seed only.

    Args:
        value: The score, with its bootstrap interval over images.
        difference: The score minus that of the first run. Its interval comes from a paired bootstrap: both runs are
            scored on the same resampled images. None for the first run.
        spread: Standard deviation over the seeds (that of a sample, with n − 1). NaN for one run.
    """

    value: Value
    difference: Value | None
    spread: float = NAN


@dataclass(frozen=True)
class ComparedCurve:
    """A curve of one of several runs, or the mean over seeds.

    Args:
        x: Horizontal coordinates (N,).
        y: Vertical coordinates (N,). NaN where there are no data.
        spread: Their standard deviations over the seeds (N,). NaN for one run.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Headline scores of several runs on the same images.

    Args:
        names: Names of the runs. The others are compared with the first.
        images: Number of images.
        seeds: Number of runs with each name.
        tasks: Task → score → one entry for each name.
        curves: Task → curve → one entry for each name: ``reliability``, ``risk_coverage`` (the risk of the most certain
            pixels over their share), ``sparsification`` (that risk minus the least possible one, over the share that
            is left out), and ``ood_PART``, the ROC of a part of the uncertainty with other data.

    Pitfall: The intervals say how much the scores depend on the images. How much they depend on the seed of the
    training is said by ``spread``, where there are several seeds.
    """

    names: tuple[str, ...]
    images: int
    seeds: tuple[int, ...]
    tasks: Mapping[str, Mapping[str, tuple[ComparedScore, ...]]]
    curves: Mapping[str, Mapping[str, tuple[ComparedCurve, ...]]]

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.names)}, {self.images} images)"

    def to_json(self) -> dict[str, Json]:
        """All of it as JSON. NaN becomes None."""
        found = encode(self)
        assert isinstance(found, dict)
        return found

    def to_markdown(self) -> str:
        """A table for each task, with 95 % intervals over images in brackets, or with ± over seeds."""
        return markdown(self)

    def to_latex(self) -> str:
        """The same tables for LaTeX with the package ``booktabs``."""
        return latex(self)

    def to_csv(self) -> str:
        """All numbers, a line for each task, score and run. What is undefined is empty."""
        return comma_separated(self)


def markdown(comparison: Comparison) -> str:
    """A Markdown table for each task, with 95 % intervals over images in brackets, or ± over seeds."""
    tables = []
    for task in comparison.tasks:
        head, *rows = table(comparison, task)
        lines = [f"**{task}**, {caption(comparison)}", "", *map(_row, (head, ["---"] * len(head), *rows))]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def latex(comparison: Comparison) -> str:
    """A LaTeX table for each task, with the same cells as :func:`markdown`. It needs the package ``booktabs``."""
    tables = []
    for task in comparison.tasks:
        head, *rows = (" & ".join(map(_in_latex, cells)) + r" \\" for cells in table(comparison, task))
        columns = "l" + "r" * head.count(" & ")
        lines = [f"% {task}, {caption(comparison)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule",
                 *rows, r"\bottomrule", r"\end{tabular}"]  # fmt: skip
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def comma_separated(comparison: Comparison) -> str:
    """All numbers as CSV: a line for each task, score and run, without rounding. What is undefined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for task, scores in comparison.tasks.items():
        for score, entries in scores.items():
            for name, seeds, entry in zip(comparison.names, comparison.seeds, entries, strict=True):
                gap = entry.difference or Value(math.nan)
                numbers = (entry.value.value, entry.value.low, entry.value.high, entry.spread, gap.value, gap.low,
                           gap.high)  # fmt: skip
                writer.writerow([task, score, name, seeds, *("" if math.isnan(n) else n for n in numbers)])
    return text.getvalue().rstrip("\n")


FORMATS: Mapping[str, Callable[[Comparison], str]] = {"markdown": markdown, "latex": latex, "csv": comma_separated}


def caption(comparison: Comparison) -> str:
    """The number of images, and what ± and brackets mean."""
    counts = sorted({count for count in comparison.seeds if count > 1})
    spread = f", ± the standard deviation over {' or '.join(map(str, counts))} seeds" if counts else ""
    return f"{comparison.images} images, 95 % intervals over images{spread}"


def table(comparison: Comparison, task: str) -> list[list[str]]:
    """The rows of a task as text, the heading first."""
    first, *others = comparison.names
    rows = [["score", first, *(part for name in others for part in (name, f"{name} − {first}"))]]
    for score, (base, *entries) in comparison.tasks[task].items():
        cells = [_value(base), *(cell for entry in entries for cell in (_value(entry), _difference(entry)))]
        rows.append([score, *cells])
    return rows


def _value(entry: ComparedScore) -> str:
    value = f"{entry.value.value:.4g}"
    if not math.isnan(entry.spread):
        return f"{value} ± {entry.spread:.2g}"
    return value if math.isnan(entry.value.low) else f"{value} ({entry.value.low:.4g} to {entry.value.high:.4g})"


def _difference(entry: ComparedScore) -> str:
    gap = entry.difference or Value(math.nan)
    return f"{gap.value:+.3g}" + ("" if math.isnan(gap.low) else f" ({gap.low:+.3g} to {gap.high:+.3g})")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _in_latex(cell: str) -> str:
    found = re.sub(r"([&%$#_{}])", r"\\\1", cell)
    found = re.sub(r"(?<!\w)-(?=[\d.])", "−", found)
    return re.sub("[±−]", lambda sign: SIGNS[sign[0]], found)
