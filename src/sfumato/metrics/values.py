"""Scores of values at single pixels; means over pixels are taken elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SUMS = ("square", "epe", "abs_rel", "sq_rel", "square_log", "log", "nll", "crps", "width")
"""What :func:`per_pixel` returns, and last the width of the central 90 % interval, mean over D."""

TINY = torch.finfo(torch.float32).tiny


def check(mean: Tensor, variance: Tensor, target: Tensor) -> None:
    """Raise unless these valid pixels hold finite values and variances ≥ 0."""
    for name, tensor in (("target", target), ("mean", mean), ("variance", variance)):
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is NaN or infinite at a valid pixel: mark such pixels as not valid")
    if bool((variance < 0).any()):
        raise ValueError(f"variance is {float(variance.min()):.3g} at a valid pixel, expected at least 0")


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``½ log 2πσ² + (y − μ)² / 2σ²`` in nats, of the normal law with the predicted moments; σ² of at least 1e-38.

    Source: Dawid and Sebastiani (1999): as a score of two moments it is proper whatever the true law.
    Pitfall: a density, so it depends on the unit and may be negative; a Laplace law's own likelihood differs.
    """
    variance = variance.clamp_min(TINY)
    return 0.5 * ((2 * math.pi * variance).log() + (target - mean).square() / variance)


def gaussian_crps(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π)`` with ``z = (y − μ)/σ``, in the target's unit; ``|y − μ|`` where σ is 0.

    Source: Gneiting and Raftery (2007), equation 21's closed form for the normal law.
    """
    spread = variance.clamp_min(TINY).sqrt()
    z = (target - mean) / spread
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return spread * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def cumulative(standardized: Tensor, quantiles: Tensor | None) -> Tensor:
    """The predicted probability in [0, 1] of a smaller value than this one, given as ``(y − μ)/σ``.

    Args:
        standardized: any shape.
        quantiles: (Q,) at levels ``i / (Q + 1)``, between which the law is linear; None for the normal law.
    """
    if quantiles is None:
        return torch.special.ndtr(standardized)
    ends = quantiles.to(standardized)
    after = torch.searchsorted(ends, standardized.contiguous()).clamp(1, len(ends) - 1)
    low, high = ends[after - 1], ends[after]
    return (after + ((standardized - low) / (high - low).clamp_min(TINY)).clamp(0, 1)) / (len(ends) + 1)


def ratio(mean: Tensor, target: Tensor) -> Tensor:
    """``max(ŷ/y, y/ŷ)`` (N,), the largest over D; infinite where either is not above 0."""
    both = (mean > 0) & (target > 0)
    return torch.maximum(mean / target, target / mean).where(both, torch.inf).amax(0)


def per_pixel(mean: Tensor, variance: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """What :data:`SUMS` names, but the width, each (N,).

    Errors are lengths over D. The relative and logarithmic ones ask for positive values and are NaN elsewhere.

    Args:
        mean: (D, N) in the target's unit.
        variance: (D, N) in its square, ≥ 0.
        target: (D, N).

    Source: Eigen et al. (2014) for depth.
    Pitfall: log10 is the mean of ``|log10 ŷ − log10 y|``; a root mean square of it is not comparable.
    """
    square = (mean - target).square().sum(0)
    error, size = square.sqrt(), torch.linalg.vector_norm(target, dim=0)
    positive = (mean > 0) & (target > 0)
    log = (mean / target).log().where(positive, torch.nan).abs().sum(0)
    nll, crps = (score(mean, variance, target).sum(0) for score in (gaussian_nll, gaussian_crps))
    return square, error, error / size, square / size, log.square(), log, nll, crps
