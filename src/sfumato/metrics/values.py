"""Scores of values at single pixels, before any mean over pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.errors import DataError, NotFiniteError

SUMS = ("square", "epe", "abs_rel", "sq_rel", "square_log", "log", "nll", "crps", "width")
"""Names of what :func:`per_pixel` returns, and of the width of the central 90 % interval, mean over D."""

TINY = torch.finfo(torch.float32).tiny


def check(mean: Tensor, variance: Tensor, target: Tensor) -> None:
    """Raise unless these valid pixels hold finite values and variances ≥ 0.

    Raises:
        DataError: If a target is not finite.
        NotFiniteError: If a mean is not finite, or a variance is not finite or below 0.
    """
    if not bool(target.isfinite().all()):
        raise DataError("target is NaN or infinite at a valid pixel: set valid to False there")
    for name, tensor in (("mean", mean), ("variance", variance)):
        if not bool(tensor.isfinite().all()):
            raise NotFiniteError(
                f"{name} is NaN or infinite at a valid pixel: check the network, or set valid to False"
            )
    if bool((variance < 0).any()):
        raise NotFiniteError(f"variance is {float(variance.min()):.3g} at a valid pixel, expected at least 0")


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``½ log 2πσ² + (y − μ)² / 2σ²`` in nats, of the normal distribution with these moments; σ² at least 1e-38.

    Source: Dawid and Sebastiani (1999): as a score of two moments it is proper for any true distribution.
    Pitfall: It is a density, so it depends on the unit and may be negative. The NLL of a Laplace distribution differs.
    """
    variance = variance.clamp_min(TINY)
    return 0.5 * ((2 * math.pi * variance).log() + (target - mean).square() / variance)


def gaussian_crps(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π)`` with ``z = (y − μ)/σ``, in the target's unit; ``|y − μ|`` where σ is 0.

    Source: Gneiting and Raftery (2007), the closed form of equation 21 for the normal distribution.
    """
    spread = variance.clamp_min(TINY).sqrt()
    z = (target - mean) / spread
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return spread * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def cumulative(standardized: Tensor, quantiles: Tensor | None) -> Tensor:
    """The predicted probability in [0, 1] of a smaller value than this one.

    Args:
        standardized: Values ``(y − μ)/σ`` of any shape.
        quantiles: Quantiles (Q,) at the levels ``i / (Q + 1)``, between which the distribution is linear. None for the
            normal distribution.
    """
    if quantiles is None:
        return torch.special.ndtr(standardized)
    ends = quantiles.to(standardized)
    after = torch.searchsorted(ends, standardized.contiguous()).clamp(1, len(ends) - 1)
    low, high = ends[after - 1], ends[after]
    return (after + ((standardized - low) / (high - low).clamp_min(TINY)).clamp(0, 1)) / (len(ends) + 1)


def ratio(mean: Tensor, target: Tensor) -> Tensor:
    """``max(ŷ/y, y/ŷ)`` (N,), the largest over D. Infinite where one of the two is not above 0."""
    both = (mean > 0) & (target > 0)
    return torch.maximum(mean / target, target / mean).where(both, torch.inf).amax(0)


def per_pixel(mean: Tensor, variance: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """The scores that :data:`SUMS` names, without the width, each (N,).

    Errors are lengths over D. The relative and logarithmic errors need positive values and are NaN elsewhere.

    Args:
        mean: Mean (D, N) in the target's unit.
        variance: Variance (D, N) in its square, ≥ 0.
        target: Target (D, N).

    Source: Eigen et al. (2014) for depth.
    Pitfall: log10 is the mean of ``|log10 ŷ − log10 y|``; a root mean square of it cannot be compared with it.
    """
    square = (mean - target).square().sum(0)
    error, size = square.sqrt(), torch.linalg.vector_norm(target, dim=0)
    positive = (mean > 0) & (target > 0)
    log = (mean / target).log().where(positive, torch.nan).abs().sum(0)
    nll, crps = (score(mean, variance, target).sum(0) for score in (gaussian_nll, gaussian_crps))
    return square, error, error / size, square / size, log.square(), log, nll, crps
