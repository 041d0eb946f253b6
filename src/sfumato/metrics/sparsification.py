"""Does the error fall when uncertain pixels are left out? Risk–coverage and sparsification.

``weight`` (…, keys) counts pixels and ``error`` (…, keys) sums their errors, over keys that rise with the uncertainty.
Pixels are kept from the first key on. The pixels of one key are kept in random order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.histogram import lowest


def aurc(weight: Tensor, error: Tensor) -> Tensor:
    """Area under the risk–coverage curve: the mean error of the kept pixels, averaged over all coverages (…).

    Source: Geifman, Uziel and El-Yaniv (2019). Within a key it is the exact average over random orders.
    Pitfall: It depends on the accuracy as well as on the ranking. :func:`e_aurc` subtracts what no ranking can avoid.
    """
    weight, error = weight.double(), error.double()
    upto, risk = weight.cumsum(-1), error.cumsum(-1)
    kept, lost = upto - weight, risk - error
    share = error / weight.clamp_min(1)
    # ∫ (lost + share·j)/(kept + j) dj over the key; the logarithm's factor is 0 where nothing was kept before.
    slope = (lost - share * kept) * torch.log(upto / kept).where(kept > 0, 0.0)
    return (error + slope.nan_to_num(0.0)).sum(-1) / weight.sum(-1)


def e_aurc(weight: Tensor, error: Tensor) -> Tensor:
    """Excess AURC of 0/1 errors: :func:`aurc` minus that of the ranking with all errors last (…), ≥ 0.

    With error rate r the best ranking reaches ``r + (1 − r) log(1 − r)``. For 0/1 errors this is also AUSE.

    Source: Geifman, Uziel and El-Yaniv (2019).
    """
    rate = error.double().sum(-1) / weight.double().sum(-1)
    return aurc(weight, error) - (rate + torch.special.xlog1py(1 - rate, -rate))


def augrc(weight: Tensor, error: Tensor) -> Tensor:
    """Area under the generalized risk–coverage curve: the mean over coverages of *kept error / all pixels* (…).

    Source: Traub et al. (2024), "Overcoming common flaws in the evaluation of selective classification".
    """
    weight, error = weight.double(), error.double()
    return (weight * (error.cumsum(-1) - error / 2)).sum(-1) / weight.sum(-1).square()


def risk_at_coverage(weight: Tensor, error: Tensor, coverage: Tensor) -> Tensor:
    """Mean error of the most certain pixels, for shares ``coverage`` (m,) in (0, 1] of them: (…, m)."""
    coverage = coverage.to(weight.device).double()
    return lowest(weight, error, coverage) / (coverage * weight.sum(-1, keepdim=True))


def coverage_at_risk(weight: Tensor, error: Tensor, risk: float = 0.05) -> Tensor:
    """The largest share of pixels that can be kept with a mean error of at most ``risk`` (…), in whole keys.

    Source: Geifman and El-Yaniv (2017), selective guaranteed risk; without their guarantee.
    """
    weight, error = weight.double(), error.double()
    kept, total = weight.cumsum(-1), weight.sum(-1)
    most = kept.where(error.cumsum(-1) <= risk * kept, 0.0).amax(-1)
    return most / total


def scores(weight: Tensor, error: Tensor) -> dict[str, Tensor]:
    """All scores (…) of leaving out uncertain pixels, where the error is 0 or 1.

    ``ause`` is :func:`e_aurc`: the area between the sparsification curves of the uncertainty and of the error itself.
    """
    return {
        "ause": e_aurc(weight, error),
        "aurc": aurc(weight, error),
        "augrc": augrc(weight, error),
        "risk_at_80_coverage": risk_at_coverage(weight, error, torch.tensor([0.8]))[..., 0],
        "coverage_at_5_risk": coverage_at_risk(weight, error),
    }


def rmse_areas(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """AUSE and AURG of the RMSE (…) over pooled pixels, from fine histograms (…, 4, keys).

    The curve is the RMSE of the kept pixels over the share that is kept, in (0, 1], integrated with trapezia.

    Args:
        ranks: Pixels and their squared error by uncertainty, pixels and their squared error by error.

    Source: Ilg et al. (2018) for pooling; not divided by the RMSE, so in the unit of the values.
    """
    weight, error = ranks[..., 0::2, :].double(), ranks[..., 1::2, :].double()
    kept, lost = weight.cumsum(-1), error.cumsum(-1)
    curve = (lost / kept.clamp_min(1)).sqrt()
    before = torch.cat([curve[..., :1], curve[..., :-1]], -1).where(kept > weight, curve)
    area = (weight * (before + curve) / 2).sum(-1) / weight.sum(-1)
    by_uncertainty, oracle = area.unbind(-1)
    return by_uncertainty - oracle, curve[..., 0, -1].where(kept[..., 0, -1] > 0, torch.nan) - by_uncertainty


STEPS = 50


def poggi(uncertainty: Tensor, square: Tensor, relative: Tensor, ratio: Tensor) -> Tensor:
    """AUSE, then AURG, of one image by RMSE, abs-rel and 1 − δ1 (6,), in 50 steps of 2 %; the curve ends at 0.

    In each step the pixels with a key above its percentile 100, 98, …, 2 are left out. Percentiles are interpolated
    linearly, and a pixel whose key equals the percentile is kept.

    Args:
        uncertainty: Key of each pixel (N,).
        square: Squared errors (N,).
        relative: Relative errors (N,).
        ratio: ``max(ŷ/y, y/ŷ)`` (N,).

    Returns:
        Six numbers, 0 for an image without pixels.

    Source: Poggi et al. (2020), "On the uncertainty of self-supervised monocular depth estimation", and its code. In
    some images of up to 64 pixels the code itself rounds a percentile below the pixel it falls on.
    Pitfall: It is a mean over images and not normalized: it has the unit of the error and grows with the error.
    """
    if not len(uncertainty):
        return uncertainty.new_zeros(6, dtype=torch.float64)
    errors = torch.stack([square, relative, (ratio >= 1.25).float()]).double()
    oracles = [_curve(key, error[None]) for key, error in zip((square, relative, ratio), errors)]
    curves = torch.stack([_curve(uncertainty, errors), torch.cat(oracles)])
    full = curves[0, :, 0].clone()
    curves[:, 0], full[0] = curves[:, 0].sqrt(), full[0].sqrt()
    by_uncertainty, oracle = (curves.sum(-1) - curves[..., 0] / 2) / STEPS  # trapezia, down to 0 where no pixel is kept
    return torch.cat([by_uncertainty - oracle, full - by_uncertainty])


def _curve(key: Tensor, errors: Tensor) -> Tensor:
    """Mean errors (M, 50) of the pixels whose key (N,) is at most its percentile 100, 98, …, 2."""
    ordered, order = key.sort()
    # Positions as integers: if a percentile falls on a pixel, rounding must not put it below that pixel.
    position = (len(key) - 1) * torch.arange(STEPS, 0, -1, device=key.device)
    low, rest = position // STEPS, position % STEPS
    high = (low + 1).clamp_max(len(key) - 1)
    percentile = ordered[low].double().lerp(ordered[high].double(), rest.double() / STEPS)
    kept = torch.searchsorted(ordered.double(), percentile, right=True)
    return errors[:, order].cumsum(-1)[:, kept - 1] / kept
