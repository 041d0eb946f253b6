"""Choose the smallest sets whose risk is controlled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.errors import DataError


def controlled(losses: Tensor, risk: float, delta: float) -> int:
    """The index of the first choice that keeps the risk, among choices with ever larger sets.

    Args:
        losses: Loss (n, L) of each image and choice, in [0, 1], never rising along L, 0 at its end.
        risk: The allowed risk.
        delta: 0 to limit the expected risk, else the probability of failure.

    Raises:
        DataError: If n images are too few for any choice.
    """
    images, mean = len(losses), losses.double().mean(0)
    needed = images_needed(risk, delta)
    if images < needed:
        wanted = f"level {1 - risk:.4g}" + (f" with probability {1 - delta:.4g}" if delta else "")
        raise DataError(f"{images} held-out images are too few for {wanted}: it needs at least {needed}")
    if not delta:
        kept = (images * mean + 1) / (images + 1) <= risk + 1e-12
    else:
        kept = torch.tensor([p_value(m, risk, images) <= delta for m in mean.tolist()])
    return int(kept.int().argmax())  # the first one; the last one always keeps it


def images_needed(risk: float, delta: float = 0.0) -> int:
    """The smallest number of held-out images for which a choice without any loss keeps the risk.

    >>> images_needed(0.1), images_needed(0.05), images_needed(0.1, 0.1)
    (9, 19, 22)
    """
    if not delta:
        return math.ceil(1 / risk - 1 - 1e-9)
    return math.ceil(math.log(delta) / math.log1p(-risk) - 1e-9)


def p_value(mean: float, risk: float, images: int) -> float:
    """Upper bound on the probability of a mean loss this small, if the true risk is above ``risk``.

    It is the smaller one of the bounds of Hoeffding and of Bentkus.

    Source: Bates et al. (2021), §3.1, and Angelopoulos et al. (2022), "Learn then test", proposition 1.
    """
    if mean >= risk:
        return 1.0
    entropy = (mean * math.log(mean / risk) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - risk))
    return min(math.exp(-images * entropy), math.e * _binomial(math.ceil(images * mean - 1e-9), images, risk))


def _binomial(most: int, trials: int, chance: float) -> float:
    """P(X ≤ most) for X ~ Binomial(trials, chance)."""
    k = torch.arange(most + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    log = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return float((log + k * math.log(chance) + (n - k) * math.log1p(-chance)).exp().sum())
