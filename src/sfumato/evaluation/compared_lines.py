"""The curves of one run that a comparison draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from sfumato.evaluation.ood import OODTally
    from sfumato.metrics.scores import Scores

Line = tuple[Tensor, Tensor]
"""x and y of a curve, each (N,)."""


def lines_of(scores: Scores[Any], ood: OODTally | None) -> dict[str, Line]:
    """The curves of what was counted, by the names of :class:`Comparison`. Scores of plug-ins may have none."""
    curves = {name: {key: each.cpu() for key, each in curve.items()} for name, curve in scores.curves().items()}
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
    if ood is not None:
        from sfumato.evaluation.ood import PARTS  # imports torchmetrics
        from sfumato.metrics import ranking

        pixels = ood.histograms.compute()["pixels"]
        for part, (inside, outside) in zip(PARTS, pixels):
            if bool(inside[1:].sum() + outside[1:].sum()) and bool(inside.sum()) and bool(outside.sum()):
                found[f"ood_{part}"] = ranking.roc(inside, outside)
    return found
