"""Masks of valid pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.errors import DataError


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
    """The valid pixels (…, N) of one image's maps (…, *event), given its mask (*event).

    >>> select(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([True, False, True]))
    tensor([[1, 3],
            [4, 6]])
    """
    flat = maps.reshape(*maps.shape[: maps.ndim - mask.ndim], mask.numel())
    return flat.index_select(-1, mask.flatten().nonzero()[:, 0])
