"""Choose the smallest sets whose risk is controlled."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from sfumato.errors import DataError

CHUNK = 64  # choices that are tested at a time


def controlled(losses: Tensor, risk: float, delta: float, unit: str = "image") -> int:
    """The index of the smallest sets that keep the risk, among choices with ever larger sets.

    Without ``delta`` it is the first choice with ``(n mean + 1) / (n + 1) ≤ risk``. With ``delta`` choices are tested
    from the last one, which is the most careful, to the first one, and the walk ends where a test fails.

    Args:
        losses: Loss (n, L) of each image and choice, in [0, 1], never rising along L, 0 at its end.
        risk: The allowed risk.
        delta: 0 to limit the expected risk, else the probability of failure.
        unit: What a row of losses is of, for messages. Default image.

    Raises:
        DataError: If n images are too few for any choice.

    Source: Angelopoulos et al. (2024) without delta; Bates et al. (2021) and, for the walk, Angelopoulos et al. (2022),
    "Learn then test", with it.
    """
    images = len(losses)
    needed = images_needed(risk, delta)
    if images < needed:
        wanted = f"level {1 - risk:.4g}" + (f" with probability {1 - delta:.4g}" if delta else "")
        raise DataError(f"{images} held-out {unit}s are too few for {wanted}: it needs at least {needed}")
    if not delta:
        kept = (images * losses.double().mean(0) + 1) / (images + 1) <= risk + 1e-12
        return int(kept.int().argmax())  # the last one always keeps it
    place = losses.shape[1] - 1
    for stop in range(losses.shape[1], 0, -CHUNK):
        chunk = losses[:, max(0, stop - CHUNK) : stop]
        failed = (p_values(chunk, risk, delta) > delta).nonzero()
        if len(failed):
            return min(place, stop - chunk.shape[1] + int(failed[-1]) + 1)
        place = stop - chunk.shape[1]
    return place


@cache
def images_needed(risk: float, delta: float = 0.0) -> int:
    """The smallest number of held-out images for which a choice without any loss keeps the risk.

    Args:
        risk: The allowed risk, in (0, 1).
        delta: 0 to limit the expected risk, else the probability of failure. Default 0.

    >>> images_needed(0.1), images_needed(0.05), images_needed(0.1, 0.1)
    (9, 19, 25)
    """
    if not delta:
        return math.ceil(1 / risk - 1 - 1e-9)
    images = max(1, math.ceil(math.log(delta) / math.log1p(-risk) - 1e-9))  # no test can do with fewer
    while float(p_values(torch.zeros(images, 1), risk, delta)) > delta:
        images += 1
    return images


def p_values(losses: Tensor, risk: float, delta: float) -> Tensor:
    """Upper bounds (L,) on the probability of losses this small, if their true mean is ``risk`` or more.

    A gambler bets that losses are below ``risk``: the capital is ``K_t = Π (1 − b_j (loss_j − risk))``. If the mean is
    ``risk`` or more, the capital is not expected to grow, and it ever reaches ``1 / p`` with probability p at most
    (Ville). The bets ``b_t = min(1, sqrt(2 log(1 / δ) / (n v)))`` depend on the variance v of the losses before t.

    Args:
        losses: Loss (n, L) of each image, in [0, 1]. The images are put into an order that is fixed and does not depend
            on their losses.
        risk: The mean that is tested, in (0, 1).
        delta: The level δ at which the bets gain most, in (0, 1).

    Returns:
        p-values in (0, 1], float64: ``1 / max_t K_t``.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", in the form of
    Bates et al. (2021), proposition 5.
    Pitfall: It is not monotone in the losses. So tests of several choices need an order, see :func:`controlled`.
    """
    images = len(losses)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    loss = losses[order].double().cpu()
    weight = torch.arange(2, images + 2, dtype=torch.float64)[:, None]
    mean = (0.5 + loss.cumsum(0)) / weight
    variance = (0.25 + (loss - mean).square().cumsum(0)) / weight
    before = torch.cat([torch.full_like(variance[:1], 0.25), variance[:-1]])
    bets = (2 * math.log(1 / delta) / (images * before)).sqrt().clamp_max(1)
    capital = torch.log1p(-bets * (loss - risk)).cumsum(0)
    return capital.amax(0).neg().exp().clamp_max(1)
