"""Monte Carlo dropout."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sfumato.methods._replay.forced_dropout import DropoutInactive, dropout_modules, may_drop, only_drops
from sfumato.methods._replay.masks import ForcedDropout
from sfumato.methods._replay.record import NotRecordable, record
from sfumato.methods._replay.replay import Recording
from sfumato.methods.deterministic import evaluating, tensor


@dataclass(frozen=True)
class MCDropout:
    """Dropout stays on at prediction: each mask is a plausible network.

    The network is in evaluation mode throughout, so batch normalization never wakes. Whatever no dropout touches is
    computed once for all draws: the first draw is recorded, the others repeat only the operations that depend on a
    mask, so memory does not grow with the number of draws.

    Args:
        network: any module with dropout (modules or functions, of any kind, that of attention included) that returns
            one tensor (B, C, H, W).
        samples: T ≥ 1, the number of draws. The spread settles by about 40, the mean earlier.
        chunk: draws computed at a time, for accelerators that one draw does not fill; more memory, the same draws. One
            at a time where the network draws random numbers of its own, as attention and stochastic depth do.
        stochastic_depth: whether branches are dropped, too, by the ``DropPath`` or ``StochasticDepth`` of the network.
            They begin in its first layers, so little is left to compute once.

    Raises:
        ValueError: if ``samples`` or ``chunk`` is less than 1.

    Source: Gal and Ghahramani (2016), "Dropout as a Bayesian approximation".
    Pitfall: the spread depends on the dropout probability the network was trained with. What a module drops by asking
    ``self.training`` itself stays off, unless the module does nothing else or attends. Forward hooks see the first
    draw only.
    """

    network: nn.Module
    samples: int = 20
    chunk: int = 1
    stochastic_depth: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.chunk < 1:
            raise ValueError(f"samples is {self.samples} and chunk {self.chunk}, expected at least 1 of each")

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs in chunks (S_i, B, C, H, W), the same for the same state of ``generator``.

        Raises:
            ValueError: if the network has no dropout, is TorchScript, or does not return a tensor.

        Warns:
            UserWarning: if every draw has to run the whole network, with the reason.
        """
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (self.samples,), generator=generator, device=device).tolist()
        forced_dropout, recording = self._first(inputs, seeds)
        if isinstance(recording, str):
            warnings.warn(f"MCDropout repeats the whole network for every draw: {recording}", stacklevel=2)
        lanes = len(forced_dropout.seeds)
        for start in range(0, self.samples, lanes):
            batch = (seeds[start : start + lanes] + seeds)[:lanes]  # a last chunk is filled up, and cut
            if isinstance(recording, str):
                output = self._undisturbed(
                    forced_dropout.forced, partial(_forward, self.network, inputs, forced_dropout, batch)
                )
            elif start == 0:
                output = recording.output
            else:
                forced_dropout.seed(batch)
                with forced_dropout.chance():
                    output = recording.replay()
            yield output[: self.samples - start]

    def plan(self, *inputs: Any) -> str:
        """How draws for ``inputs`` are made: how much of the network each repeats, or why all of it; runs it once."""
        _, recording = self._first(inputs, [0] * self.samples)
        if isinstance(recording, str):
            return f"plain loop: {recording}"
        return f"hoisted: {len(recording.steps)} of {recording.operations} operations repeat for each draw"

    def _first(self, inputs: tuple[Any, ...], seeds: list[int]) -> tuple[ForcedDropout, Recording | str]:
        """The first draws, recorded; or why they cannot be."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.network.modules()):
            raise ValueError(
                f"{type(self.network).__name__} is TorchScript, whose dropouts nothing outside can wake: give "
                "MCDropout the Python module that it was made from"
            )
        forced = dropout_modules(self.network, False) + (
            dropout_modules(self.network, True) if self.stochastic_depth else []
        )
        return self._undisturbed(forced, partial(self._recorded, inputs, seeds, forced))

    def _undisturbed(self, forced: list[nn.Module], work: Callable[[], Any]) -> Any:
        """What ``work`` returns; whenever it meets a module deterministic, all of that type wake and it begins again."""
        while True:
            try:
                return work()
            except DropoutInactive as deterministic:
                alike = (module for module in self.network.modules() if type(module) is deterministic.args[0])
                forced += [module for module in alike if may_drop(module, True)]

    def _recorded(
        self, inputs: tuple[Any, ...], seeds: list[int], forced: list[nn.Module]
    ) -> tuple[ForcedDropout, Recording | str]:
        tensors = [*self.network.parameters(), *self.network.buffers(), *tree_leaves(inputs)]
        devices = {leaf.device for leaf in tensors if isinstance(leaf, Tensor)}
        reason = ""
        for lanes in sorted({min(self.chunk, self.samples), 1}, reverse=True):
            forced_dropout = ForcedDropout(lanes, forced, devices)
            try:
                recording = record(partial(_forward, self.network, inputs, forced_dropout, seeds[:lanes]))
            except NotRecordable as found:
                reason = str(found)
            except RuntimeError:
                if lanes == 1:  # else it was vmap's, which does not know every operator
                    raise
            else:
                if lanes == 1 or not recording.own_chance:  # which would be the same in every lane
                    return forced_dropout, recording
        return ForcedDropout(1, forced, devices), reason


def _forward(network: nn.Module, inputs: tuple[Any, ...], forced_dropout: ForcedDropout, seeds: list[int]) -> Tensor:
    """One pass (lanes, B, C, H, W) with dropout forced_dropout; inputs are copied, for the network may write into them."""
    compiled = "torch._dynamo" in sys.modules  # only then can the network be; compiled code hides its dropouts
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    forced_dropout.seed(seeds)
    with evaluating(network), eager, forced_dropout.chance(), forced_dropout:
        for module in forced_dropout.forced:
            module.training = True
        inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)

        def lane(index: Tensor | None) -> Tensor:
            forced_dropout.lane = index
            return tensor(network(*inputs))

        lanes = len(seeds)
        output = lane(None)[None] if lanes == 1 else torch.vmap(lane, randomness="same")(torch.arange(lanes))
    if not forced_dropout.met and not any(map(only_drops, forced_dropout.forced)):
        raise ValueError(_without_dropout(network))
    return output


def _without_dropout(network: nn.Module) -> str:
    depth = len(dropout_modules(network, True))
    return f"{type(network).__name__} has no dropout with p > 0, so all its draws would be equal: " + (
        f"MCDropout(…, stochastic_depth=True) wakes its {depth} modules of stochastic depth"
        if depth
        else "add nn.Dropout2d and train with it, put it in with inject_dropout, or use DeepEnsemble"
    )
