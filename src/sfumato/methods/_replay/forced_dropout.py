"""Dropout of every kind that is active whatever the mode of its network, with masks that depend only on a seed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.methods._replay.batch_norm import batch_norm
from sfumato.methods._replay.module_dropout import calling_modules, require_active_dropout
from sfumato.methods._replay.replay import Args, KwArgs

Shape = Callable[[Tensor], tuple[int, ...]]
Formula = Callable[[Tensor, Tensor, float], Tensor]


class NotBatchFirst(Exception):  # noqa: N818  (it is caught, and no error for a user)
    """The first dimension of a tensor is not that of the images."""


class ForcedDropout(TorchFunctionMode):
    """While it is entered, every dropout drops, whether module or function, whatever the mode of its network.

    There is one generator per draw and device, so the masks of a draw depend only on its seed. Other random numbers,
    such as those of fused attention and of stochastic depth, come from torch's global generators, which
    :meth:`seeded` sets.

    Args:
        count: The number of draws that are computed together.
        forced: Modules that drop only in training mode.
        devices: Devices on which the network may draw random numbers itself.
    """

    def __init__(self, count: int, forced: list[nn.Module], devices: Iterable[torch.device]) -> None:
        super().__init__()
        self.seeds = [0] * count
        self.forced = forced
        self.devices = devices
        self.index: Tensor | None = None  # which of the draws, inside vmap
        self.as_batch = False  # whether the first dimension of tensors is that of draws and images
        self.found = False
        self.global_random = False  # whether a draw used torch's global generators on a CPU or a CUDA device
        self.watched = True  # whether to note the modules in which a dropout is found
        self.active: set[nn.Module] = set()
        self.generators: dict[torch.device, list[torch.Generator]] = {}

    def seed(self, seeds: list[int]) -> None:
        """Start the draws that belong to these seeds."""
        self.seeds = seeds
        for generators in self.generators.values():
            for generator, seed in zip(generators, seeds, strict=True):
                generator.manual_seed(seed)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Set torch's global generators by the seed of the present draw. Afterwards they are as they were."""
        generators = [torch.default_generator]
        generators += [torch.cuda.default_generators[d.index or 0] for d in self.devices if d.type == "cuda"]
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(self.seeds[0] + 1)  # not the seed of the masks: the two must not be correlated
        started = [generator.get_state() for generator in generators]
        try:
            yield
        finally:
            self.global_random |= any(not g.get_state().equal(s) for g, s in zip(generators, started, strict=True))
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    def __torch_function__(
        self, func: Callable[..., Tensor], types: object, args: Args = (), kwargs: KwArgs | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func in _KINDS:
            return self._drop(*_KINDS[func], *args, **kwargs)
        if func is F.batch_norm and self.index is not None and self.found:  # before a dropout, draws do not differ
            return batch_norm(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            p = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
            if p == 0:
                require_active_dropout(layers=True)
            else:
                self._note()
        if func is F.multi_head_attention_forward:
            bound = _ATTENTION.bind(*args, **kwargs)
            bound.arguments["training"] = True
            if bound.arguments["dropout_p"] > 0:
                self._note()
            return func(*bound.args, **bound.kwargs)
        return func(*args, **kwargs)

    def _drop(
        self, shape: Shape, formula: Formula, input: Tensor, p: float = 0.5, *modes: bool, **named: bool
    ) -> Tensor:
        if p == 0:
            require_active_dropout(layers=False)
            return input
        self._note()
        dropped = formula(input, self._mask(input, shape(input), p), p)
        inplace = named.get("inplace", modes[1] if len(modes) > 1 else False)
        return input.copy_(dropped) if inplace else dropped

    def _note(self) -> None:
        self.found = True
        if self.watched:
            self.active.update(calling_modules())

    def _mask(self, x: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
        if x.device not in self.generators:
            self.generators[x.device] = [torch.Generator(x.device).manual_seed(seed) for seed in self.seeds]
        if self.as_batch:
            rows, rest = divmod(shape[0], len(self.seeds))
            if rest:
                raise NotBatchFirst(f"{shape[0]} rows for {len(self.seeds)} draws")
            return _kept((rows, *shape[1:]), p, self.generators[x.device]).flatten(0, 1)
        keep = _kept(shape, p, self.generators[x.device])
        return keep[0] if self.index is None else keep[self.index.to(x.device)]


def _kept(shape: tuple[int, ...], p: float, generators: list[torch.Generator]) -> Tensor:
    """One mask per generator (len(generators), *shape), False with probability ``p``, rounded to 1/65536.

    Random bits make up the cost of a mask, so it uses few of them.
    """
    kind, levels = (torch.int8, 2**8) if float(p * 2**8).is_integer() else (torch.int16, 2**16)
    count, per_word = math.prod(shape), 64 // torch.iinfo(kind).bits
    size = (1, -(-count // per_word))
    words = [torch.randint(-(2**63), 2**63 - 1, size, generator=g, device=g.device) for g in generators]
    bits = (torch.cat(words) if len(words) > 1 else words[0]).view(kind)[:, :count]
    return bits.view(len(words), *shape) >= min(round(p * levels), levels - 1) - levels // 2


def _elements(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _features(x: Tensor, unbatched: int = 0) -> tuple[int, ...]:
    """One number for each feature map of (B, C, …), or of (C, …) if ``x`` has ``unbatched`` dimensions."""
    kept = 1 if x.ndim == unbatched else 2
    return tuple(x.shape[:kept]) + (1,) * (x.ndim - kept)


def _zeroed(x: Tensor, mask: Tensor, p: float) -> Tensor:
    # In this order, because the scaling is the same for every draw, so it is computed once.
    return x * (1 / (1 - p) if p < 1 else 0.0) * mask


def _saturated(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Dropped elements get the lower limit of SELU. Scale and shift keep mean 0 and variance 1."""
    limit = -1.7580993408473766
    scale = 1 / math.sqrt((1 - p) * (1 + p * limit**2)) if p < 1 else 0.0
    return (x * scale - limit * scale) * mask + limit * scale * (1 - p)


_ATTENTION = inspect.signature(F.multi_head_attention_forward)

_KINDS: dict[Callable[..., Tensor], tuple[Shape, Formula]] = {
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
