"""The method: Gaussian noise on the weights of the last layer."""

import torch
from torch import Tensor, nn

from sfumato.methods.base import BaseMethod
from sfumato.methods.training import MethodTraining


class WeightNoise(BaseMethod):
    """Draws the weights of the last convolution from ``N(w, (σ |w|)²)``.

    Args:
        network: The trained network.
        samples: Number of draws.
        spread: σ, relative to each weight.
    """

    stochastic = True

    def __init__(self, network: nn.Module, samples: int = 8, spread: float = 0.1) -> None:
        super().__init__()
        self.network, self.samples, self.spread = network, samples, spread

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None):
        """One output (1, B, C, H, W) for each draw of the weights."""
        training = self.network.training
        last = [module for module in self.network.modules() if isinstance(module, nn.Conv2d)][-1]
        weight = last.weight.detach().clone()
        self.network.eval()
        try:
            with torch.no_grad():
                for _ in range(self.samples):
                    noise = torch.randn(weight.shape, generator=generator).to(weight)
                    last.weight.copy_(weight * (1 + self.spread * noise))
                    yield self.network(*inputs)[None]
        finally:
            with torch.no_grad():
                last.weight.copy_(weight)
            self.network.train(training)


def build(networks, samples, state=None):
    """The method over the trained network."""
    return WeightNoise(networks[0], samples)


TRAINING = MethodTraining(build)
