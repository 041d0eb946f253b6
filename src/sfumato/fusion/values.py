"""One value from several sensors or frames: precision weighting and covariance intersection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.fusion.checks import Fused, check_sensors
from sfumato.predictions import ValuePrediction
from sfumato.predictions.values import correlations

UNKNOWN = 1e12  # unit²; the variance where no sensor is valid


def fuse_values(
    predictions: Sequence[ValuePrediction],
    *,
    independent: bool,
    valid: Sequence[Tensor] | None = None,
    gate: float | None = None,
) -> Fused[ValuePrediction]:
    """One prediction of values from those of several sensors or frames.

    With the information ``P_i = Σ_i⁻¹`` of each sensor and weights ``w_i``, the fused covariance is
    ``(Σ w_i P_i)⁻¹`` and the mean is that covariance times ``Σ w_i P_i μ_i``. Sensors whose errors are independent have
    ``w_i = 1``: precision weighting. Else the weights have the sum 1: covariance intersection, which is never
    over-confident, whatever the errors have in common.

    What sensors differ by more than their variances explain is added to the epistemic part, for each value:
    ``τ² = max(0, (Q − (n − 1)) / (Σ p − Σ p² / Σ p))`` with ``p_i = 1 / σ_i²`` and ``Q = Σ p_i (μ_i − μ)²``. The fused
    covariance itself is divided as the sensors divide theirs. So ``total = aleatoric + epistemic``, and equal
    predictions with dependent errors give the same prediction again.

    Args:
        predictions: Predictions (B, D, *event) of the same pixels in the same unit.
        independent: Whether the errors of the sensors are independent. Frames of one camera are not.
        valid: For each a mask (B, *event), False where the sensor measures nothing. Default: valid everywhere.
        gate: Leave sensors out that are farther from the others than this share of the innovations would be, in
            (0, 1), such as 0.999: by the χ² of ``μ_i − μ_others`` with the covariance of both, the farthest one first,
            as long as at least three are left. Default: none is left out.

    Returns:
        The prediction, and which sensors it comes from. Where none is valid, the mean is 0 and the variance 1e12.

    Raises:
        ConfigError: If ``gate`` is not in (0, 1).
        DataError: If sizes or units differ, or where a valid variance is 0, infinite or NaN, or a covariance singular.

    Source: Julier and Uhlmann (1997), covariance intersection; Fränken and Hüpper (2005), the weights; DerSimonian and
    Laird (1986), the variance between sensors.
    Pitfall: ``independent=True`` for sensors that share an error makes the variance too small by up to their number.

    >>> one = torch.ones(1, 1)
    >>> near, far = (ValuePrediction(mean * one, one, 0 * one, "m") for mean in (1.0, 3.0))
    >>> found = fuse_values([near, far], independent=True).prediction
    >>> found.mean.item(), found.aleatoric.item(), found.epistemic.item()  # τ² = (2 − 1) / (2 − 1)
    (2.0, 0.5, 1.0)
    >>> fuse_values([near, near], independent=False).prediction.total.item()
    1.0
    """
    if gate is not None and not 0 < gate < 1:
        raise ConfigError(f"gate is {gate}, expected a probability in (0, 1) such as 0.999")
    used = check_sensors(predictions, valid)
    first = predictions[0]
    means = torch.stack([each.mean.double().movedim(1, -1) for each in predictions])  # (S, B, *event, D)
    covariances = torch.stack([each.covariance.double().movedim((1, 2), (-2, -1)) for each in predictions])
    _check(means, covariances, used)
    means = means.where(used[..., None], 0.0)
    information = _inverse(covariances.where(used[..., None, None], torch.eye(means.shape[-1]).to(means)))
    if gate is not None:
        used = _gated(means, information, used, gate, independent)
    mean, covariance = _pooled(means, information * used[..., None, None], independent)
    shares = torch.stack([each.epistemic.double() / each.total.double() for each in predictions])
    share = (shares.where(used, 0.0).sum(0) / used.sum(0).clamp_min(1))[..., None]
    precision = used[..., None] / covariances.diagonal(dim1=-2, dim2=-1).where(used[..., None], 1.0)
    spread = (precision * (means - mean).square()).sum(0)
    between = between_variance(used.sum(0)[..., None], precision.sum(0), precision.square().sum(0), spread)
    return Fused(_prediction(first, mean, covariance, share, between, sum(each.draws for each in predictions)), used)


def between_variance(count: Tensor, weight: Tensor, squares: Tensor, spread: Tensor) -> Tensor:
    """The variance between sensors or frames that their own variances do not explain.

    ``τ² = max(0, (Q − (n − 1)) / (Σ p − Σ p² / Σ p))``, 0 for fewer than two.

    Args:
        count: Their number n (…).
        weight: ``Σ p`` of their precisions (…).
        squares: ``Σ p²`` (…).
        spread: ``Q = Σ p (x − mean)²`` (…).

    Source: DerSimonian and Laird (1986), "Meta-analysis in clinical trials".

    >>> between_variance(*map(torch.tensor, (2.0, 2.0, 2.0, 2.0)))
    tensor(1.)
    """
    scale = weight - squares / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    several = (count > 1) & (scale > 0)
    return ((spread - (count - 1)) / scale.where(several, 1)).clamp_min(0).where(several, 0)


def intersection_weights(information: Tensor) -> Tensor:
    """Weights of covariance intersection (S, …) with sum 1, from the information (S, …, D, D) of S sensors.

    ``w_i ∝ |P| − |P − P_i| + |P_i|`` with ``P = Σ P_i``. A sensor without information has the weight 0.

    Source: Fränken and Hüpper (2005), "Improved fast covariance intersection for distributed data fusion".

    >>> intersection_weights(torch.tensor([1.0, 3.0])[:, None, None])
    tensor([0.2500, 0.7500])
    """
    whole = information.sum(0)
    found = (_det(whole) - _det(whole - information) + _det(information)).clamp_min(0)
    return found / found.sum(0).clamp_min(torch.finfo(found.dtype).tiny)


def _check(means: Tensor, covariances: Tensor, used: Tensor) -> None:
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    good = ((variances > 0) & variances.isfinite() & means.isfinite()).all(-1)
    for number, (fine, asked) in enumerate(zip(good, used)):
        if bool((asked & ~fine).any()):
            place = (asked & ~fine).nonzero()[0]
            found = variances[number][tuple(place)].tolist()
            raise DataError(
                f"sensor {number} has the variance {found} at {place[1:].tolist()}: expected finite values and "
                "variances above 0; mark pixels without a measurement as not valid"
            )
    singular = used & ~(_det(covariances) > 0) if means.shape[-1] > 1 else torch.zeros_like(used)
    if bool(singular.any()):
        raise DataError("a covariance is singular, so its values are no independent measurements: fuse fewer values")


def _pooled(means: Tensor, information: Tensor, independent: bool) -> tuple[Tensor, Tensor]:
    """Mean (B, *event, D) and covariance (B, *event, D, D) of sensors; those without information have no part."""
    if not independent:
        information = information * intersection_weights(information)[..., None, None]
    whole, known = information.sum(0), information.flatten(-2).any(-1).any(0)[..., None, None]
    covariance = _inverse(whole.where(known, torch.eye(means.shape[-1]).to(whole) / UNKNOWN))
    return (covariance @ (information @ means[..., None]).sum(0))[..., 0], covariance


def _gated(means: Tensor, information: Tensor, used: Tensor, gate: float, independent: bool) -> Tensor:
    """Which sensors are kept. The farthest one is left out, then the others are compared again."""
    used, dims = used.clone(), means.shape[-1]
    own = _inverse(information)
    for _ in range(max(len(means) - 2, 0)):
        distance = torch.zeros_like(used, dtype=means.dtype)
        for number in range(len(means)):
            others = used.clone()
            others[number] = False
            mean, covariance = _pooled(means, information * others[..., None, None], independent)
            step = means[number] - mean
            distance[number] = (step[..., None, :] @ _inverse(own[number] + covariance) @ step[..., None])[..., 0, 0]
        distance = distance.where(used & (used.sum(0) > 2), 0.0)
        half = torch.tensor(dims / 2, dtype=means.dtype, device=means.device)
        far = torch.special.gammainc(half, distance / 2) > gate
        worst = distance == distance.amax(0)
        if not bool((far & worst).any()):
            break
        used &= ~(far & worst)
    return used


def _prediction(
    first: ValuePrediction, mean: Tensor, covariance: Tensor, share: Tensor, between: Tensor, draws: int
) -> ValuePrediction:  # fmt: skip
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    aleatoric, epistemic = (1 - share) * variance, share * variance + between
    parts = [part.movedim(-1, 1).to(first.mean) for part in (mean, aleatoric, epistemic)]
    found = ValuePrediction(*parts, unit=first.unit, draws=draws, image=first.image)
    dims = mean.shape[-1]
    if dims == 1:
        return found
    rows, columns = torch.triu_indices(dims, dims, 1)
    shared = covariance[..., rows, columns].movedim(-1, 1)
    within = correlations(shared, variance.movedim(-1, 1))
    across = correlations(shared * share.movedim(-1, 1), epistemic.movedim(-1, 1))
    fields = {"aleatoric_correlation": within.to(first.mean), "epistemic_correlation": across.to(first.mean)}
    return ValuePrediction(*parts, unit=first.unit, draws=draws, image=first.image, **fields)


def _inverse(matrices: Tensor) -> Tensor:
    return matrices.reciprocal() if matrices.shape[-1] == 1 else torch.linalg.inv(matrices)


def _det(matrices: Tensor) -> Tensor:
    return matrices[..., 0, 0] if matrices.shape[-1] == 1 else torch.linalg.det(matrices)
