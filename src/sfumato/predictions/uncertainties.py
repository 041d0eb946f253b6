"""The three uncertainties of every prediction."""

from __future__ import annotations

from torch import Tensor

from sfumato.contracts import Prediction

UNCERTAINTIES = ("total", "aleatoric", "epistemic")
"""Names of the uncertainties that every prediction has, in the order in which they are shown."""


def uncertainties(prediction: Prediction) -> dict[str, Tensor]:
    """Total, aleatoric and epistemic uncertainty of a prediction by name, each (B, *event)."""
    return {"total": prediction.total, "aleatoric": prediction.aleatoric, "epistemic": prediction.epistemic}
