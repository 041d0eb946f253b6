"""Monte Carlo dropout."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.utils._pytree import tree_leaves, tree_map

from sfumato.contracts import Inputs
from sfumato.errors import ConfigError
from sfumato.methods._replay.forced_dropout import ForcedDropout
from sfumato.methods._replay.module_dropout import DropoutInactive, dropout_modules, may_drop, only_drops, undetected
from sfumato.methods._replay.record import NotRecordable, record
from sfumato.methods._replay.replay import Recording
from sfumato.methods.base import BaseMethod, evaluating, tensor
from sfumato.methods.output import own_name
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only

T = TypeVar("T")

CPU_PIXELS = 2**16  # of all draws, up to which a CPU computes them together
BYTES_PER_PIXEL = 4096  # of a draw, that a GPU must have to compute them together


class MCDropout(BaseMethod):
    """Dropout stays active at prediction. Each mask is a plausible network.

    The network is in evaluation mode, so batch normalization uses its running statistics. What does not depend on a
    dropout is computed once for all draws. Small images, and nearly all on a GPU, take longer to start operations than
    to run them; there all draws are one pass. Otherwise the first draw is recorded, and the others replay only the
    operations that depend on a mask. So memory does not grow with the number of draws.

    One pass for all draws is a batch that repeats the images. At the first call two draws are compared with passes of
    their own. Where they differ, because a network mixes images or has another dimension first, or where it decides by
    a random number, ``torch.vmap`` adds a dimension for the draws, which takes several times as long.

    Args:
        network: Any module with dropout that returns one tensor (B, C, *event). The dropout may be modules or functions
            of any kind, also that of attention.
        samples: The number T ≥ 1 of draws. The spread converges by about 40, the mean earlier. Default 20.
        chunk: The number of draws that are computed together. More need more memory and give the same draws up to
            rounding. Networks that draw random numbers of their own, as attention and stochastic depth do, and
            networks that ``torch.vmap`` cannot run compute one draw at a time. Default None: all draws together, if T
            times the pixels of the inputs is at most 65536 on a CPU, or at most one for each 4096 bytes of memory of a
            CUDA device (80 GiB: 20 draws of 1000 × 1000 pixels). Otherwise one draw at a time; also if the network has
            forward hooks, on other devices, and once computing them together failed, for lack of memory for example.
        stochastic_depth: Whether the ``DropPath`` or ``StochasticDepth`` of the network drops branches too. They start
            in its first layers, so only little can be computed once. Default False.

    Raises:
        ConfigError: If ``samples`` or ``chunk`` is less than 1.

    Source: Gal and Ghahramani (2016), "Dropout as a Bayesian approximation".
    Pitfall: The spread depends on the dropout probability that the network was trained with. A module that drops only
    ``if self.training`` stays inactive, unless it does nothing else or is an attention; a warning names it where its
    probability can be found. Forward hooks see the first draw only; with ``chunk`` above 1 they see tensors of
    ``torch.vmap``, which hold several draws.
    """

    stochastic = True
    network: nn.Module

    def __init__(
        self, network: nn.Module, samples: int = 20, chunk: int | None = None, stochastic_depth: bool = False
    ) -> None:
        super().__init__()
        if samples < 1 or (chunk is not None and chunk < 1):
            raise ConfigError(f"samples is {samples} and chunk {chunk}, expected at least 1 of each")
        self.network, self.samples, self.chunk, self.stochastic_depth = network, samples, chunk, stochastic_depth
        self._together_failed = False
        self._as_batch: bool | None = None  # whether draws can be rows of a batch; None before the first call

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs in chunks (S_i, B, C, *event), the same for the same state of the generator.

        Raises:
            ConfigError: If the network has no dropout, is TorchScript, or does not return a tensor.

        Warns:
            UserWarning: If every draw has to run the whole network, with the reason; and if a module has a dropout
                that stays inactive.
        """
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (self.samples,), generator=generator, device=device).tolist()
        dropout, recording = self._first(inputs, seeds)
        if isinstance(recording, str):
            warnings.warn(f"MCDropout repeats the whole network for every draw: {recording}", stacklevel=2)
        count = len(dropout.seeds)
        for start in range(0, self.samples, count):
            batch = (seeds[start : start + count] + seeds)[:count]  # the last chunk is filled up, and cut
            if isinstance(recording, str):
                output = self._activating(dropout.forced, partial(_forward, self.network, inputs, dropout, batch))
            elif isinstance(recording, Tensor):
                output = recording
            elif start == 0:
                output = recording.output
            else:
                dropout.seed(batch)
                with dropout.seeded():
                    output = recording.replay()
            if start == 0:
                self._warn_inactive(dropout)
            yield output[: self.samples - start]

    def _warn_inactive(self, dropout: ForcedDropout) -> None:
        dropout.watched = False
        if names := undetected(self.network, dropout.active | set(dropout.forced)):
            warnings.warn(
                f"the dropout inside {', '.join(names[:3])} of {type(self.network).__name__} stays inactive, because "
                "only training mode activates it: put nn.Dropout in its place",
                stacklevel=3,
            )

    def plan(self, *inputs: Tensor) -> str:
        """How draws are made: how much of the network each one repeats, or why all of it. It runs the network once."""
        _, recording = self._first(inputs, [0] * self.samples)
        if isinstance(recording, str):
            return f"plain loop: {recording}"
        if isinstance(recording, Tensor):
            return f"together: one pass makes all draws, {self.samples}"
        return f"replayed: {len(recording.steps)} of {recording.operations} operations repeat for each draw"

    def _first(self, inputs: Inputs, seeds: list[int]) -> tuple[ForcedDropout, Recording | Tensor | str]:
        """The first draws, recorded; or all draws, if one pass makes them; or the reason why nothing can be shared."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.network.modules()):
            raise ConfigError(
                f"{type(self.network).__name__} is TorchScript, whose dropouts cannot be activated from outside: give "
                "MCDropout the Python module that it was made from"
            )
        forced = dropout_modules(self.network, False)
        forced += dropout_modules(self.network, True) if self.stochastic_depth else []
        return self._activating(forced, partial(self._recorded, inputs, seeds, forced))

    def _activating(self, forced: list[nn.Module], work: Callable[[], T]) -> T:
        """The result of ``work``. When it finds an inactive module, all of that type are activated and it restarts."""
        while True:
            try:
                return work()
            except DropoutInactive as inactive:
                alike = (module for module in self.network.modules() if type(module) is inactive.args[0])
                forced += [module for module in alike if may_drop(module, True)]

    def _recorded(
        self, inputs: Inputs, seeds: list[int], forced: list[nn.Module]
    ) -> tuple[ForcedDropout, Recording | Tensor | str]:
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        devices = {leaf.device for leaf in [*self.network.parameters(), *self.network.buffers(), *leaves]}
        wanted, reason = self._count(leaves, devices), ""
        if wanted == self.samples > 1 and self.chunk is None and self._as_batch is not False:
            dropout = ForcedDropout(wanted, forced, devices)
            if (together := self._drawn_as_batch(inputs, seeds, dropout)) is not None:
                return dropout, together
        for count in sorted({wanted, 1}, reverse=True):
            dropout = ForcedDropout(count, forced, devices)
            run = partial(_forward, self.network, inputs, dropout, seeds[:count])
            # Without a recording, random numbers of the network itself are only noticed on these devices.
            whole = count == self.samples and all(device.type in ("cpu", "cuda") for device in devices)
            try:
                made = run() if whole else record(run)
            except NotRecordable as found:
                reason = str(found)
            except (ConfigError, DropoutInactive):
                raise
            except Exception:
                if count == 1:  # otherwise it came from vmap, which cannot run everything, or memory was short
                    raise
            else:
                alike = dropout.global_random if isinstance(made, Tensor) else made.global_random
                if count == 1 or not (alike or _holds_draws(self.network)):  # the numbers would not differ by draw
                    self._together_failed |= count < wanted
                    return dropout, made
        self._together_failed |= wanted > 1
        return ForcedDropout(1, forced, devices), reason

    def _drawn_as_batch(self, inputs: Inputs, seeds: list[int], dropout: ForcedDropout) -> Tensor | None:
        """All draws as the rows of a batch; None if they would be others than one by one, or memory is short."""
        dropout.as_batch = True
        try:
            drawn = _forward(self.network, inputs, dropout, seeds)
            if self._as_batch is None:  # random numbers of the network itself would not differ by draw
                self._as_batch = not dropout.global_random and _alike(drawn, *self._one_by_one(inputs, seeds, dropout))
        except (ConfigError, DropoutInactive):
            raise
        except Exception:  # a network may fail in any way with more images
            self._as_batch = False
            return None
        return drawn if self._as_batch and not dropout.global_random else None

    def _one_by_one(self, inputs: Inputs, seeds: list[int], like: ForcedDropout) -> tuple[Tensor, Tensor]:
        """The first and the last draw, each in a pass of its own.

        Raises:
            NotRecordable: If the network decides by the value of a random number, so that rows could differ in what
                they go through.
        """
        dropout = ForcedDropout(1, like.forced, like.devices)
        recording = record(partial(_forward, self.network, inputs, dropout, seeds[:1]))
        first = recording.output[0].clone()
        dropout.seed(seeds[-1:])
        with dropout.seeded():
            return first, recording.replay()[0]

    def _count(self, leaves: list[Tensor], devices: set[torch.device]) -> int:
        """The number of draws to compute together."""
        if self.chunk is not None:
            return min(self.chunk, self.samples)
        if self._together_failed or any(module._forward_hooks for module in self.network.modules()):
            return 1
        pixels = max((leaf.numel() // max(leaf.shape[1], 1) for leaf in leaves if leaf.ndim > 1), default=1)
        return self.samples if self.samples * pixels <= min(map(_most_pixels, devices), default=0) else 1


def _alike(drawn: Tensor, first: Tensor, last: Tensor) -> bool:
    """Whether the first and the last draw are those of passes of their own, but for rounding."""
    if drawn[0].shape != first.shape:
        return False
    distance = max(float((drawn[0] - first).abs().mean()), float((drawn[-1] - last).abs().mean()))
    return distance <= max(0.1 * float((first - last).abs().mean()), 1e-5 * float(first.abs().mean()))


def _holds_draws(network: nn.Module) -> bool:
    """Whether a module has kept a tensor of ``torch.vmap``, which nothing can read or copy afterwards."""
    values = (value for module in network.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return any(map(is_batchedtensor, values))


def _most_pixels(device: torch.device) -> int:
    """The number of pixels, of all draws, up to which they are computed together."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // BYTES_PER_PIXEL
    return CPU_PIXELS if device.type == "cpu" else 0


def _forward(network: nn.Module, inputs: Inputs, dropout: ForcedDropout, seeds: list[int]) -> Tensor:
    """One pass (count, B, C, *event) with active dropout. Inputs are copied, for the network may write into them."""
    copies = len(seeds) if dropout.as_batch else 1
    compiled = "torch._dynamo" in sys.modules  # only then can the network be compiled; compiled code hides its dropouts
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    dropout.seed(seeds)
    with evaluating(network), eager, dropout.seeded(), dropout:
        for module in dropout.forced:
            module.training = True
        inputs = tree_map(
            lambda leaf: leaf.repeat(copies, *(1,) * (leaf.ndim - 1)) if isinstance(leaf, Tensor) else leaf, inputs
        )

        def draw(index: Tensor | None) -> Tensor:
            dropout.index = index
            return tensor(network(*inputs))

        if len(seeds) == 1 or dropout.as_batch:
            output = draw(None)
            output = output.unflatten(0, (copies, output.shape[0] // copies))
        else:
            device = next((leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # one operator runs draw by draw
                output = torch.vmap(draw, randomness="same")(torch.arange(len(seeds), device=device))
    if not dropout.found and not any(map(only_drops, dropout.forced)):
        raise ConfigError(_without_dropout(network))
    return output


def _without_dropout(network: nn.Module) -> str:
    depth = len(dropout_modules(network, True))
    return f"{own_name(network)} has no dropout with p > 0, so all its draws would be equal: " + (
        f"MCDropout(…, stochastic_depth=True) activates its {depth} modules of stochastic depth"
        if depth
        else "add nn.Dropout2d and train with it, add it with inject_dropout, or use DeepEnsemble (on the command line "
        "--method ensemble or deterministic)"
    )


def build(networks: Networks, samples: int, state: State = NO_STATE) -> MCDropout:
    """Monte Carlo dropout over the only network."""
    return MCDropout(only(networks), samples)


TRAINING = MethodTraining(build)
