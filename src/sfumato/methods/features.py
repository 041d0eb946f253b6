"""What one layer of a network reads, looked at in passing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sfumato.methods.deterministic import evaluating, tensor


def read_by(network: nn.Module, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """One pass: the features (B, F, H, W) that ``layer`` reads, what it returns, and what the network returns.

    Raises:
        ValueError: if ``layer`` is not called, or the network does not return a tensor.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, read: tuple[Tensor, ...], returned: Tensor) -> None:
        seen.append((read[0], returned))

    handle = layer.register_forward_hook(look)
    try:
        with evaluating(network):
            output = tensor(network(*inputs))
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f"{type(network).__name__} does not call {layer}: name a layer that it uses, such as its last")
    return *seen[-1], output
