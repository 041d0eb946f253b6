"""One network, taken at its word; and how a method borrows a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, without gradients; afterwards every module's mode is what it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def tensor(output: Any) -> Tensor:
    """``output`` itself.

    Raises:
        ValueError: if it is not a tensor, which every likelihood reads.
    """
    if isinstance(output, Tensor):
        return output
    held = f" with {', '.join(map(repr, output))}" if isinstance(output, dict) else ""
    raise ValueError(
        f"the network returned a {type(output).__name__}{held}, expected one tensor (B, C, H, W): wrap it in a "
        "module whose forward picks the tensor, such as `return self.network(image)['out']`"
    )


def called(network: nn.Module, weights: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
    """What the network would return in evaluation mode with these of its weights replaced; it keeps its own."""
    own = dict(network.named_parameters())
    with evaluating(network):
        return tensor(functional_call(network, {name: w.to(own[name]) for name, w in weights.items()}, inputs))


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normals as ``like`` is, drawn where the generator is, so that a seed means the same on every device."""
    device = "cpu" if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=device).to(like)


@dataclass(frozen=True)
class Deterministic:
    """The network as it is: one draw, and so no epistemic part.

    Args:
        network: any module that returns one tensor (B, C, H, W).
    """

    network: nn.Module

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """One output (1, B, C, H, W) in evaluation mode; ``generator`` is not used.

        Raises:
            ValueError: if the network does not return a tensor.
        """
        with evaluating(self.network):
            output = tensor(self.network(*inputs))
        yield output[None]
