"""What all methods share: the base class, and how a method runs a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.contracts import Inputs
from sfumato.errors import ConfigError


class BaseMethod(nn.Module):
    """A distribution over networks, from which outputs are drawn.

    Networks are submodules and fitted tensors are buffers. So ``to``, ``state_dict``, ``copy.deepcopy`` and pickling
    work as for any module. Draws always run the networks in evaluation mode and without gradients. Afterwards every
    module has the mode that it had before, so ``train()`` and ``eval()`` of a method change no draw.

    Class attributes:
        stochastic: Whether the draws depend on the generator.
        gives_novelty: Whether :meth:`draws_and_novelty` is defined.
    """

    stochastic: bool = False
    gives_novelty: bool = False

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Outputs of plausible networks, in chunks (S_i, B, C, *event).

        Args:
            *inputs: The inputs of the network, each (B, …).
            generator: Source of the random numbers; None for torch's global generator. It may be on the CPU while the
                network is on another device.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no draws")

    def draws_and_novelty(
        self, *inputs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Iterator[Tensor], Tensor]:
        """The draws, and how unusual each pixel or image is (B, *event), from one pass of the network.

        The novelty is at least 0, and larger for what is less like the training data. Its scale depends on the network.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no novelty")

    def extra_repr(self) -> str:
        """The types of the networks and the number of samples."""
        networks = [type(network).__name__ for network in self.children() if not isinstance(network, nn.ModuleList)]
        samples = getattr(self, "samples", None)
        return ", ".join(networks[:1] + ([] if samples is None else [f"samples={samples}"]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def require_samples(samples: int) -> None:
    """Check a number of samples.

    Raises:
        ConfigError: If it is less than 1.
    """
    if samples < 1:
        raise ConfigError(f"samples is {samples}, expected at least 1")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run the network in evaluation mode, without gradients. Afterwards every module has the mode it had before."""
    modes = {module: module.training for module in network.modules()}
    if any(modes.values()):  # setting attributes of many modules takes a fifth of a pass on a small image
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            if module.training is not training:
                module.training = training


def tensor(output: object) -> Tensor:
    """The output itself, if it is a tensor.

    Raises:
        ConfigError: If it is something else, which no likelihood reads.
    """
    if isinstance(output, Tensor):
        return output
    held = f" with {', '.join(map(repr, output))}" if isinstance(output, dict) else ""
    raise ConfigError(
        f"the network returned a {type(output).__name__}{held}, expected one tensor (B, C, …): wrap it in a "
        "module whose forward picks the tensor, such as `return self.network(image)['out']`"
    )


def called(network: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
    """The output of the network in evaluation mode with some of its weights replaced. The network keeps its own."""
    own = dict(network.named_parameters())
    with evaluating(network):
        return tensor(functional_call(network, {name: w.to(own[name]) for name, w in weights.items()}, inputs))


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers with the device and type of ``like``.

    They are drawn on the device of the generator, so that a seed gives the same numbers for all devices of ``like``.
    """
    device = "cpu" if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=device).to(like)
