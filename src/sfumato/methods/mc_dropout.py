"""Monte Carlo dropout."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sfumato.methods.deterministic import evaluating, tensor
from sfumato.methods.hoisting import Unhoistable, record
from sfumato.methods.masks import Awake
from sfumato.methods.tape import Tape


@dataclass(frozen=True)
class MCDropout:
    """Dropout stays on at prediction: each mask is a plausible network.

    The network is in evaluation mode throughout, so batch normalisation never wakes. Whatever no dropout touches is
    computed once for all draws: the first draw is recorded, the others repeat only the operations that depend on a
    mask, so memory does not grow with the number of draws.

    Args:
        network: any module with dropout (modules or functions, of any kind) that returns one tensor (B, C, H, W).
        samples: T ≥ 1, the number of draws. The spread settles by about 40, the mean earlier.
        chunk: draws computed at a time, for accelerators that one draw does not fill; more memory, the same draws.

    Raises:
        ValueError: if ``samples`` or ``chunk`` is less than 1.

    Source: Gal and Ghahramani (2016), "Dropout as a Bayesian approximation".
    Pitfall: the spread depends on the dropout probability the network was trained with. Dropout inside fused attention
    (``nn.MultiheadAttention``) and stochastic depth stay off. Forward hooks see the first draw only.
    """

    network: nn.Module
    samples: int = 20
    chunk: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or self.chunk < 1:
            raise ValueError(f"samples is {self.samples} and chunk {self.chunk}, expected at least 1 of each")

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs in chunks (S_i, B, C, H, W), the same for the same state of ``generator``.

        Raises:
            ValueError: if the network has no dropout, or does not return a tensor.

        Warns:
            UserWarning: if every draw has to run the whole network, with the reason.
        """
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (self.samples,), generator=generator, device=device).tolist()
        awake, tape = self._first(inputs, seeds)
        if isinstance(tape, str):
            warnings.warn(f"MCDropout repeats the whole network for every draw: {tape}", stacklevel=2)
        lanes = len(awake.seeds)
        for start in range(0, self.samples, lanes):
            awake.seed((seeds[start : start + lanes] + seeds)[:lanes])  # a last chunk is filled up, and cut
            if isinstance(tape, str):
                output = _forward(self.network, inputs, awake)
            else:
                output = tape.output if start == 0 else tape.replay()
            yield output[: self.samples - start]

    def plan(self, *inputs: Any) -> str:
        """How draws for ``inputs`` are made: how much of the network each repeats, or why all of it; runs it once."""
        _, tape = self._first(inputs, [0] * self.samples)
        if isinstance(tape, str):
            return f"plain loop: {tape}"
        return f"hoisted: {len(tape.steps)} of {tape.operations} operations repeat for each draw"

    def _first(self, inputs: tuple[Any, ...], seeds: list[int]) -> tuple[Awake, Tape | str]:
        """The first draws, recorded; or why they cannot be."""
        reason = ""
        for lanes in sorted({min(self.chunk, self.samples), 1}, reverse=True):
            awake = Awake(lanes)

            def run(awake: Awake = awake, lanes: int = lanes) -> Tensor:
                awake.seed(seeds[:lanes])
                return _forward(self.network, inputs, awake)

            try:
                return awake, record(run)
            except Unhoistable as found:
                reason = str(found)
            except RuntimeError:
                if lanes == 1:  # else it was vmap's, which does not know every operator
                    raise
        return Awake(1), reason


def _forward(network: nn.Module, inputs: tuple[Any, ...], awake: Awake) -> Tensor:
    """One pass (lanes, B, C, H, W) with dropout awake; inputs are copied, for the network may write into them."""
    compiled = "torch._dynamo" in sys.modules  # only then can the network be; compiled code hides its dropouts
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with evaluating(network), eager, awake:
        inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)

        def lane(index: Tensor | None) -> Tensor:
            awake.lane = index
            return tensor(network(*inputs))

        lanes = len(awake.seeds)
        output = lane(None)[None] if lanes == 1 else torch.vmap(lane, randomness="same")(torch.arange(lanes))
    if not awake.met:
        raise ValueError(
            f"{type(network).__name__} has no dropout with p > 0, so all its draws would be equal: add nn.Dropout2d "
            "and train with it, or use DeepEnsemble"
        )
    return output
