"""What all scores do with a batch first: check its mask, and select the valid pixels of each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.contracts import Prediction
from sfumato.errors import DataError, NotFiniteError
from sfumato.predictions import uncertainties


def check_mask(valid: Tensor, size: Sequence[int], what: str) -> None:
    """Raise unless ``valid`` is bool and has the size (B, *event) of what it is a mask of.

    Args:
        valid: The mask.
        size: The expected size.
        what: What has this size, for the message.

    Raises:
        DataError: If it has another size or type.
    """
    if valid.dtype != torch.bool or tuple(valid.shape) != tuple(size):
        raise DataError(
            f"valid is {valid.dtype} {tuple(valid.shape)}, expected torch.bool {tuple(size)}, the size of the {what}"
        )


def select(maps: Tensor, mask: Tensor) -> Tensor:
    """The valid pixels (…, N) of one image's maps (…, *event), given its mask (*event)."""
    flat = maps.reshape(*maps.shape[: maps.ndim - mask.ndim], mask.numel())
    return flat.index_select(-1, mask.flatten().nonzero()[:, 0])


def select_uncertainties(maps: Tensor, mask: Tensor) -> Tensor:
    """As :func:`select`, for maps of uncertainties.

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
