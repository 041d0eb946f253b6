"""Distributions of single layers that training learns beside the weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError

NAME = "posterior"  # the name of the child that a layer gets, and so a part of the names in the network's state


class Posterior(nn.Module):
    """What is learned about one layer. It is a child of the layer, so both are moved, copied and saved together."""

    def kl(self, layer: nn.Module) -> Tensor:
        """The divergence from the prior, in nats."""
        raise NotImplementedError


def posteriors(network: nn.Module) -> Iterator[tuple[str, nn.Module, Posterior]]:
    """Name, layer and posterior of each layer that has one."""
    for name, layer in network.named_modules():
        found = layer._modules.get(NAME)
        if isinstance(found, Posterior):
            yield name, layer, found


def kl_divergence(network: nn.Module) -> Tensor:
    """The divergence of the learned distributions from their priors, in nats, with gradient.

    ``KL(q ‖ p)``, summed over the layers that :func:`make_variational` or :func:`inject_concrete_dropout` converted.

    The bound on the evidence of N data points is ``Σ nll + KL``. So a loss that is a mean over data points gets
    ``KL / N`` added to it. In dense prediction a data point is a pixel: N is the number of valid pixels of *all*
    training images. It is not the number of pixels of a batch, and not the number of images.

    Raises:
        ConfigError: If no layer was converted.
    """
    found = [posterior.kl(layer) for _, layer, posterior in posteriors(network)]
    if not found:
        raise ConfigError(
            f"{type(network).__name__} has no layer whose posterior is learned: convert it with make_variational or "
            "inject_concrete_dropout"
        )
    return torch.stack(found).sum()


def fan_in(layer: nn.Module) -> int:
    """The number of products that a unit of a convolution or linear layer sums."""
    weight = layer.get_parameter("weight")
    return weight[0].numel()
