"""The calibrator of classes with a temperature for each pixel, which a small network computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, relu, softplus

from sfumato.calibration.fitted import Fitted
from sfumato.calibration.held import Held, Tiles, log_probs
from sfumato.calibration.scaling import best_temperature, evidence_of
from sfumato.errors import ConfigError
from sfumato.predictions import ClassPrediction

STEPS, BATCH, WIDTH = 400, 8, 16


@dataclass(frozen=True)
class LocalTemperature(Fitted):
    """A temperature for each pixel: ``softmax(log p / T(x))``. Labels stay the same.

    ``T(x)`` comes from two 5 × 5 convolutions and a 1 × 1 convolution over the log-probabilities and the image. At the
    start it is the best single temperature for all pixels.

    Args:
        first: Kernel (16, K + 3, 5, 5).
        first_shift: Shift (16,).
        second: Kernel (16, 16, 5, 5) with dilation 2.
        second_shift: Shift (16,).
        last: Kernel (1, 16, 1, 1).
        last_shift: Shift (1,).
        fitted_on: Names and digests of the images it was fitted on.

    Source: Ding et al. (2021), "Local temperature scaling for probability calibration"; theirs is a tree of
    convolutions, this one is simpler.
    Pitfall: It has about 10,000 parameters, so it overfits few held-out images.
    """

    target: ClassVar[str] = "class"
    first: Tensor
    first_shift: Tensor
    second: Tensor
    second_shift: Tensor
    last: Tensor
    last_shift: Tensor

    @classmethod
    def fit(cls, held: Held, seed: int = 0) -> Self:
        """400 steps of AdamW, each on 8 random tiles of 64 × 64 pixels.

        With fewer than 100 wrong or fewer than 100 right pixels it stays at the best single temperature.

        Args:
            held: Held-out predictions, targets and masks.
            seed: Seed of the random tiles and kernels. Default 0.
        """
        tiles = Tiles.of(held, seed)
        generator = torch.Generator().manual_seed(seed)
        channels = tiles.logs.shape[1] + tiles.images.shape[1]
        first, second = (
            torch.randn(WIDTH, c, 5, 5, generator=generator) * math.sqrt(2 / (25 * c)) for c in (channels, WIDTH)
        )
        best = float(best_temperature(tiles))
        start = best + math.log(-math.expm1(-best))  # its softplus is the best single temperature
        weights = [first, torch.zeros(WIDTH), second, torch.zeros(WIDTH), torch.zeros(1, WIDTH, 1, 1)]
        weights = [w.requires_grad_() for w in [*weights, torch.tensor([start])]]
        if evidence_of(tiles).overall == 1:
            _train(weights, tiles, generator)
        a, b, c, d, e, f = (w.detach() for w in weights)
        return cls(a, b, c, d, e, f)

    def temperature(self, prediction: ClassPrediction) -> Tensor:
        """T of every pixel (B, *event), > 0.

        Raises:
            ConfigError: If it was fitted on predictions with images, and this one has none.
        """
        logs = log_probs(prediction.probs)
        image = logs[:, :0] if prediction.image is None or not prediction.is_map else prediction.image.float()
        if not prediction.is_map:
            logs, image = logs[..., None, None], image[..., None, None]
        weights = [self.first, self.first_shift, self.second, self.second_shift, self.last, self.last_shift]
        if logs.shape[1] + image.shape[1] != self.first.shape[1]:
            raise ConfigError(
                f"{logs.shape[1]} classes and {image.shape[1]} image channels, but it was fitted on "
                f"{self.first.shape[1]} together: give it predictions that carry their image"
            )
        found = _temperature(logs, image, [w.to(logs) for w in weights])[:, 0]
        return found if prediction.is_map else found[..., 0, 0]

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with softer or sharper probabilities, pixel by pixel."""
        temperature = self.temperature(prediction)[:, None]
        return prediction.with_probs(torch.softmax(log_probs(prediction.probs) / temperature, 1))


def _train(weights: list[Tensor], tiles: Tiles, generator: torch.Generator) -> None:
    """Minimize the cross-entropy of random tiles; changes the weights in place."""
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


def _temperature(logs: Tensor, image: Tensor, weights: list[Tensor]) -> Tensor:
    """T (B, 1, H, W) from log-probabilities (B, K, H, W) and images (B, 3, H, W)."""
    first, first_shift, second, second_shift, last, last_shift = weights
    seen = torch.cat([logs.clamp_min(-10) / 10, image], 1)  # both of similar size
    x = relu(conv2d(seen, first, first_shift, padding=2))
    x = relu(conv2d(x, second, second_shift, padding=4, dilation=2))
    return softplus(conv2d(x, last, last_shift)) + 1e-3
