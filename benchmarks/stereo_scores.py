"""Scores of a stereo pair: errors of the disparity, and how well an uncertainty ranks them. All images are numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Maps = Mapping[str, np.ndarray]


def auroc(wrong: np.ndarray, uncertainty: np.ndarray) -> float:
    """Area under the ROC curve of an uncertainty (N,) that tells wrong from right pixels; ties count one half."""
    values, place = np.unique(uncertainty, return_inverse=True)
    bad = np.bincount(place, wrong, len(values))
    good = np.bincount(place, ~wrong, len(values))
    below = np.concatenate([[0], good.cumsum()[:-1]])
    total = bad.sum() * good.sum()
    return float((bad * (below + good / 2)).sum() / total) if total else math.nan


def risk_curve(error: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """The mean error of the 1 %, 2 %, …, 100 % least uncertain pixels. Tied pixels share their mean error."""
    order = np.argsort(uncertainty, kind="stable")
    ranked, sums = uncertainty[order], error[order].astype(np.float64)
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(ranked)]]))
    even = np.repeat(np.add.reduceat(sums, starts) / counts, counts)
    kept = np.ceil(np.arange(1, 101) / 100 * len(error)).astype(int)
    return even.cumsum()[kept - 1] / kept


def scores(disparity: np.ndarray, truth: np.ndarray, known: np.ndarray, uncertainties: Maps) -> dict[str, float]:
    """Scores of one pair.

    Args:
        disparity: (H, W) px.
        truth: (H, W) px.
        known: Where the truth is known (H, W).
        uncertainties: Maps (H, W), larger where the disparity is less sure. ``std`` is a standard deviation, px.

    Returns:
        ``epe``, and the shares ``bad1`` and ``bad2`` of pixels with an error above 1 and 2 px. For each uncertainty its
        ``auroc`` for bad1, ``epe80``, the error of the 80 % least uncertain pixels, and ``area``, the mean error over
        all coverages; ``area_oracle`` is that of the error itself, and ``shared`` the largest share of pixels that have
        the same value. For ``std`` also ``nll``, that of a normal distribution in nats, and ``coverage90``.
    """
    error = np.abs(disparity - truth)[known]
    wrong = error > 1
    found = {"epe": error.mean(), "bad1": wrong.mean(), "bad2": (error > 2).mean()}
    found["area_oracle"] = risk_curve(error, error).mean()
    for name, values in uncertainties.items():
        spread = values[known]
        curve = risk_curve(error, spread)
        found |= {f"auroc_{name}": auroc(wrong, spread), f"epe80_{name}": curve[79], f"area_{name}": curve.mean()}
        found[f"shared_{name}"] = np.unique(spread.astype(np.float32), return_counts=True)[1].max() / spread.size
    if "std" in uncertainties:
        variance = np.maximum(uncertainties["std"][known] ** 2, 1e-12)
        found["nll"] = (0.5 * (np.log(2 * np.pi * variance) + error**2 / variance)).mean()
        found["coverage90"] = (error <= 1.6449 * np.sqrt(variance)).mean()
    return {name: float(value) for name, value in found.items()}


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over pairs of each score that all of them have."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: round(float(np.nanmean([row[name] for row in rows])), 5) for name in names}
