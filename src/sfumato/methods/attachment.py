"""What is learned beside the weights of layers, and rests on them: removable, and part of the network's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sfumato.methods.injection import chosen

NAME = "posterior"  # of the child that a layer gets, and so part of the names in its state


class Posterior(nn.Module):
    """What is learned about one layer; a child of it, so that both are moved, copied and saved together."""

    def kl(self, layer: nn.Module) -> Tensor:
        """Divergence from the prior, in nats."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attachment:
    """What :func:`make_variational` or :func:`inject_concrete_dropout` put on layers of a network.

    Args:
        modules: their names.
        layers: the layers themselves.
        handles: what holds it there.
    """

    modules: tuple[str, ...]
    layers: tuple[nn.Module, ...]
    handles: tuple[RemovableHandle, ...]

    def remove(self) -> None:
        """Take it away again, and what it has learned: the network's own weights stay as they are now."""
        for layer, handle in zip(self.layers, self.handles, strict=True):
            handle.remove()
            delattr(layer, NAME)


def attach(
    network: nn.Module,
    where: str | type | tuple[type, ...],
    kinds: tuple[type, ...],
    make: Callable[[nn.Module], Posterior],
    hold: Callable[[nn.Module], RemovableHandle],
) -> Attachment:
    """A posterior of each layer that is meant and of these kinds.

    Raises:
        ValueError: if none is, or one has a posterior already.
    """
    named = [(name, layer) for name, layer in chosen(network, where) if type(layer) in kinds]
    if not named:
        known = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"none of the modules of {type(network).__name__} meant by {where!r} is a {known}")
    for name, layer in named:
        if hasattr(layer, NAME):
            raise ValueError(f"{name} has a {type(getattr(layer, NAME)).__name__} already: remove() that first")
    for _, layer in named:
        layer.add_module(NAME, make(layer))
    handles = tuple(hold(layer) for _, layer in named)
    return Attachment(tuple(name for name, _ in named), tuple(layer for _, layer in named), handles)


def posteriors(network: nn.Module) -> Iterator[tuple[str, nn.Module, Posterior]]:
    """Name, layer and posterior of each layer that has one."""
    for name, layer in network.named_modules():
        found = layer._modules.get(NAME)
        if isinstance(found, Posterior):
            yield name, layer, found


def kl_divergence(network: nn.Module) -> Tensor:
    """How far what is known of a network's layers has come from its prior, in nats, with gradient.

    ``KL(q ‖ p)``, summed over the layers that :func:`make_variational` or :func:`inject_concrete_dropout` was given.
    The bound on the evidence of N data points is ``Σ nll + KL``; so a loss that is a mean over points takes ``KL / N``
    added to it. For dense prediction a data point is a pixel: N is the number of valid pixels of *all* training images,
    not of the batch, and not the number of images, which would weigh the prior as many times as an image has pixels.

    Raises:
        ValueError: if no layer has a posterior.
    """
    found = [posterior.kl(layer) for _, layer, posterior in posteriors(network)]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no layer whose posterior is learned: convert it with make_variational or "
            "inject_concrete_dropout"
        )
    return torch.stack(found).sum()


def fan_in(layer: nn.Module) -> int:
    """How many products a unit of a convolution or linear layer sums."""
    weight = layer.get_parameter("weight")
    return weight[0].numel()
