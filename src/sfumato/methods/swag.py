"""SWAG: a Gaussian over all weights, from where training walked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from sfumato.contracts import Batch, Loss
from sfumato.methods.batch_norm import refresh_batch_norm
from sfumato.methods.deterministic import called
from sfumato.methods.swag_state import SWAGState


@dataclass(frozen=True)
class SWAG:
    """Weights drawn from a Gaussian fitted to where training walked; each is a plausible network.

    Make one with :meth:`of`, from snapshots, or with :meth:`fit`, which walks itself. A draw costs one pass, and of the
    snapshots a product with K numbers.

    Batch normalization: draws use the statistics of the mean weights, measured on training data, so a draw depends on
    its generator and its input alone. Maddox et al. measure them anew for each draw, a pass over training data each;
    ``DeepEnsemble(swag.networks(inputs))`` is that, with draws fixed once for all images.

    Args:
        network: at the mean weights, with the statistics that belong to them.
        swag_state: of its weights, at least as many snapshots as its rank.
        samples: T ≥ 1, the number of draws.

    Raises:
        ValueError: if there are fewer snapshots than the rank, or ``samples`` is less than 1.

    Source: Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning".
    Pitfall: the spread is that of the walk, so it grows with the learning rate and shrinks with the batch; a rate that
    has decayed to 0 leaves none.
    """

    network: nn.Module
    swag_state: SWAGState
    samples: int = 20

    def __post_init__(self) -> None:
        count, rank = int(self.swag_state.count), self.swag_state.rank
        if count < rank:
            raise ValueError(f"{count} snapshots for rank {rank}: collect at least {rank}, or ask for a smaller rank")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}, expected at least 1")

    @classmethod
    def of(
        cls,
        network: nn.Module,
        snapshots: SWAGState | Iterable[Mapping[str, Tensor]],
        inputs: Iterable[tuple[Any, ...]] = (),
        *,
        rank: int = 20,
        samples: int = 20,
    ) -> Self:
        """The method for snapshots of a network, which is copied and left as it is.

        Args:
            network: of the snapshots' architecture.
            snapshots: a swag_state that has been collected, or state dicts of one run in the order of training.
            inputs: of the network, a tuple for each batch of training data; only batch normalization needs them.
            rank: of the swag_state, if it has to be collected here.
            samples: how many draws the method makes.

        Raises:
            ValueError: as of the class, if the snapshots are of another network, or the network has batch
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
        """Train a copy on at a constant rate, and remember its weights after each epoch.

        Args:
            network: trained; it is left as it is.
            batches: inputs of the network (a tuple), targets and masks, as ``nll`` takes them; gone through repeatedly.
            nll: of output, target and valid, the loss of each pixel (B, H, W), as of a likelihood.
            learning_rate: of SGD, constant: it decides how far the weights walk.
            momentum: of SGD.
            weight_decay: of SGD.
            epochs: passes over ``batches``, and so snapshots.
            rank: snapshots that are kept in full, at most ``epochs``.
            samples: how many draws the method makes.

        Raises:
            ValueError: if there are fewer epochs than ``rank``, or ``batches`` can be gone through only once.
        """
        if iter(batches) is batches:
            raise ValueError("batches can be gone through only once: give a list or a DataLoader")
        if epochs < rank:
            raise ValueError(f"{epochs} epochs for rank {rank}: train for at least {rank}, or ask for a smaller rank")
        walker = deepcopy(network).train()
        swag_state = SWAGState(walker, rank).to(next(walker.parameters()).device)
        optimizer = torch.optim.SGD(walker.parameters(), learning_rate, momentum, weight_decay=weight_decay)
        for _ in range(epochs):
            for inputs, target, valid in batches:
                optimizer.zero_grad()
                loss = nll(walker(*inputs), target, valid).sum() / valid.sum().clamp_min(1)
                loss.backward()
                optimizer.step()
            swag_state.collect(walker)
        return cls.of(network, swag_state, (inputs for inputs, _, _ in batches), samples=samples)

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W), each of other weights."""
        for _ in range(self.samples):
            yield called(self.network, self.swag_state.draw(generator), inputs)[None]

    def networks(
        self, inputs: Iterable[tuple[Any, ...]], generator: torch.Generator | None = None
    ) -> tuple[nn.Module, ...]:
        """T copies of the network with drawn weights and statistics of their own, measured on training ``inputs``."""
        if iter(inputs) is inputs:
            raise ValueError("inputs can be gone through only once, and every draw needs them: give a list")
        drawn = []
        for _ in range(self.samples):
            drawn.append(deepcopy(self.network))
            drawn[-1].load_state_dict(self.swag_state.draw(generator), strict=False)
            refresh_batch_norm(drawn[-1], inputs)
        return tuple(drawn)
