"""Networks that return more than one tensor, or a small one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate


class Output(nn.Module):
    """One tensor of what a network returns, at the size of its first input.

    Args:
        network: returns a tuple, a dict or a dataclass (or a tensor, with no key), such as torchvision's and
            transformers' segmentation networks do.
        key: the position in a tuple, or the name in a dict or dataclass; None where it returns one tensor.

    Takes what ``network`` takes and returns (B, C, H, W), interpolated bilinearly where the network's output is smaller
    than its first input, as logits of a quarter of the size are.

    Raises:
        ValueError: when called, if there is no such entry, or it is not a tensor.

    >>> import torch
    >>> pair = nn.Identity()
    >>> pair.forward = lambda image: {"out": image[..., ::2, ::2], "aux": None}
    >>> Output(pair, "out")(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, network: nn.Module, key: int | str | None = None) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, *inputs: Any) -> Tensor:
        """The output (B, C, H, W)."""
        found = _entry(self.network(*inputs), self.key)
        if not isinstance(found, Tensor):
            raise ValueError(f"entry {self.key!r} of the network's output is a {type(found).__name__}, not a tensor")
        size = inputs[0].shape[-2:]
        if found.shape[-2:] == size:
            return found
        return interpolate(found, size, mode="bilinear", align_corners=False)


def _entry(output: Any, key: int | str | None) -> Any:
    if key is None:
        return output
    try:
        return output[key]  # transformers' outputs can be asked like this too
    except (KeyError, IndexError, TypeError):
        if isinstance(key, str) and hasattr(output, key):
            return getattr(output, key)
    raise ValueError(f"the network's output has no entry {key!r}: it is {_described(output)}")


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"one tensor {tuple(output.shape)}: leave the key out"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}: expected a position from 0 to {len(output) - 1}"
    names = output.keys() if hasattr(output, "keys") else vars(output)
    return f"a {type(output).__name__} with {', '.join(map(repr, names))}"
