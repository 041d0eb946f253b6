"""Dropout of every kind, forced_dropout whatever the mode of its network, with masks that depend on a seed only."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.methods._replay.forced_dropout import require_active_dropout


class ForcedDropout(TorchFunctionMode):
    """Every dropout drops, module or function, whatever mode its network is in; the masks are ours.

    One generator per lane and device: the masks of a draw depend on its seed only. Chance that is not ours, as that of
    fused attention and of stochastic depth, comes from torch's global generators, which :meth:`chance` seeds.

    Args:
        lanes: draws at a time.
        forced: modules whose own mode must be training for them to drop.
        devices: where the network may draw random numbers itself.
    """

    def __init__(self, lanes: int, forced: list[nn.Module], devices: Iterable[torch.device]) -> None:
        super().__init__()
        self.seeds = [0] * lanes
        self.forced = forced
        self.devices = devices
        self.lane: Tensor | None = None  # inside vmap, the index of the lane
        self.met = False
        self.generators: dict[torch.device, list[torch.Generator]] = {}

    def seed(self, seeds: list[int]) -> None:
        """Begin the draws that belong to ``seeds``, one per lane."""
        self.seeds = seeds
        for generators in self.generators.values():
            for generator, seed in zip(generators, seeds, strict=True):
                generator.manual_seed(seed)

    @contextmanager
    def chance(self) -> Iterator[None]:
        """Torch's global generators as the present draw's seed wants them; afterwards as they were."""
        ours = [torch.default_generator]
        ours += [torch.cuda.default_generators[d.index or 0] for d in self.devices if d.type == "cuda"]
        states = [generator.get_state() for generator in ours]
        for generator in ours:
            generator.manual_seed(self.seeds[0] + 1)  # not the masks' seed: the two must not be correlated
        try:
            yield
        finally:
            for generator, state in zip(ours, states, strict=True):
                generator.set_state(state)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _KINDS:
            return self._drop(*_KINDS[func], *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            p = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
            if p == 0:
                require_active_dropout(layers=True)
            self.met |= p > 0
        if func is F.multi_head_attention_forward:
            bound = _ATTENTION.bind(*args, **kwargs)
            bound.arguments["training"] = True
            self.met |= bound.arguments["dropout_p"] > 0
            return func(*bound.args, **bound.kwargs)
        return func(*args, **kwargs)

    def _drop(self, shape: Any, formula: Any, input: Tensor, p: float = 0.5, *modes: bool, **named: bool) -> Tensor:
        if p == 0:
            require_active_dropout(layers=False)
            return input
        self.met = True
        dropped = formula(input, self._mask(input, shape(input), p), p)
        inplace = named.get("inplace", modes[1] if len(modes) > 1 else False)
        return input.copy_(dropped) if inplace else dropped

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


_ATTENTION = inspect.signature(F.multi_head_attention_forward)

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
