"""Uncertainties at valid pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.contracts import Prediction
from sfumato.errors import NotFiniteError
from sfumato.predictions import select, uncertainties


def select_uncertainties(maps: Tensor, mask: Tensor) -> Tensor:
    """The uncertainties (…, N) at the valid pixels of one image's maps (…, *event), given its mask (*event).

    Raises:
        NotFiniteError: If one is NaN at a valid pixel.
    """
    found = select(maps, mask)
    if bool(found.isnan().any()):
        raise NotFiniteError("an uncertainty is NaN at a valid pixel: check the network, or set valid to False there")
    return found


def uncertainty_maps(prediction: Prediction) -> Tensor:
    """Total, aleatoric and epistemic uncertainty (B, 3, *event) of a prediction, float32."""
    return torch.stack(list(uncertainties(prediction).values()), 1).float()
