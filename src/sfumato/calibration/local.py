"""Classes: a temperature of its own for every pixel, which a small network reads off the logits and the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, relu, softplus

from sfumato.calibration.held import Held, Tiles, log_probs
from sfumato.calibration.scaling import best_temperature
from sfumato.predictions import ClassPrediction

STEPS, BATCH, WIDTH = 400, 8, 16


@dataclass(frozen=True)
class LocalTemperature:
    """A temperature for each pixel: ``softmax(log p / T(x))``. Labels stay.

    ``T(x)`` comes from two 5 × 5 convolutions and a 1 × 1 convolution over the log-probabilities and the image. They
    start at the one temperature that is best for all, and learn where to depart from it.

    Args:
        first: (16, K + 3, 5, 5) kernel.
        first_shift: (16,).
        second: (16, 16, 5, 5) kernel, every other pixel.
        second_shift: (16,).
        last: (1, 16, 1, 1) kernel.
        last_shift: (1,).
        fitted_on: the images that it must not be scored on, by name.

    Raises:
        ValueError: if it was fitted on predictions with images and is given one without.

    Source: Ding et al. (2021), "Local temperature scaling for probability calibration"; theirs is a tree of
    convolutions of which this is the simplest.
    Pitfall: it has some 10,000 parameters: with few held-out images it learns these images.
    """

    first: Tensor
    first_shift: Tensor
    second: Tensor
    second_shift: Tensor
    last: Tensor
    last_shift: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held, seed: int = 0) -> Self:
        """400 steps of AdamW on 8 random tiles of 64 × 64 pixels; ``seed`` draws them and the kernels."""
        tiles = Tiles.of(held, seed)
        generator = torch.Generator().manual_seed(seed)
        channels = tiles.logs.shape[1] + tiles.images.shape[1]
        first, second = (
            torch.randn(WIDTH, c, 5, 5, generator=generator) * math.sqrt(2 / (25 * c)) for c in (channels, WIDTH)
        )
        start = math.log(math.expm1(float(best_temperature(tiles))))  # softplus of it is the one temperature
        weights = [first, torch.zeros(WIDTH), second, torch.zeros(WIDTH), torch.zeros(1, WIDTH, 1, 1)]
        weights = [w.requires_grad_() for w in [*weights, torch.tensor([start])]]
        optimizer = torch.optim.AdamW(weights, lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
        with torch.enable_grad():
            for _ in range(STEPS):
                batch = torch.randint(len(tiles.valid), (BATCH,), generator=generator)
                logs, valid = tiles.logs[batch].float(), tiles.valid[batch]
                logits = logs / _temperature(logs, tiles.images[batch].float(), weights)
                target = tiles.targets[batch].long()
                loss = cross_entropy(logits.movedim(1, -1)[valid], target[valid])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        a, b, c, d, e, f = (w.detach() for w in weights)
        return cls(a, b, c, d, e, f)

    def temperature(self, prediction: ClassPrediction) -> Tensor:
        """T of every pixel (B, H, W), > 0."""
        logs = log_probs(prediction.probs)
        image = logs[:, :0] if prediction.image is None else prediction.image.float()
        weights = [self.first, self.first_shift, self.second, self.second_shift, self.last, self.last_shift]
        if logs.shape[1] + image.shape[1] != self.first.shape[1]:
            raise ValueError(
                f"{logs.shape[1]} classes and {image.shape[1]} image channels, but it was fitted on "
                f"{self.first.shape[1]} together: give it predictions that carry their image"
            )
        return _temperature(logs, image, [w.to(logs) for w in weights])[:, 0]

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with its law made softer or sharper, pixel by pixel."""
        temperature = self.temperature(prediction)[:, None]
        return prediction.with_probs(torch.softmax(log_probs(prediction.probs) / temperature, 1))


def _temperature(logs: Tensor, image: Tensor, weights: list[Tensor]) -> Tensor:
    """T (B, 1, H, W) of log-probabilities (B, K, H, W) and images (B, 3, H, W)."""
    first, first_shift, second, second_shift, last, last_shift = weights
    seen = torch.cat([logs.clamp_min(-10) / 10, image], 1)  # both about as large
    x = relu(conv2d(seen, first, first_shift, padding=2))
    x = relu(conv2d(x, second, second_shift, padding=4, dilation=2))
    return softplus(conv2d(x, last, last_shift)) + 1e-3
