"""Randomized priors: a frozen random network is added to each member of an ensemble."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.methods.base import tensor
from sfumato.methods.conversion import Conversion
from sfumato.methods.ensemble import TRAINING as ENSEMBLE
from sfumato.methods.training import MethodTraining

NAME = "prior"
LEAST = 1e-6  # of the spread of the outputs of a random network


class Prior(nn.Module):
    """A network with fresh weights that is never trained, and always in evaluation mode.

    The first batch in training gives batch normalization its statistics and the outputs their scale. Before that the
    outputs are 0.

    Args:
        network: A network whose copy is taken. Modules with ``reset_parameters`` get fresh weights.
        scale: Standard deviation of the outputs over the first batch, > 0.
    """

    factor: Tensor

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = deepcopy(network), scale
        for module in self.network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.requires_grad_(False)
        self.register_buffer("factor", torch.zeros(()))
        self._fresh = True
        self.train(network.training)

    def train(self, mode: bool = True) -> Self:
        """Keep the network in evaluation mode. The mode tells only whether a first batch may come."""
        super().train(False)
        self.training = mode
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """``scale`` times the outputs of the random network, in units of their standard deviation."""
        if self.training and self._fresh:
            self._fresh = False
            if not bool(self.factor):
                self._begin(*args, **kwargs)
        return self.factor * tensor(self.network(*args, **kwargs))

    def _begin(self, *args: Any, **kwargs: Any) -> None:
        norms = [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        self.network(*args, **kwargs)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()
        outputs = tensor(self.network(*args, **kwargs))
        spread = outputs.movedim(1, -1).flatten(0, -2).std(0, correction=0).mean()
        self.factor.fill_(self.scale / max(float(spread), LEAST))


def add_prior(network: nn.Module, *, scale: float = 1.0) -> Conversion:
    """Add a frozen copy with fresh weights to a network, in place: ``f(x) + scale · p(x)``.

    Training fits the sum, so the network learns to undo ``p`` where there are data. Elsewhere ``p`` remains, and it is
    another one in each member of an ensemble. So members differ off the data, also where training alone would make
    them agree.

    Args:
        network: A module with one output tensor (B, C, *event). It takes twice as long afterwards.
        scale: Standard deviation of ``p`` over the first batch of training, averaged over channels, > 0. It is the
            size of the differences that members should have a priori, in units of logits or of standardized values.
            Default 1.

    Returns:
        What was done. Its ``remove()`` takes the prior away again.

    Raises:
        ConfigError: If ``scale`` is not above 0, or the network has a prior already.

    Source: Osband, Aslanides and Cassirer (2018), "Randomized prior functions for deep reinforcement learning". The
    scale by the first batch is ours: with torch's default weights the output of a deep random network is nearly
    constant.
    Pitfall: Convert networks before they are trained. Each member needs a prior of its own.

    >>> net = nn.Linear(2, 1)
    >>> conversion = add_prior(net)
    >>> net(torch.randn(64, 2)).requires_grad, sum(p.requires_grad for p in net.parameters())
    (True, 2)
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"scale is {scale}, expected above 0")
    holder = next(module for module in network.modules() if not isinstance(module, nn.Sequential))
    if NAME in holder._modules:
        raise ConfigError(f"{type(network).__name__} has a module {NAME!r} already: remove() that first")
    holder.add_module(NAME, Prior(network, scale))  # a Sequential would call it after its layers
    handle = network.register_forward_hook(_add, with_kwargs=True)
    return Conversion((NAME,), (handle.remove, partial(_remove, holder)))


def _remove(holder: nn.Module) -> None:
    holder._modules.pop(NAME, None)


def _add(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> Tensor:
    holder = next(module for module in network.modules() if not isinstance(module, nn.Sequential))
    return tensor(output) + holder.get_submodule(NAME)(*args, **kwargs)


def _attach(network: nn.Module, members: int) -> None:
    add_prior(network)


TRAINING = MethodTraining(ENSEMBLE.build, members=5, attach=_attach)
