"""Classes: logits times something, plus something, that a few numbers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sfumato.calibration.held import Held, Tiles, log_probs
from sfumato.predictions import ClassPrediction


@dataclass(frozen=True)
class Temperature:
    """One temperature for all: ``softmax(log p / T)``. Labels stay, confidences fall where T > 1.

    Args:
        temperature: (1,) T > 0.
        fitted_on: the images that it must not be scored on, by name.

    Source: Guo et al. (2017), "On calibration of modern neural networks". After the fold: the logits are those of the
    mean law, which for one draw are the network's own.
    Pitfall: it divides all doubt alike; far from the held-out images it means nothing.

    >>> half = ClassPrediction(torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), torch.zeros(1, 1, 1))
    >>> Temperature(torch.tensor([2.0]))(half).probs.flatten()
    tensor([0.7500, 0.2500])
    """

    temperature: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held) -> Self:
        """The temperature of the least negative log likelihood of the held-out pixels."""
        return cls(best_temperature(Tiles.of(held)))

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with its law made softer or sharper."""
        return prediction.with_probs(
            torch.softmax(log_probs(prediction.probs) / self.temperature.to(prediction.probs), 1)
        )


@dataclass(frozen=True)
class ClassTemperature:
    """A temperature for each predicted class: ``softmax(log p / T_label)``. Labels stay.

    Args:
        temperatures: (K,) > 0; 1 for a class that no held-out pixel was given.
        fitted_on: the images that it must not be scored on, by name.

    Source: Frenkel and Goldberger (2021), "Network calibration by class-based temperature scaling".
    """

    temperatures: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held) -> Self:
        """The temperatures of the least negative log likelihood of the held-out pixels."""
        tiles = Tiles.of(held)
        start = torch.zeros(tiles.logs.shape[1])
        (log_t,) = minimized([start], tiles, lambda x, label, log_t: x * (-log_t[label])[:, None].exp())
        return cls(log_t.exp())

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with its law made softer or sharper, by its label."""
        temperatures = self.temperatures.to(prediction.probs)[prediction.label][:, None]
        return prediction.with_probs(torch.softmax(log_probs(prediction.probs) / temperatures, 1))


@dataclass(frozen=True)
class VectorScaling:
    """A slope and a shift for each class: ``softmax(w ∘ log p + b)``. Labels may change.

    Args:
        slope: (K,) w.
        shift: (K,) b.
        fitted_on: the images that it must not be scored on, by name.

    Source: Guo et al. (2017), "On calibration of modern neural networks", §4.2.
    Pitfall: theirs scales logits; the log-probabilities of a mean law lack their common part.
    """

    slope: Tensor
    shift: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held) -> Self:
        """Slopes and shifts of the least negative log likelihood of the held-out pixels."""
        tiles = Tiles.of(held)
        classes = tiles.logs.shape[1]
        slope, shift = minimized([torch.ones(classes), torch.zeros(classes)], tiles, lambda x, _, w, b: x * w + b)
        return cls(slope, shift)

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with scaled and shifted logits."""
        slope, shift = (v.to(prediction.probs)[:, None, None] for v in (self.slope, self.shift))
        return prediction.with_probs(torch.softmax(log_probs(prediction.probs) * slope + shift, 1))


def best_temperature(tiles: Tiles) -> Tensor:
    """The one temperature (1,) of the least negative log likelihood."""
    (log_t,) = minimized([torch.zeros(1)], tiles, lambda x, _, log_t: x * (-log_t).exp())
    return log_t.exp()


def minimized(start: list[Tensor], tiles: Tiles, logits: Callable[..., Tensor]) -> list[Tensor]:
    """Parameters at the least mean cross-entropy of all valid pixels (L-BFGS, so to numerical precision).

    Args:
        start: the parameters to begin with.
        tiles: pixels to fit.
        logits: of log-probabilities (N, K), labels (N,) and the parameters, the new logits (N, K).
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
