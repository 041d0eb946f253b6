"""What the objectives for rare classes compute: the Dice loss, and weights of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.errors import ConfigError

BALANCED = "balanced"


def soft_dice(probs: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """``1 − mean_k 2 Σ p_k t_k / (Σ p_k + Σ t_k)`` over the classes with a valid pixel; 0 without a valid pixel.

    Args:
        probs: Probabilities (B, K, *event).
        truth: True probabilities (B, K, *event), 0 or 1 for labels.
        valid: Mask (B, *event).

    >>> probs = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])  # two pixels, of class 0 and of class 1
    >>> soft_dice(probs, torch.eye(2)[None], torch.tensor([[True, True]]))  # 1 − (2/2.5 + 1/1.5) / 2
    tensor(0.2667)
    """
    over, mask = [dim for dim in range(probs.ndim) if dim != 1], valid[:, None]
    known = truth.where(mask, 0)
    hits, predicted, true = (probs * known).sum(over), (probs * mask).sum(over), known.sum(over)
    shown = true > 0
    overlap = 2 * hits / (predicted + true).where(shown, 1)
    return ((1 - overlap) * shown).sum() / shown.sum().clamp_min(1)


def class_weights_of(given: Sequence[float] | str, counts: Sequence[int], classes: int) -> Tensor:
    """Weights (K,) of the classes with a mean of 1 over the training pixels.

    Args:
        given: A weight ≥ 0 for each class, ``"balanced"`` for weights inverse to ``counts``, or empty for equal ones.
        counts: Number of training pixels of each class (K,), or empty if unknown.
        classes: K.

    Raises:
        ConfigError: If there is not one finite weight ≥ 0 for each class, or none above 0 for a class with pixels.

    >>> class_weights_of("balanced", (75, 25), 2)
    tensor([0.6667, 2.0000])
    """
    pixels = torch.tensor(counts, dtype=torch.float64) if len(counts) == classes else torch.ones(classes).double()
    pixels = pixels if bool(pixels.any()) else torch.ones_like(pixels)
    if not len(given):
        return torch.ones(classes)
    if isinstance(given, str):
        if given != BALANCED:
            raise ConfigError(f'class_weights is {given!r}, expected "{BALANCED}" or a number for each class')
        weights = 1 / pixels.clamp_min(pixels[pixels > 0].min())
    else:
        if len(given) != classes or not all(isinstance(each, int | float) and 0 <= each < math.inf for each in given):
            raise ConfigError(f"class_weights is {list(given)}, expected {classes} numbers of at least 0")
        weights = torch.tensor(given, dtype=torch.float64)
    mean = float((weights * pixels).sum() / pixels.sum())
    if not mean > 0:
        raise ConfigError(f"class_weights is {given}: no class with a training pixel has a weight above 0")
    return (weights / mean).float()
