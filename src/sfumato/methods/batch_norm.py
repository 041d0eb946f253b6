"""Statistics of batch normalization for weights that no training step has used."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfumato.contracts import Inputs
from sfumato.errors import ConfigError
from sfumato.methods.base import evaluating


def refresh_batch_norm(network: nn.Module, inputs: Iterable[Inputs]) -> None:
    """Measure the running statistics of batch normalization again, in place.

    Averaged or drawn weights have other activations than the weights of training, so they need other statistics. Every
    batch counts the same. Only batch normalization is in training mode: dropout stays inactive. Frozen layers keep
    their statistics. A layer is frozen if its weights do not require gradients, or if it is in evaluation mode while
    the network is in training mode.

    Args:
        network: Any module. It is left as it is if no layer has statistics to measure.
        inputs: The inputs of the network, a tuple for each batch of training data.

    Raises:
        ConfigError: If there is no batch.

    Source: Izmailov et al. (2018), "Averaging weights leads to wider optima".
    """
    frozen = frozen_norms(network)
    named = [(name, m) for name, m in network.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    norms = [norm for name, norm in named if name not in frozen]
    if not norms:
        return
    rest = iter(inputs)
    if (first := next(rest, None)) is None:
        raise ConfigError(
            f"{type(network).__name__} has {len(norms)} batch normalizations and there is no batch to measure their "
            "statistics on: give the inputs of training batches"
        )
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an average over all batches, instead of one that forgets
            norm.train()
        try:
            for batch in chain([first], rest):
                network(*batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def frozen_norms(network: nn.Module) -> set[str]:
    """The names of the batch normalizations whose statistics must not change, see :func:`refresh_batch_norm`."""
    return {
        name
        for name, norm in network.named_modules()
        if isinstance(norm, _BatchNorm)
        and (
            any(not parameter.requires_grad for parameter in norm.parameters(recurse=False))
            or (network.training and not norm.training)
        )
    }
