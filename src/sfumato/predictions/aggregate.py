"""The fold: from draws to a prediction, in memory that does not grow with the number of draws."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch

from sfumato.contracts import Likelihood, Method, Moments, Prediction


@torch.no_grad()
def predict(
    method: Method, *inputs: Any, likelihood: Likelihood, generator: torch.Generator | None = None
) -> Prediction:
    """Fold the draws of a method into one prediction.

    Args:
        method: draws outputs (S_i, B, C, H, W) for ``inputs``.
        *inputs: what the network takes, usually images (B, 3, H, W) in [0, 1].
        likelihood: says what an output means.
        generator: source of the method's randomness; the same state gives the same prediction.

    Returns:
        What ``likelihood.moments(...)`` folds to: a :class:`ClassPrediction` or a :class:`ValuePrediction`.

    Raises:
        ValueError: if the network's output has other channels than the likelihood reads.

    Source: Gal (2016), thesis, chapter 3; Chan, Golub and LeVeque (1979) for the merging of variances.
    """
    folded: Moments | None = None
    for chunk in method.draws(*inputs, generator=generator):
        if chunk.ndim != 5 or chunk.shape[2] != likelihood.channels:
            raise ValueError(
                f"the network's output has shape {tuple(chunk.shape[1:])}, but {type(likelihood).__name__} reads "
                f"(B, {likelihood.channels}, H, W): give the network {likelihood.channels} output channels"
            )
        moments = reduce(lambda a, b: a.merge(b), (likelihood.moments(output.float()) for output in chunk))
        folded = moments if folded is None else folded.merge(moments)
    if folded is None:
        raise ValueError(f"{type(method).__name__} made no draws: it must make at least one")
    return folded.prediction()
