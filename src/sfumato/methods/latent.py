"""Conditional latent variables: several plausible labelings of one image, each drawn as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfumato.contracts import Inputs, Loss
from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, evaluating, normal, require_samples, tensor
from sfumato.methods.conversion import Conversion, chosen_one, replace_module
from sfumato.methods.features import last_layer, layer_name, split_at
from sfumato.methods.latent_layer import LatentLayer, divergence
from sfumato.methods.output import Heads
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only


def make_latent(network: nn.Module, *, where: str = "", latent: int = 6) -> Conversion:
    """Let the last layer of a network also read a latent vector z, which says *which* labeling is meant, in place.

    ``p(y | x) = ∫ p(y | x, z) p(z | x) dz``. z is the same for all pixels of an image. p(z | x) is a normal
    distribution that a small network gives from the features of the last layer. In training another network gives z
    from features and target. What pixels have in common is in z, such as that a whole region is either road or water.
    What is undecided for each pixel separately is in the likelihood. Train with :func:`latent_elbo` and predict with
    :class:`LatentDraws`. In evaluation mode the network uses the mean of p(z | x).

    Args:
        network: Any module that returns one tensor (B, C, H, W). Its code stays as it is.
        where: A regular expression that matches the whole name of one convolution. Default: the last one.
        latent: The number L ≥ 1 of dimensions of z. Default 6.

    Returns:
        What was done. Its ``remove()`` puts the original layer back.

    Raises:
        ConfigError: If ``latent`` is less than 1, not exactly one module matches, or it is not a convolution.

    Source: Kohl et al. (2018), "A probabilistic U-Net for segmentation of ambiguous images", which reads z from the
    image; Kohl et al. (2019), "A hierarchical probabilistic U-Net", which reads it from features, as here.
    Pitfall: Where the features alone explain the targets, z has no effect and all draws are equal. A β in
    :func:`latent_elbo` that is too large does the same.

    >>> make_latent(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))).modules
    ('1',)
    """
    if latent < 1:
        raise ConfigError(f"latent is {latent}, expected at least 1 dimension")
    if any(isinstance(module, LatentLayer) for module in network.modules()):
        raise ConfigError(f"{type(network).__name__} reads a latent vector already: remove() that first")
    name = chosen_one(network, where) if where else last_layer(network)
    layer = network.get_submodule(name)
    if not isinstance(layer, nn.Conv2d):
        raise ConfigError(f"{name} is a {type(layer).__name__}, expected a convolution (nn.Conv2d)")
    added = LatentLayer(layer, latent).to(layer.weight)
    return replace_module(network, name, added)


def latent_elbo(
    network: nn.Module, inputs: Inputs, target: Tensor, valid: Tensor, nll: Loss, beta: float = 1.0
) -> Tensor:
    """The loss to minimize (B,), in nats per image: ``E_q[Σ −log p(y | x, z)] + β KL(q(z | x, y) ‖ p(z | x))``.

    With β = 1 it is an upper bound of the negative log likelihood of each image's labeling. One z is drawn, with
    torch's global generator.

    Args:
        network: A network that :func:`make_latent` converted.
        inputs: The inputs of the network.
        target: (B, H, W) int64 classes or (B, D, H, W) values; one labeling of each image.
        valid: (B, H, W) bool.
        nll: The loss (B, H, W) of output, target and mask, 0 where not valid, as of a likelihood.
        beta: Weight ≥ 0 of the divergence. Default 1.

    Raises:
        ConfigError: If a valid target is not a class in [0, C), or a target has more than C values.
    """
    layer = _latent_layer(network)
    found: list[Tensor] = []

    def sampler(features: Tensor) -> Tensor:
        mean, log_std = layer.posterior(layer.seen(target, valid, features)).chunk(2, 1)
        found.append(divergence(mean, log_std, *layer.prior(features).chunk(2, 1)))
        return mean + log_std.exp() * torch.randn_like(mean)

    with layer.sampling(sampler):
        output = tensor(network(*inputs)).float()
    return nll(output, target, valid).flatten(1).sum(1) + beta * found[-1].float()


class LatentDraws(BaseMethod):
    """Draws of the latent vector of a network from p(z | x). Each is one labeling of the whole image.

    Features and p(z | x) are computed once, and a draw costs the last layers. Where something other than an
    interpolation follows them, each draw runs the whole network.

    Args:
        network: A network that :func:`make_latent` converted and :func:`latent_elbo` trained.
        samples: The number T ≥ 1 of draws. Default 20.

    Raises:
        ConfigError: If ``samples`` is less than 1, or the network reads no latent vector.

    Source: Kohl et al. (2018).
    Pitfall: The difference between the draws is counted as epistemic. But it is the ambiguity of the labelings, which
    more data do not remove: read it as the part of the uncertainty that pixels share.
    """

    stochastic = True
    network: nn.Module

    def __init__(self, network: nn.Module, samples: int = 20) -> None:
        super().__init__()
        _latent_layer(network)
        require_samples(samples)
        self.network, self.samples = network, samples

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W)."""
        layer = _latent_layer(self.network)
        try:
            features, _, resize = split_at(self.network, layer_name(self.network, layer), inputs)
        except ConfigError:
            yield from self._whole(layer, inputs, generator)
            return
        with evaluating(layer):
            joined = layer.join(features)
            mean, log_std = layer.prior(features).chunk(2, 1)
        for _ in range(self.samples):
            z = mean + log_std.exp() * normal(mean.shape, mean, generator)
            with evaluating(layer):
                output = resize(layer.decoded(joined, z))
            yield output[None]

    def _whole(self, layer: LatentLayer, inputs: Inputs, generator: torch.Generator | None) -> Iterator[Tensor]:
        def sampler(features: Tensor) -> Tensor:
            mean, log_std = layer.prior(features).chunk(2, 1)
            return mean + log_std.exp() * normal(mean.shape, mean, generator)

        for _ in range(self.samples):
            with evaluating(self.network), layer.sampling(sampler):
                output = tensor(self.network(*inputs))
            yield output[None]


def _latent_layer(network: nn.Module) -> LatentLayer:
    for module in network.modules():
        if isinstance(module, LatentLayer):
            return module
    raise ConfigError(f"{type(network).__name__} reads no latent vector: convert it with make_latent")


def _attach(network: nn.Module, members: int) -> None:
    if any(isinstance(module, Heads) for module in network.modules()):
        raise ConfigError(
            "latent needs one last layer, and a network of several tasks has one for each: choose one task"
        )
    make_latent(network)


def _loss(network: nn.Module, inputs: Inputs, target: Tensor, valid: Tensor, nll: Loss) -> Tensor:
    return latent_elbo(network, inputs, target, valid, nll).sum() / valid.sum().clamp_min(1)


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> LatentDraws:
    return LatentDraws(only(networks), samples)


TRAINING = MethodTraining(_build, attach=_attach, loss=_loss)
