"""Monte Carlo dropout."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from sfumato.methods.deterministic import evaluating, tensor
from sfumato.methods.hoisting import Recording, Unhoistable, record


class _Awake(TorchFunctionMode):
    """Every dropout drops, module or function, whatever mode its network is in; the masks are ours.

    One generator per lane and device: the masks of a draw depend on its seed only.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.seeds = [0] * lanes
        self.lane: Tensor | None = None  # inside vmap, the index of the lane
        self.met = False
        self.generators: dict[torch.device, list[torch.Generator]] = {}

    def seed(self, seeds: list[int]) -> None:
        """Begin the draws that belong to ``seeds``, one per lane."""
        self.seeds = seeds
        for generators in self.generators.values():
            for generator, seed in zip(generators, seeds, strict=True):
                generator.manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KINDS:
            return self._drop(*_KINDS[func], *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _drop(self, shape: Any, formula: Any, x: Tensor, p: float = 0.5, *modes: bool, **named: bool) -> Tensor:
        if p == 0:
            return x
        self.met = True
        dropped = formula(x, self._mask(x, shape(x), p), p)
        inplace = named.get("inplace", modes[1] if len(modes) > 1 else False)
        return x.copy_(dropped) if inplace else dropped

    def _mask(self, x: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
        if x.device not in self.generators:
            self.generators[x.device] = [torch.Generator(x.device).manual_seed(seed) for seed in self.seeds]
        keep = [_kept(shape, p, generator) for generator in self.generators[x.device]]
        return keep[0] if self.lane is None else torch.stack(keep)[self.lane.to(x.device)]


def _kept(shape: tuple[int, ...], p: float, generator: torch.Generator) -> Tensor:
    """A mask, False with probability ``p``, rounded to 1/65536; random bits are what a mask costs, so it takes few."""
    kind, levels = (torch.int8, 2**8) if float(p * 2**8).is_integer() else (torch.int16, 2**16)
    count, per_word = math.prod(shape), 64 // torch.iinfo(kind).bits
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // per_word),), generator=generator, device=generator.device)
    return words.view(kind)[:count].view(shape) >= min(round(p * levels), levels - 1) - levels // 2


def _elements(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _features(x: Tensor, unbatched: int = 0) -> tuple[int, ...]:
    """One decision for each feature map of (B, C, …), or of (C, …) if ``x`` has ``unbatched`` dimensions."""
    kept = 1 if x.ndim == unbatched else 2
    return tuple(x.shape[:kept]) + (1,) * (x.ndim - kept)


def _zeroed(x: Tensor, mask: Tensor, p: float) -> Tensor:
    # In this order, because the scaling is the same for every draw, and so done once.
    return x * (1 / (1 - p) if p < 1 else 0.0) * mask


def _saturated(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Dropped elements take SELU's lower limit; scale and shift keep mean 0 and variance 1."""
    limit = -1.7580993408473766
    scale = 1 / math.sqrt((1 - p) * (1 + p * limit**2)) if p < 1 else 0.0
    return (x * scale - limit * scale) * mask + limit * scale * (1 - p)


_KINDS: dict[Callable[..., Tensor], tuple[Callable[[Tensor], tuple[int, ...]], Callable[..., Tensor]]] = {
    F.dropout: (_elements, _zeroed),
    F.dropout1d: (partial(_features, unbatched=2), _zeroed),
    F.dropout2d: (_features, _zeroed),
    F.dropout3d: (partial(_features, unbatched=4), _zeroed),
    F.alpha_dropout: (_elements, _saturated),
    F.feature_alpha_dropout: (_features, _saturated),
    torch.dropout: (_elements, _zeroed),
    torch.feature_dropout: (_features, _zeroed),
    torch.alpha_dropout: (_elements, _saturated),
    torch.feature_alpha_dropout: (_features, _saturated),
}


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
        awake, recording = self._first(inputs, seeds)
        if isinstance(recording, str):
            warnings.warn(f"MCDropout repeats the whole network for every draw: {recording}", stacklevel=2)
        lanes = len(awake.seeds)
        for start in range(0, self.samples, lanes):
            awake.seed((seeds[start : start + lanes] + seeds)[:lanes])  # a last chunk is filled up, and cut
            if isinstance(recording, str):
                output = _forward(self.network, inputs, awake)
            else:
                output = recording.output if start == 0 else recording.replay()
            yield output[: self.samples - start]

    def plan(self, *inputs: Any) -> str:
        """How draws for ``inputs`` are made: how much of the network each repeats, or why all of it; runs it once."""
        _, recording = self._first(inputs, [0] * self.samples)
        if isinstance(recording, str):
            return f"plain loop: {recording}"
        return f"hoisted: {len(recording.steps)} of {recording.operations} operations repeat for each draw"

    def _first(self, inputs: tuple[Any, ...], seeds: list[int]) -> tuple[_Awake, Recording | str]:
        """The first draws, recorded; or why they cannot be."""
        reason = ""
        for lanes in sorted({min(self.chunk, self.samples), 1}, reverse=True):
            awake = _Awake(lanes)

            def run(awake: _Awake = awake, lanes: int = lanes) -> Tensor:
                awake.seed(seeds[:lanes])
                return _forward(self.network, inputs, awake)

            try:
                return awake, record(run)
            except Unhoistable as found:
                reason = str(found)
            except RuntimeError:
                if lanes == 1:  # else it was vmap's, which does not know every operator
                    raise
        return _Awake(1), reason


def _forward(network: nn.Module, inputs: tuple[Any, ...], awake: _Awake) -> Tensor:
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
