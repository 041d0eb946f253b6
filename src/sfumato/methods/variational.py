"""Mean-field variational inference: every weight has a Gaussian distribution of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, called, normal, require_samples
from sfumato.methods.conversion import LAYERS, Conversion, Where, add_children, disable_dropout
from sfumato.methods.posterior import NAME, Posterior, fan_in, kl_divergence, posteriors
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only


class MeanField(Posterior):
    """The logarithms of the standard deviations of a layer's weights and biases. The weights are the means."""

    def __init__(self, layer: nn.Module, prior: float, spread: float) -> None:
        super().__init__()
        self.prior = prior / math.sqrt(fan_in(layer))
        for name, mean in layer.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(torch.full_like(mean, math.log(spread * self.prior))))

    def kl(self, layer: nn.Module) -> Tensor:
        """``Σ log(σ₀ / σ) + (σ² + μ²) / (2 σ₀²) − ½`` over weights and biases."""
        terms = []
        for name, log_std in self.named_parameters():
            log_ratio = log_std - math.log(self.prior)
            squares = (2 * log_ratio).exp() + (layer.get_parameter(name) / self.prior).square()
            terms.append((squares / 2 - log_ratio - 0.5).sum())
        return torch.stack(terms).sum()


def make_variational(
    network: nn.Module, *, where: Where = LAYERS, prior: float = 1.0, spread: float = 0.05
) -> Conversion:
    r"""Give the weights of a network standard deviations that training learns, in place.

    ``q(w) = N(μ, σ²)`` for each weight, where μ is the weight itself. So in evaluation mode the network computes what
    it did before. In training mode noise is added to the outputs of each layer by Flipout: each image has its own
    weights ``μ + (r sᵀ) ∘ σ ∘ ε``, with ε drawn once for the batch and random signs r, s for each image. This costs a
    second convolution. Add ``kl_divergence(network) / N`` to the mean loss and use no weight decay, which the prior
    replaces. Predict with :class:`Variational`.

    The local reparametrization trick has gradients with less noise. But it draws the noise of each output pixel
    independently, as if each pixel had its own weights. A convolution uses the same weights at every pixel, so the
    noise of neighboring pixels is correlated, and averaging over pixels does not remove it.

    Args:
        network: Any module, trained or not. Its code stays as it is. Its state gets entries named
            ``….posterior.weight``.
        where: A regular expression that matches the whole names of modules, or types of modules. Of them, convolutions
            and linear layers are converted; subclasses are not. Default: all of them.
        prior: Weights and biases are a priori ``N(0, prior² / fan-in)``, so that a layer's outputs have the size of its
            inputs times ``prior``. Above 0. Default 1.
        spread: Standard deviations at the start, as a share of the prior's. Above 0. Default 0.05.

    Returns:
        What was done. Its ``remove()`` takes the standard deviations away again.

    Raises:
        ConfigError: If ``prior`` or ``spread`` is not above 0, no such layer is selected, or a layer has a learned
            distribution already.

    Source: Blundell et al. (2015), "Weight uncertainty in neural networks"; Wen et al. (2018), "Flipout".
    Pitfall: Mean field ignores correlations between weights, so its variances are too small. With Adam the logarithm of
    a deviation changes by about the learning rate in each step, so a short training leaves deviations near ``spread``.
    Set the network's own dropout to 0, because it adds noise to the noise.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    >>> make_variational(net).modules
    ('0', '2')
    """
    if min(prior, spread) <= 0:
        raise ConfigError(f"prior is {prior} and spread {spread}, expected both above 0")
    return add_children(
        network,
        where,
        NAME,
        lambda layer: MeanField(layer, prior, spread),
        lambda layer: [layer.register_forward_hook(_flipout, with_kwargs=True)],
    )


class Variational(BaseMethod):
    """Weights drawn from the Gaussians that training learned. Each draw is a plausible network.

    A draw has the same weights for all pixels and images and costs one pass. The running statistics of batch
    normalization are those of training, which used weights drawn in the same way.

    Args:
        network: A network that :func:`make_variational` converted and that was trained since.
        samples: The number T ≥ 1 of draws. Default 20.

    Raises:
        ConfigError: If no layer was converted, or ``samples`` is less than 1.

    Source: Graves (2011), "Practical variational inference for neural networks"; Blundell et al. (2015).
    Pitfall: Standard deviations that were never trained depend only on ``spread``, and not on the data.
    """

    stochastic = True
    network: nn.Module

    def __init__(self, network: nn.Module, samples: int = 20) -> None:
        super().__init__()
        if not any(isinstance(posterior, MeanField) for _, _, posterior in posteriors(network)):
            raise ConfigError(
                f"{type(network).__name__} has no layer whose weights have deviations: convert it with "
                "make_variational and train it"
            )
        require_samples(samples)
        self.network, self.samples = network, samples

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, *event), each with other weights."""
        for _ in range(self.samples):
            yield called(self.network, _weights(self.network, generator), inputs)[None]


@torch.no_grad()
def _weights(network: nn.Module, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Weights drawn from the posterior, by name."""
    weights = {}
    for layer_name, layer, posterior in posteriors(network):
        for name, log_std in posterior.named_parameters() if isinstance(posterior, MeanField) else ():
            noise = normal(log_std.shape, log_std, generator)
            weights[f"{layer_name}.{name}"] = layer.get_parameter(name) + log_std.exp() * noise
    return weights


def _flipout(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor | None:
    """The output with other weights for each image, in training mode."""
    if not layer.training:
        return None
    x = args[0] if args else kwargs["input"]
    noise = {name: log.exp() * torch.randn_like(log) for name, log in layer.get_submodule(NAME).named_parameters()}
    flipped = x * _signs(layer, x)
    if isinstance(layer, nn.Linear):
        change = F.linear(flipped, noise["weight"], noise.get("bias"))
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        change = layer._conv_forward(flipped, noise["weight"], noise.get("bias"))  # pads as the layer does
    return output + change * _signs(layer, change)


def _signs(layer: nn.Module, x: Tensor) -> Tensor:
    """A random sign for each image and feature, the same for all its pixels."""
    trailing = layer.get_parameter("weight").ndim - 2  # dimensions behind the channels
    feature = x.ndim - 1 - trailing
    shape = [size if axis in (0, feature) else 1 for axis, size in enumerate(x.shape)]
    return torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(0.5).mul_(2).sub_(1)


def _attach(network: nn.Module, members: int) -> None:
    disable_dropout(network)
    make_variational(network)


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> Variational:
    return Variational(only(networks), samples)


TRAINING = MethodTraining(_build, attach=_attach, penalty=kl_divergence)
