"""Calibrators of classes with few parameters: log-probabilities are multiplied and shifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sfumato.calibration.evidence import Evidence, keep_unseen
from sfumato.calibration.fitted import Fitted
from sfumato.calibration.held import Held, Tiles, log_probs
from sfumato.predictions import ClassPrediction, over_channels

LIMIT = 20.0


@dataclass(frozen=True)
class Temperature(Fitted):
    """One temperature for all pixels: ``softmax(log p / T)``. Labels stay the same; T > 1 lowers the confidence.

    Args:
        temperature: T > 0, of shape (1,).
        fitted_on: Names and digests of the images it was fitted on.

    Source: Guo et al. (2017), "On calibration of modern neural networks". The logits are those of the mean over draws;
    for one draw they are the network's own.
    Pitfall: It changes all pixels in the same way. Far from the held-out images it means nothing.

    >>> half = ClassPrediction(torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), torch.zeros(1, 1, 1))
    >>> Temperature(torch.tensor([2.0]))(half).probs.flatten()
    tensor([0.7500, 0.2500])
    """

    target: ClassVar[str] = "class"
    temperature: Tensor

    @classmethod
    def fit(cls, held: Held) -> Self:
        """The temperature with the least negative log likelihood of the held-out pixels.

        With fewer than 100 wrong or fewer than 100 right pixels, T is closer to 1 in proportion.
        """
        return cls(best_temperature(Tiles.of(held)))

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with softer or sharper probabilities."""
        return prediction.with_probs(
            torch.softmax(log_probs(prediction.probs) / self.temperature.to(prediction.probs), 1)
        )


@dataclass(frozen=True)
class ClassTemperature(Fitted):
    """A temperature for each predicted class: ``softmax(log p / T_label)``. Labels stay the same.

    Args:
        temperatures: T > 0 of each class (K,); 1 for a class that no held-out pixel is predicted as.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Frenkel and Goldberger (2021), "Network calibration by class-based temperature scaling".
    """

    target: ClassVar[str] = "class"
    temperatures: Tensor

    @classmethod
    def fit(cls, held: Held) -> Self:
        """The temperatures with the least negative log likelihood of the held-out pixels.

        With fewer than 100 wrong or fewer than 100 right pixels of a label, its T is closer to 1 in proportion.
        """
        tiles = Tiles.of(held)
        start = torch.zeros(tiles.logs.shape[1])
        (log_t,) = minimize([start], tiles, lambda x, label, log_t: x * (-log_t[label])[:, None].exp())
        return cls((log_t * evidence_of(tiles).by_label).exp())

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with softer or sharper probabilities, by its label."""
        temperatures = self.temperatures.to(prediction.probs)[prediction.label][:, None]
        return prediction.with_probs(torch.softmax(log_probs(prediction.probs) / temperatures, 1))


@dataclass(frozen=True)
class VectorScaling(Fitted):
    """A slope and a shift for each class: ``softmax(w ∘ log p + b)``. Labels may change.

    A class without a held-out pixel keeps its probabilities, and the others share the rest.

    Args:
        slope: w (K,).
        shift: b (K,).
        seen: Whether the class has a held-out pixel (K,), bool.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Guo et al. (2017), "On calibration of modern neural networks", §4.2.
    Pitfall: The paper scales logits; log-probabilities do not have the common part of the logits.
    """

    target: ClassVar[str] = "class"
    slope: Tensor
    shift: Tensor
    seen: Tensor

    @classmethod
    def fit(cls, held: Held) -> Self:
        """The slopes and shifts with the least negative log likelihood of the held-out pixels.

        With fewer than 100 wrong pixels of a class, its slope and shift are closer to 1 and 0 in proportion.
        """
        tiles = Tiles.of(held)
        classes, evidence = tiles.logs.shape[1], evidence_of(tiles)
        unseen = ~evidence.seen
        start = [torch.ones(classes), torch.zeros(classes)]
        slope, shift = minimize(start, tiles, lambda x, _, w, b: (x * w + b).masked_fill(unseen, -torch.inf))
        weight = evidence.by_class
        # Without enough wrong pixels the fit may diverge, so its parameters are limited before they are mixed.
        slope = torch.where(weight < 1, slope.clamp(1 / LIMIT, LIMIT), slope)
        shift = torch.where(weight < 1, shift.clamp(-LIMIT, LIMIT), shift)
        return cls(torch.lerp(torch.ones(classes), slope, weight), weight * shift, evidence.seen)

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with scaled and shifted logits."""
        probs = prediction.probs
        slope, shift = over_channels(self.slope, probs), over_channels(self.shift, probs)
        hidden = over_channels(self.seen.logical_not(), probs).bool()
        logits = (log_probs(probs) * slope + shift).masked_fill(hidden, -torch.inf)
        return keep_unseen(prediction, torch.softmax(logits, 1), self.seen)


def best_temperature(tiles: Tiles) -> Tensor:
    """The one temperature (1,) with the least negative log likelihood; closer to 1 if there is little evidence."""
    (log_t,) = minimize([torch.zeros(1)], tiles, lambda x, _, log_t: x * (-log_t).exp())
    return (log_t * evidence_of(tiles).overall).exp()


def evidence_of(tiles: Tiles) -> Evidence:
    """The counts of all valid pixels."""
    classes = tiles.logs.shape[1]
    nothing = torch.zeros(classes, dtype=torch.int64)
    found = Evidence(nothing, nothing, nothing)
    for chunk in tiles.chunks():
        x, target = chunk.pixels()
        found += Evidence.of(x.argmax(1), target, classes)
    return found


def minimize(start: list[Tensor], tiles: Tiles, logits: Callable[..., Tensor]) -> list[Tensor]:
    """The parameters with the least mean cross-entropy of all valid pixels (L-BFGS, to numerical precision).

    Args:
        start: The initial parameters.
        tiles: Pixels to fit.
        logits: Gives the new logits (N, K) for log-probabilities (N, K), labels (N,) and the parameters.
    """
    parameters = [p.clone().requires_grad_() for p in start]
    total = int(tiles.valid.sum())
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = 0.0
        for chunk in tiles.chunks():
            x, target = chunk.pixels()
            part = cross_entropy(logits(x, x.argmax(1), *parameters), target, reduction="sum") / total
            part.backward()
            loss += part.item()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return [p.detach() for p in parameters]
