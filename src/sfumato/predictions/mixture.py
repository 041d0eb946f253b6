"""Mixtures of two predictions of the same pixels, with shares that differ from pixel to pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.predictions.classes import ClassPrediction, entropy
from sfumato.predictions.joint import AnyPrediction, JointPrediction, TaskPrediction
from sfumato.predictions.values import ValuePrediction, correlations, products

P = TypeVar("P", bound=AnyPrediction)


def mixed(first: P, second: P, share: Tensor) -> P:
    """The prediction of the draws of both, where those of ``second`` have the given share of the weight.

    With the share s, classes: ``p = (1 − s) p₁ + s p₂`` and ``A = (1 − s) A₁ + s A₂``, where A is the mean entropy of a
    draw. Values: ``μ = (1 − s) μ₁ + s μ₂``, ``σ² = (1 − s) σ₁² + s σ₂²``, and the variance of the means is
    ``(1 − s) v₁ + s v₂ + s (1 − s) (μ₁ − μ₂)²``, by Chan's formula. So the total is the sum of its parts, and the
    disagreement of the two is epistemic.

    Args:
        first: A prediction. The result has its image.
        second: A prediction of the same kind and shape.
        share: Share of the second (B, *event), in [0, 1].

    Raises:
        DataError: If the predictions differ in kind or shape.

    >>> import torch
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    >>> found = mixed(ValuePrediction(zero, one, zero), ValuePrediction(4 * one, one, zero), one[0] / 4)
    >>> found.mean.item(), found.aleatoric.item(), found.epistemic.item()
    (1.0, 1.0, 3.0)
    """
    if isinstance(first, JointPrediction) and isinstance(second, JointPrediction):
        parts = {name: mixed(part, second.parts[name], share) for name, part in first.parts.items()}
        return cast(P, replace(first, parts=parts))
    if isinstance(first, ClassPrediction) and isinstance(second, ClassPrediction):
        _check(first, second)
        return cast(P, replace(first, **_classes(first, second, share), **_common(first, second, share)))
    if isinstance(first, ValuePrediction) and isinstance(second, ValuePrediction):
        _check(first, second)
        return cast(P, replace(first, **_values(first, second, share[:, None]), **_common(first, second, share)))
    raise DataError(f"a {type(first).__name__} and a {type(second).__name__} cannot be mixed: expected one kind")


def _check(first: TaskPrediction, second: TaskPrediction) -> None:
    if first.channels.shape != second.channels.shape:
        raise DataError(
            f"predictions of {tuple(first.channels.shape)} and {tuple(second.channels.shape)} cannot be mixed: "
            "expected one shape"
        )


def _common(first: TaskPrediction, second: TaskPrediction, share: Tensor) -> dict[str, Any]:
    """The number of draws and, if both have one, the novelty score."""
    novelty = None
    if first.novelty is not None and second.novelty is not None:
        novelty = first.novelty.lerp(second.novelty, share)
    return {"draws": first.draws + second.draws, "novelty": novelty}


def _classes(first: ClassPrediction, second: ClassPrediction, share: Tensor) -> dict[str, Tensor]:
    probs = first.probs.lerp(second.probs, share[:, None])
    aleatoric = first.aleatoric.lerp(second.aleatoric, share)
    return {"probs": probs, "aleatoric": torch.minimum(aleatoric, entropy(probs))}  # rounding may exceed it


def _values(first: ValuePrediction, second: ValuePrediction, share: Tensor) -> dict[str, Tensor | None]:
    delta, spread = second.mean - first.mean, share * (1 - share)
    within = first.aleatoric_variance.lerp(second.aleatoric_variance, share)
    between = first.epistemic_variance.lerp(second.epistemic_variance, share) + spread * delta.square()
    found: dict[str, Tensor | None] = {
        "mean": first.mean.lerp(second.mean, share), "aleatoric_variance": within, "epistemic_variance": between,
    }  # fmt: skip
    shared = spread * products(delta) if delta.shape[1] > 1 else None
    for kind, variance, extra in (("aleatoric", within, None), ("epistemic", between, shared)):
        pair = [_covariance(each, kind) for each in (first, second)]
        if pair[0] is not None and pair[1] is not None:
            covariance = pair[0].lerp(pair[1], share)
            found[f"{kind}_correlation"] = correlations(covariance if extra is None else covariance + extra, variance)
    return found


def _covariance(prediction: ValuePrediction, kind: str) -> Tensor | None:
    """The covariances (B, D (D − 1) / 2, *event) of a part. None for independent values."""
    correlation = getattr(prediction, f"{kind}_correlation")
    return None if correlation is None else correlation * products(getattr(prediction, f"{kind}_variance").sqrt())
