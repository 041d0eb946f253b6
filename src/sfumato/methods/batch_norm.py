"""Statistics of batch normalization, for weights that no training step has seen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfumato.methods.deterministic import evaluating


def refresh_batch_norm(network: nn.Module, inputs: Iterable[tuple[Any, ...]]) -> None:
    """Measure the running statistics of batch normalization anew, in place.

    Averaged or drawn weights have activations of their own; the statistics that training left are those of others.
    Every batch counts the same. Only batch normalization wakes: dropout stays deterministic.

    Args:
        network: left alone if it has no running statistics.
        inputs: of the network, a tuple for each batch of training data.

    Raises:
        ValueError: if there is no batch.

    Source: Izmailov et al. (2018), "Averaging weights leads to wider optima".
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    rest = iter(inputs)
    if (first := next(rest, None)) is None:
        raise ValueError(
            f"{type(network).__name__} has {len(norms)} batch normalizations and there is no batch to measure their "
            "statistics on: give the inputs of training batches"
        )
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an average over all batches instead of one that forgets
            norm.train()
        try:
            for given in chain([first], rest):
                network(*given)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
