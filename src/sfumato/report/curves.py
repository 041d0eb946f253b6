"""Curves as SVG elements for a page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sfumato.report.data import Rejection, Reliability, Series
from sfumato.report.figures import STYLE

if TYPE_CHECKING:
    from sfumato.evaluation import OODHistogram

INK, FADED, WARM, COOL = "#1f2933", "#9aa5b1", "#b4532a", "#2b6a8f"
COLORS = (WARM, COOL, "#5b7f3a", "#7d5ba6")


def svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element. Its text stays text, and its ids start with ``name``."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    # Every matplotlib figure calls its groups "axes_1", "line2d_1", …: ids must differ within one page.
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)


def reliability(curve: Reliability) -> str:
    """Observed against predicted frequency, with the share of pixels of each point."""
    with rc_context(STYLE):
        figure = Figure((4.6, 4.0), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=FADED, lw=1, ls="--", label="ideal")
        filled = [i for i, pair in enumerate(zip(curve.predicted, curve.observed)) if all(map(math.isfinite, pair))]
        predicted, observed = ([some[i] for i in filled] for some in (curve.predicted, curve.observed))
        if total := sum(curve.count):
            shares = [curve.count[i] / total for i in filled]
            axis.bar(predicted, shares, 0.7 / len(curve.count), color=FADED, alpha=0.35, label="share of pixels")
        name = "this network"
        if curve.uncalibrated is not None:
            before, name = curve.uncalibrated, "calibrated"
            axis.plot(before.predicted, before.observed, color=COOL, marker="o", ms=3, lw=1, label="uncalibrated")
        axis.plot(predicted, observed, color=WARM, marker="o", ms=4 if len(filled) < 30 else 0, label=name)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"predicted ({curve.kind})", ylabel="observed", aspect="equal")
        axis.legend(frameon=False, loc="upper left")
        return svg(figure, "reliability")


def rejection(curve: Rejection) -> str:
    """Risk of the kept pixels against the share of kept pixels, for each ordering."""
    with rc_context(STYLE):
        figure = Figure((4.6, 4.0), layout="constrained")
        axis = figure.subplots()
        colors = iter(COLORS * len(curve.risks))
        for name, risks in curve.risks.items():
            ideal = name.startswith("oracle")
            color = FADED if ideal else next(colors)
            axis.plot([100 * k for k in curve.kept], risks, lw=1.6, label=name, color=color, ls="--" if ideal else "-")
        axis.set(xlim=(0, 100), xlabel="kept: the most certain (%)", ylabel=f"{curve.risk} of the kept")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, title="rejected in the order of", alignment="left")
        return svg(figure, "rejection")


def history(series: Mapping[str, Series]) -> str:
    """Training curves. Names that end in the same word share a picture; each picture is an ``<svg>`` of its own."""
    pictures: dict[str, dict[str, Series]] = {}
    for name, points in series.items():
        pictures.setdefault((name.split() or [""])[-1], {})[name] = points
    drawn: list[str] = []
    with rc_context(STYLE):
        for number, (unit, lines) in enumerate(pictures.items()):
            figure = Figure((4.6, 3.0), layout="constrained")
            _lines(figure.subplots(), unit, lines)
            drawn.append(svg(figure, f"history{number}"))
    return "".join(drawn)


def _lines(axis: Axes, unit: str, lines: Mapping[str, Series]) -> None:
    for (name, (x, y)), color in zip(lines.items(), (WARM, COOL, FADED, INK) * len(lines)):
        axis.plot(x, y, color=color, lw=1.6, marker="o" if len(x) < 20 else "", ms=4, label=name)
    axis.set(xlabel="epoch", ylabel=unit)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if unit == "weight":  # of tasks: ratios are what counts
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else range(1, 10)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda weight, _: f"{weight:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False)


def ood_histograms(parts: Mapping[str, OODHistogram], unit: str, outside: str) -> str:
    """Histograms of each part of the uncertainty in and out of distribution, each an ``<svg>`` of its own.

    Args:
        parts: The histograms by name.
        unit: Unit of the uncertainties. A novelty score has none.
        outside: Name of the data out of distribution.
    """
    drawn: list[str] = []
    with rc_context(STYLE):
        for name, histogram in parts.items():
            figure = Figure((4.6, 3.0), layout="constrained")
            axis = figure.subplots()
            _steps(axis, histogram, outside)
            ends = (histogram.edges[0], histogram.edges[-1])
            axis.set(xlabel=name if name == "novelty" else f"{name} ({unit})", ylabel="share of pixels (%)", xlim=ends)
            axis.xaxis.set_major_locator(MaxNLocator(5))  # more labels such as 0.0025 would overlap
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.legend(frameon=False)
            drawn.append(svg(figure, f"ood-{name}"))
    return "".join(drawn)


def _steps(axis: Axes, histogram: OODHistogram, outside: str) -> None:
    rows = (
        (histogram.inside, histogram.means[0], COOL, "in distribution"),
        (histogram.outside, histogram.means[1], WARM, outside),
    )
    for counts, mean, color, label in rows:
        total = sum(counts) or 1.0
        shares = [100 * count / total for count in counts]
        axis.stairs(shares, list(histogram.edges), color=color, lw=1.4, fill=True, alpha=0.25)
        axis.stairs(shares, list(histogram.edges), color=color, lw=1.4, label=f"{label}, mean {mean:.3g}")
        axis.axvline(mean, color=color, lw=1, ls=":")
