"""SWAG: a Gaussian over all weights, from the weights along a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from sfumato.contracts import Batch, Inputs, Loss
from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, called, require_samples
from sfumato.methods.batch_norm import frozen_norms, refresh_batch_norm
from sfumato.methods.deterministic import Deterministic
from sfumato.methods.swag_state import SWAGState
from sfumato.methods.training import NO_STATE, Keep, MethodTraining, Networks, State, only

SNAPSHOTS = 20  # collected in training and all kept in full, as many as the authors take


class SWAG(BaseMethod):
    """Weights drawn from a Gaussian that was fitted to the weights along a training. Each is a plausible network.

    Make one with :meth:`of`, from snapshots, or with :meth:`fit`, which trains further itself. A draw costs one pass,
    and a product of the snapshots with K numbers.

    Batch normalization: draws use the statistics of the mean weights, measured on training data. So a draw depends on
    its generator and its input alone. Maddox et al. measure them again for each draw, which costs a pass over training
    data each time. ``DeepEnsemble(swag.networks(inputs))`` does that, with draws that are fixed once for all images.

    Args:
        network: The network at the mean weights, with the batch normalization statistics that belong to them.
        swag_state: The moments of its weights, from at least as many snapshots as their rank.
        samples: The number T ≥ 1 of draws. Default 20.

    Raises:
        ConfigError: If there are fewer snapshots than the rank, or ``samples`` is less than 1.

    Source: Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning".
    Pitfall: The spread depends on the learning rate and the batch size of the training. A learning rate that falls to 0
    leaves no spread.
    """

    stochastic = True
    network: nn.Module
    swag_state: SWAGState

    def __init__(self, network: nn.Module, swag_state: SWAGState, samples: int = 20) -> None:
        super().__init__()
        count, rank = int(swag_state.count), swag_state.rank
        if count < rank:
            raise ConfigError(f"{count} snapshots for rank {rank}: collect at least {rank}, or use a smaller rank")
        require_samples(samples)
        self.network, self.samples = network, samples
        if any(module is swag_state for module in network.modules()):
            self.__dict__["swag_state"] = swag_state  # a submodule already, so it is not registered a second time
        else:
            self.swag_state = swag_state

    @classmethod
    def of(
        cls,
        network: nn.Module,
        snapshots: SWAGState | Iterable[Mapping[str, Tensor]],
        inputs: Iterable[Inputs] = (),
        *,
        rank: int = 20,
        samples: int = 20,
    ) -> Self:
        """The method for snapshots of a network, which is copied and left as it is.

        Args:
            network: A network with the architecture of the snapshots.
            snapshots: Moments that were collected before, or state dicts of one training in their order.
            inputs: The inputs of the network, a tuple for each batch of training data. Only batch normalization that is
                not frozen needs them.
            rank: The rank of the moments, if they are collected here. Default 20.
            samples: The number of draws of the method. Default 20.

        Raises:
            ConfigError: As for the class; if the snapshots belong to another network; or if the network has batch
                normalization and there is no batch.
        """
        if not isinstance(snapshots, SWAGState):
            swag_state = SWAGState(network, rank).to(next(network.parameters()).device)
            for state in snapshots:
                swag_state.collect(state)
            snapshots = swag_state
        method = cls(deepcopy(network), snapshots, samples)
        method.network.load_state_dict(snapshots.average(), strict=False)
        refresh_batch_norm(method.network, inputs)
        return method

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        batches: Iterable[Batch],
        nll: Loss,
        *,
        learning_rate: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        epochs: int = 20,
        rank: int = 20,
        samples: int = 20,
    ) -> Self:
        """Train a copy further at a constant learning rate, and collect its weights after each epoch.

        Args:
            network: A trained network. It is left as it is.
            batches: Inputs of the network (a tuple), targets and masks, as ``nll`` takes them; read repeatedly.
            nll: The loss (B, *event) of output, target and mask, as of a likelihood.
            learning_rate: The constant rate of SGD, which decides how far the weights move. Default 0.01.
            momentum: The momentum of SGD. Default 0.9.
            weight_decay: The weight decay of SGD. Default 0.
            epochs: The number of passes over ``batches``, and so of snapshots. Default 20.
            rank: The number of snapshots that are kept in full, at most ``epochs``. Default 20.
            samples: The number of draws of the method. Default 20.

        Raises:
            ConfigError: If there are fewer epochs than ``rank``, or ``batches`` can be read only once.
        """
        if iter(batches) is batches:
            raise ConfigError("batches can be read only once: give a list or a DataLoader")
        if epochs < rank:
            raise ConfigError(f"{epochs} epochs for rank {rank}: train for at least {rank}, or use a smaller rank")
        trained = deepcopy(network).train()
        for name in frozen_norms(network):
            trained.get_submodule(name).eval()
        swag_state = SWAGState(trained, rank).to(next(trained.parameters()).device)
        optimizer = torch.optim.SGD(trained.parameters(), learning_rate, momentum, weight_decay=weight_decay)
        for _ in range(epochs):
            for inputs, target, valid in batches:
                optimizer.zero_grad()
                loss = nll(trained(*inputs), target, valid).sum() / valid.sum().clamp_min(1)
                loss.backward()
                optimizer.step()
            swag_state.collect(trained)
        return cls.of(network, swag_state, (inputs for inputs, _, _ in batches), samples=samples)

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, *event), each with other weights."""
        for _ in range(self.samples):
            yield called(self.network, self.swag_state.draw(generator), inputs)[None]

    def networks(self, inputs: Iterable[Inputs], generator: torch.Generator | None = None) -> tuple[nn.Module, ...]:
        """T copies of the network with drawn weights, each with its own statistics, measured on training ``inputs``.

        Raises:
            ConfigError: If ``inputs`` can be read only once.
        """
        if iter(inputs) is inputs:
            raise ConfigError("inputs can be read only once, and every draw needs them: give a list")
        drawn = []
        for _ in range(self.samples):
            drawn.append(deepcopy(self.network))
            drawn[-1].load_state_dict(self.swag_state.draw(generator), strict=False)
            refresh_batch_norm(drawn[-1], inputs)
        return tuple(drawn)


def swag_rate(step: int, steps: int, members: int = 1) -> float:
    """The share of the largest learning rate at a step of training for SWAG.

    It rises during the first 15 % of the steps, falls to a tenth by a cosine until three quarters, and is constant in
    the last quarter, where the snapshots are collected.

    Args:
        step: The number of steps done.
        steps: The number of all steps.
        members: Not used.

    Raises:
        ConfigError: If the last quarter has fewer steps than snapshots are wanted.
    """
    if steps // 4 < SNAPSHOTS:
        raise ConfigError(
            f"swag takes {SNAPSHOTS} snapshots in the last quarter of training, which has {steps // 4} steps: train "
            f"for at least {4 * SNAPSHOTS} steps, with more epochs or a smaller batch"
        )
    rise, fall = 0.15 * steps, steps - steps // 4
    if step < rise:
        return (step + 1) / (math.floor(rise) + 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (fall - rise))))


def _attach(network: nn.Module, members: int) -> None:
    network.add_module("swag_state", SWAGState(network, SNAPSHOTS))


def _after(network: nn.Module, step: int, steps: int, members: int, keep: Keep) -> None:
    """Collect 20 snapshots, evenly spread over the last quarter of the steps."""
    done, quarter = step - (steps - steps // 4), steps // 4
    if done > 0 and done * SNAPSHOTS // quarter > (done - 1) * SNAPSHOTS // quarter:
        _state_of(network).collect(network)


def _finish(network: nn.Module, inputs: Iterable[Inputs]) -> nn.Module:
    return SWAG.of(network, _state_of(network), inputs).network


def _state_of(network: nn.Module) -> SWAGState:
    found = network.get_submodule("swag_state")
    assert isinstance(found, SWAGState)
    return found


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> SWAG | Deterministic:
    """The method; or the network alone before training, when there is no snapshot yet."""
    network = only(networks)
    swag_state = _state_of(network)
    return SWAG(network, swag_state, samples) if int(swag_state.count) else Deterministic(network)


TRAINING = MethodTraining(
    _build, attach=_attach, rate=swag_rate, after=_after, finish=_finish, needs_training_data=True
)
