"""What sensors must have in common before they are fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.predictions import ClassPrediction, ValuePrediction

P = TypeVar("P", ClassPrediction, ValuePrediction)


@dataclass(frozen=True)
class Fused(Generic[P]):
    """One prediction from several.

    Args:
        prediction: The fused prediction.
        used: Which of the S sensors it comes from (S, B, *event), bool. Where none is used nothing is known.
    """

    prediction: P
    used: Tensor


def check_sensors(predictions: Sequence[P], valid: Sequence[Tensor] | None) -> Tensor:
    """Check that predictions are of the same pixels and in the same unit.

    Args:
        predictions: At least one prediction.
        valid: For each a mask (B, *event). None if all pixels are valid.

    Returns:
        The masks (S, B, *event), bool.

    Raises:
        DataError: If there is no prediction, or sizes, units, kinds or the number of masks differ.
    """
    if not predictions:
        raise DataError("there is no prediction: give at least one sensor or frame")
    first = predictions[0]
    for number, other in enumerate(predictions):
        if type(other) is not type(first):
            raise DataError(
                f"sensor {number} gives a {type(other).__name__} and sensor 0 a {type(first).__name__}: fuse classes "
                "with classes and values with values"
            )
        if other.channels.shape != first.channels.shape:
            raise DataError(
                f"sensor {number} has the shape {tuple(other.channels.shape)} and sensor 0 "
                f"{tuple(first.channels.shape)}: expected the same pixels; use resized() or project them first"
            )
        units = getattr(first, "unit", ""), getattr(other, "unit", "")
        if units[0] != units[1]:
            raise DataError(f"sensor {number} is in {units[1]!r} and sensor 0 in {units[0]!r}: convert one of them")
    shape = torch.Size([first.channels.shape[0], *first.event])
    if valid is None:
        return torch.ones(len(predictions), *shape, dtype=torch.bool, device=first.channels.device)
    if len(valid) != len(predictions) or any(mask.shape != shape for mask in valid):
        found = [tuple(mask.shape) for mask in valid]
        raise DataError(f"masks have the shapes {found}, expected {len(predictions)} times {tuple(shape)}")
    return torch.stack(list(valid)).bool().to(first.channels.device)
