"""The curves of one run that a comparison draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from sfumato.evaluation.ood import PARTS
from sfumato.metrics import ranking

if TYPE_CHECKING:
    from sfumato.evaluation.tally import TaskTally

Line = tuple[Tensor, Tensor]
"""x and y of a curve, each (N,)."""


def lines_of(tally: TaskTally) -> dict[str, Line]:
    """The curves of what a tally has counted, by the names of :class:`Comparison`. Scores of plug-ins may have none."""
    curves = {name: {key: each.cpu() for key, each in curve.items()} for name, curve in tally.scores.curves().items()}
    found = {}
    if "reliability" in curves:
        x, y, _ = curves["reliability"].values()
        found["reliability"] = x, y
    if "rejection" in curves:
        coverage, kept, *oracle = curves["rejection"].values()
        # For classes the risk is the share of wrong pixels. The best order leaves these out first.
        risk = kept if oracle else 1 - kept
        best = oracle[0] if oracle else ((coverage - kept[-1]) / coverage).clamp_min(0)
        found["risk_coverage"] = coverage, risk
        found["sparsification"] = (1 - coverage).flip(0), (risk - best).flip(0)
    if tally.ood is not None:
        pixels = tally.ood.histograms.compute()["pixels"]
        for part, (inside, outside) in zip(PARTS, pixels):
            if bool(inside[1:].sum() + outside[1:].sum()) and bool(inside.sum()) and bool(outside.sum()):
                found[f"ood_{part}"] = ranking.roc(inside, outside)
    return found
