"""From draws to a prediction, in memory that does not grow with the number of draws."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from sfumato.contracts import Likelihood, Method, Moments
from sfumato.errors import ConfigError
from sfumato.predictions.classes import ClassPrediction
from sfumato.predictions.joint import JointPrediction
from sfumato.predictions.values import ValuePrediction

P = TypeVar("P")


class _NoveltyMethod(Protocol):
    """A method whose ``gives_novelty`` is True."""

    def draws_and_novelty(
        self, *inputs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Iterator[Tensor], Tensor]: ...


@torch.no_grad()
def predict(method: Method, *inputs: Tensor, likelihood: Likelihood[P], generator: torch.Generator | None = None) -> P:
    """Aggregate the draws of a method into one prediction.

    Args:
        method: Draws outputs (S_i, B, C, *event) for ``inputs``. The event is a map (H, W), or empty where the network
            predicts one value for each image. If it gives a novelty score, the prediction carries it.
        *inputs: Inputs of the network, usually images (B, 3, H, W) in [0, 1].
        likelihood: Says what an output means.
        generator: Source of the method's random numbers; the same state gives the same prediction. Default: torch's.

    Returns:
        What the likelihood's moments give: a :class:`ClassPrediction`, :class:`ValuePrediction` or
        :class:`JointPrediction`.

    Raises:
        ConfigError: If the network's output has other channels than the likelihood reads, or the method makes no draws.

    Source: Gal (2016), thesis, chapter 3; Chan, Golub and LeVeque (1979) for merging variances.
    """
    novelty = None
    if method.gives_novelty:
        draws, novelty = cast(_NoveltyMethod, method).draws_and_novelty(*inputs, generator=generator)
    else:
        draws = method.draws(*inputs, generator=generator)
    merged: Moments[P] | None = None
    for chunk in draws:
        _check_channels(chunk, likelihood)
        moments = reduce(lambda a, b: a.merge(b), (likelihood.moments(output.float()) for output in chunk))
        merged = moments if merged is None else merged.merge(moments)
    if merged is None:
        raise ConfigError(f"{type(method).__name__} made no draws: it must make at least one")
    prediction = merged.prediction()
    if novelty is not None and isinstance(prediction, ClassPrediction | ValuePrediction | JointPrediction):
        return prediction.with_novelty(novelty.float())
    return prediction


def _check_channels(chunk: Tensor, likelihood: Likelihood[P]) -> None:
    if chunk.ndim not in (3, 5) or chunk.shape[2] != likelihood.channels:
        raise ConfigError(
            f"the network's output has shape {tuple(chunk.shape[1:])}, but {type(likelihood).__name__} reads "
            f"(B, {likelihood.channels}, H, W), or (B, {likelihood.channels}) for one value per image: give the "
            f"network {likelihood.channels} output channels"
        )
