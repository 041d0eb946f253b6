"""Mean-field variational inference: a Gaussian for each weight of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.methods.attachment import Attachment, Posterior, attach, fan_in, posteriors
from sfumato.methods.deterministic import called, normal

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class MeanField(Posterior):
    """The logarithms of the standard deviations of a layer's weights and biases, whose means they are themselves."""

    def __init__(self, layer: nn.Module, prior: float, spread: float) -> None:
        super().__init__()
        self.prior = prior / math.sqrt(fan_in(layer))
        for name, mean in layer.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(torch.full_like(mean, math.log(spread * self.prior))))

    def kl(self, layer: nn.Module) -> Tensor:
        """Σ log(σ₀ / σ) + (σ² + μ²) / (2 σ₀²) − ½, over weights and biases."""
        terms = []
        for name, log_std in self.named_parameters():
            log_ratio = log_std - math.log(self.prior)
            squares = (2 * log_ratio).exp() + (layer.get_parameter(name) / self.prior).square()
            terms.append((squares / 2 - log_ratio - 0.5).sum())
        return torch.stack(terms).sum()


def make_variational(
    network: nn.Module,
    *,
    prior: float = 1.0,
    spread: float = 0.05,
    where: str | type | tuple[type, ...] = LAYERS,
) -> Attachment:
    r"""Give the weights of a network, trained or not, standard deviations that training learns, in place.

    The weights themselves become the means, ``q(w) = N(μ, σ²)`` for each; in evaluation mode the network computes what
    it did before. While training it adds noise to the outputs of each layer, by Flipout: each image has weights of its
    own, ``μ + (r sᵀ) ∘ σ ∘ ε``, with ε drawn once for the batch and random signs r, s for each image, which costs a
    second convolution. Add ``kl_divergence(network) / N`` to the mean loss, and no weight decay, which the prior is.
    Predict with :class:`Variational`.

    Why Flipout: the local reparametrization trick has less noisy gradients, but it draws the noise of each output pixel
    independently, as if each pixel had weights of its own. A convolution has the same weights everywhere; what the
    layers after it combine is correlated, and a network trained against noise that averages out underrates it.

    Args:
        network: its code stays as it is; its state gets entries named ``….posterior.weight``.
        prior: weights and biases are a priori ``N(0, prior² / fan-in)``, so that a layer's outputs are of the size of
            its inputs times ``prior``; above 0.
        spread: standard deviations to begin with, as a share of the prior's; above 0.
        where: a regular expression that matches the whole names of modules, or types of modules. Of them, convolutions
            and linear layers are converted; subclasses, which may do something else with their weights, are not.

    Returns:
        What was done, to undo it with ``remove()``.

    Raises:
        ValueError: if ``prior`` or ``spread`` is not above 0, no such layer is meant, or one has been converted before.

    Source: Blundell et al. (2015), "Weight uncertainty in neural networks"; Wen et al. (2018), "Flipout".
    Pitfall: mean field cannot say that weights go together, so its variances are those with all other weights known:
    too small. Under Adam the logarithm of a deviation moves by about the learning rate a step, so a short training
    leaves deviations near ``spread``. The network's own dropout is noise on top of noise: set its p to 0.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    >>> make_variational(net).modules
    ('0', '2')
    """
    if min(prior, spread) <= 0:
        raise ValueError(f"prior is {prior} and spread {spread}, expected both above 0")
    return attach(
        network,
        where,
        LAYERS,
        lambda layer: MeanField(layer, prior, spread),
        lambda layer: layer.register_forward_hook(_flipout, with_kwargs=True),
    )


@dataclass(frozen=True)
class Variational:
    """Weights drawn from the Gaussians that training learned; each draw is a plausible network.

    A draw has the same weights for all pixels and images and costs one pass. The running statistics of batch
    normalization are those of training, which saw weights drawn like these.

    Args:
        network: converted by :func:`make_variational`, and trained since.
        samples: T ≥ 1, the number of draws.

    Raises:
        ValueError: if no layer was converted, or ``samples`` is less than 1.

    Source: Graves (2011), "Practical variational inference for neural networks"; Blundell et al. (2015).
    Pitfall: deviations that were never trained say how the conversion was called, and nothing about the data.
    """

    network: nn.Module
    samples: int = 20

    def __post_init__(self) -> None:
        if not any(isinstance(posterior, MeanField) for _, _, posterior in posteriors(self.network)):
            raise ValueError(
                f"{type(self.network).__name__} has no layer whose weights have deviations: convert it with "
                "make_variational and train it"
            )
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, expected at least 1")

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W), each of other weights."""
        for _ in range(self.samples):
            yield called(self.network, _drawn(self.network, generator), inputs)[None]


@torch.no_grad()
def _drawn(network: nn.Module, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Weights from the posterior, by name."""
    weights = {}
    for layer_name, layer, posterior in posteriors(network):
        for name, log_std in posterior.named_parameters() if isinstance(posterior, MeanField) else ():
            noise = normal(log_std.shape, log_std, generator)
            weights[f"{layer_name}.{name}"] = layer.get_parameter(name) + log_std.exp() * noise
    return weights


def _flipout(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
    """The output for weights of each image's own."""
    if not layer.training:
        return None
    x = args[0] if args else kwargs["input"]
    noise = {
        name: log.exp() * torch.randn_like(log) for name, log in layer.get_submodule("posterior").named_parameters()
    }
    flipped = x * _signs(layer, x)
    if isinstance(layer, nn.Linear):
        change = F.linear(flipped, noise["weight"], noise.get("bias"))
    else:  # torch's own, for it knows how the layer pads
        change = layer._conv_forward(flipped, noise["weight"], noise.get("bias"))  # pyright: ignore[reportCallIssue]
    return output + change * _signs(layer, change)


def _signs(layer: nn.Module, x: Tensor) -> Tensor:
    """A random sign for each image and feature, the same for all its pixels."""
    trailing = layer.get_parameter("weight").ndim - 2  # dimensions behind the channels
    feature = x.ndim - 1 - trailing
    shape = [size if axis in (0, feature) else 1 for axis, size in enumerate(x.shape)]
    return torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(0.5).mul_(2).sub_(1)
