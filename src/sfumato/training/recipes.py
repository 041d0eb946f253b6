"""How networks are trained for each method, and the method that they make."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sfumato.contracts import Method
from sfumato.methods import (
    SWAG,
    BatchEnsemble,
    DeepEnsemble,
    Deterministic,
    Heads,
    MCDropout,
    MultiHead,
    SWAGState,
    Variational,
    cyclic_rate,
    inject_concrete_dropout,
    kl_divergence,
    make_batch_ensemble,
    make_multi_head,
    make_variational,
)

Networks = tuple[nn.Module, ...]
SNAPSHOTS = 20  # of SWAG, all kept in full; what its authors take


@dataclass(frozen=True)
class MethodTraining:
    """What training does for one method that it does not do for all.

    Args:
        method: over trained networks, with a number of draws.
        members: how many members a plan has that does not say; if 1, it cannot have more.
        shared: whether they live in one network, trained and kept as one; a batch is then shared out among them.
        attach: gives a fresh network and its number of members what the method learns or remembers beside its weights,
            as part of its state.
        penalty: added to the loss of all training pixels together, in nats; it takes the place of weight decay.
        rate: share of the largest learning rate at (step, steps, members), where it is not one cycle; the weights are
            then not averaged, for the method itself makes something of where they went.
        after: what is done when ``step`` of ``steps`` are done: (network, step, steps, members, keep), where
            ``keep(member)`` stores the weights as they are as those of another member.
        finish: of the trained network and the inputs of all training batches, the network that is stored.
    """

    method: Callable[[Networks, int], Method]
    members: int = 1
    shared: bool = False
    attach: Callable[[nn.Module, int], object] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    rate: Callable[[int, int, int], float] | None = None
    after: Callable[[nn.Module, int, int, int, Callable[[int], None]], None] | None = None
    finish: Callable[[nn.Module, Iterable[tuple[Any, ...]]], nn.Module] | None = None

    def __call__(self, networks: Networks, samples: int) -> Method:
        """The method over these networks."""
        return self.method(networks, samples)


def swag_rate(step: int, steps: int, members: int = 1) -> float:
    """Up in the first 15 %, down to a tenth by a cosine until three quarters, and there constant, so that weights walk.

    Raises:
        ValueError: if the last quarter has fewer steps than snapshots are wanted.
    """
    if steps // 4 < SNAPSHOTS:
        raise ValueError(
            f"swag takes {SNAPSHOTS} snapshots in the last quarter of training, which has {steps // 4} steps: train "
            f"for at least {4 * SNAPSHOTS} steps, with more epochs or a smaller batch"
        )
    rise, fall = 0.15 * steps, steps - steps // 4
    if step < rise:
        return (step + 1) / (math.floor(rise) + 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (fall - rise))))


def _remember(network: nn.Module, step: int, steps: int, members: int, keep: Any) -> None:
    """20 snapshots, evenly spread over the last quarter of the steps."""
    walked, quarter = step - (steps - steps // 4), steps // 4
    if walked > 0 and walked * SNAPSHOTS // quarter > (walked - 1) * SNAPSHOTS // quarter:
        _walked(network).collect(network)


def _snapshot(network: nn.Module, step: int, steps: int, members: int, keep: Callable[[int], None]) -> None:
    """Weights at the end of each cycle but the last, which are the trained ones."""
    ended = step * members // steps
    if ended > (step - 1) * members // steps and ended < members:
        keep(ended)


def _follow(network: nn.Module, members: int) -> None:
    network.add_module("swag_state", SWAGState(network, SNAPSHOTS))


def _walked(network: nn.Module) -> SWAGState:
    found = network.get_submodule("swag_state")
    assert isinstance(found, SWAGState)
    return found


def _undropped(network: nn.Module) -> nn.Module:
    """The network without the dropout it was built with, in whose place the method's own chance comes."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return network


def _spread(network: nn.Module, members: int) -> None:
    make_variational(_undropped(network))


def _drop(network: nn.Module, members: int) -> None:
    """Concrete dropout before every convolution but those that read the image, whose colors are not features."""
    modules = network.named_modules()
    names = [re.escape(name) for name, m in modules if isinstance(m, nn.Conv2d) and m.in_channels > 3]
    if not names:
        raise ValueError("concrete-dropout drops what convolutions read, the image excepted, and the network has none")
    inject_concrete_dropout(_undropped(network), where="|".join(names))


def _split(network: nn.Module, members: int) -> None:
    """Heads in the place of the last layer that the network names."""
    if any(isinstance(module, Heads) for module in network.modules()):
        raise ValueError(
            "multi-head repeats the last layer, and a network of several tasks has one for each: take batch-ensemble "
            "or ensemble"
        )
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError("multi-head repeats the last convolution or linear layer, and the network has none")
    make_multi_head(network, layers[-1], members)


def _swag(networks: Networks, samples: int) -> Method:
    (network,) = networks
    walked = _walked(network)
    # Before training there is no snapshot to draw from, only a network to try.
    return SWAG(network, walked, samples) if int(walked.count) else Deterministic(network)


METHODS: dict[str, MethodTraining] = {
    "deterministic": MethodTraining(lambda networks, _: Deterministic(networks[0])),
    "mc-dropout": MethodTraining(lambda networks, samples: MCDropout(networks[0], samples=samples)),
    "concrete-dropout": MethodTraining(
        lambda networks, samples: MCDropout(networks[0], samples=samples), attach=_drop, penalty=kl_divergence
    ),
    "variational": MethodTraining(
        lambda networks, samples: Variational(networks[0], samples), attach=_spread, penalty=kl_divergence
    ),
    "ensemble": MethodTraining(lambda networks, _: DeepEnsemble(networks), members=5),
    "batch-ensemble": MethodTraining(
        lambda networks, _: BatchEnsemble(networks[0]), members=4, shared=True, attach=make_batch_ensemble
    ),
    "multi-head": MethodTraining(lambda networks, _: MultiHead(networks[0]), members=4, shared=True, attach=_split),
    "snapshot": MethodTraining(
        lambda networks, _: DeepEnsemble(networks), members=5, rate=cyclic_rate, after=_snapshot
    ),
    "swag": MethodTraining(
        _swag,
        attach=_follow,
        rate=swag_rate,
        after=_remember,
        finish=lambda network, inputs: SWAG.of(network, _walked(network), inputs).network,
    ),
}
