"""Small networks that give the value of each action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError

WIDTH = 50  # hidden units, as of the reference agent
CHANNELS = 8  # of the convolution
CELL = 4  # pixels; side of the squares that the first convolution reads


class QNetwork(nn.Module):
    """Values of actions from vectors, maps or pictures.

    Two hidden layers of 50 units. Pictures (H, W, 3) of uint8 are first read by a convolution of 4 × 4 pixels with
    stride 4 and 8 channels. Weights begin at ``N(0, 1 / fan-in)`` and biases at 0, as of the reference agent: with
    biases a random network gives all states nearly the same values.

    Args:
        shape: Shape of an observation: (F,), (H, W) or (H, W, 3).
        actions: A, the number of actions, ≥ 2.

    Raises:
        ConfigError: If there are fewer than two actions, or a picture is smaller than 4 × 4.
    """

    def __init__(self, shape: Sequence[int], actions: int) -> None:
        super().__init__()
        if actions < 2:
            raise ConfigError(f"there are {actions} actions, expected at least 2")
        self.picture = len(shape) == 3 and shape[2] == 3
        if self.picture and min(shape[:2]) < CELL:
            raise ConfigError(f"pictures have {shape[0]} × {shape[1]} pixels, expected at least {CELL} × {CELL}")
        read: list[nn.Module] = []
        inputs = int(torch.tensor(shape).prod())
        if self.picture:
            read = [nn.Conv2d(3, CHANNELS, CELL, CELL), nn.ReLU()]
            inputs = CHANNELS * (shape[0] // CELL) * (shape[1] // CELL)
        hidden = [nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        self.layers = nn.Sequential(*read, nn.Flatten(), *hidden, nn.Linear(WIDTH, actions))
        for layer in self.layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, observations: Tensor) -> Tensor:
        """Values (B, A) of observations (B, *shape), uint8 or float32."""
        if self.picture:
            observations = observations.movedim(-1, 1)
        scaled = observations.float() / 255 if observations.dtype == torch.uint8 else observations.float()
        return self.layers(scaled)
