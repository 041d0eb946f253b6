"""How much would a label of a pixel teach? Scores of a prediction of classes, larger where a label is worth more."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sfumato.decisions import Look
from sfumato.predictions import ClassPrediction


def entropy(look: Look) -> Tensor:
    """The entropy of the mean distribution (B, *event), in nats: the total uncertainty."""
    return look.prediction.total


def mutual_information(look: Look) -> Tensor:
    """The mutual information between class and network (B, *event), in nats: the epistemic uncertainty.

    Source: Houlsby et al. (2011), "Bayesian active learning by disagreement".
    Pitfall: With one draw it is 0 everywhere.
    """
    return look.prediction.epistemic


def margin(look: Look) -> Tensor:
    """``1 − (p₁ − p₂)`` (B, *event) in [0, 1], from the two largest probabilities.

    Source: Scheffer, Decomain and Wrobel (2001), "Active hidden Markov models for information extraction".
    """
    best = look.prediction.probs.topk(2, 1).values
    return 1 - (best[:, 0] - best[:, 1])


def variation_ratio(look: Look) -> Tensor:
    """``1 − max p`` (B, *event) in [0, 1 − 1/K]: the probability of another class than the most probable one.

    Source: Freeman (1965), "Elementary applied statistics".
    """
    return 1 - look.prediction.confidence


def evpi(look: Look) -> Tensor:
    """The value of looking again (B, *event), in the unit of the cost, see :class:`sfumato.decisions.Look`."""
    return look.value


SCORES: dict[str, Callable[[Look], Tensor]] = {
    "entropy": entropy,
    "mutual-information": mutual_information,
    "margin": margin,
    "variation-ratio": variation_ratio,
    "evpi": evpi,
}
"""Functions from a prediction with its value of looking again to a score of each pixel."""


def score_map(prediction: ClassPrediction | Look, name: str) -> Tensor:
    """The score (B, *event) of every pixel, ≥ 0.

    Args:
        prediction: A prediction of classes; for ``evpi`` one with its value of looking again.
        name: One of :data:`SCORES`.

    >>> import torch
    >>> probs = torch.tensor([[0.5, 0.3, 0.2]])
    >>> score_map(ClassPrediction(probs, torch.zeros(1)), "margin")
    tensor([0.8000])
    """
    look = prediction if isinstance(prediction, Look) else Look(prediction, prediction.epistemic)
    return SCORES[name](look).clamp_min(0)
