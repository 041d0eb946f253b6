"""Networks that return more than one tensor, or a small one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves


class Output(nn.Module):
    """One tensor of what a network returns, at the size of its first image.

    Args:
        network: returns a tuple, a dict or a dataclass (or a tensor, with no key), such as torchvision's and
            transformers' segmentation networks do.
        key: the position in a tuple, or the name in a dict or dataclass; None where it returns one tensor.

    Takes what ``network`` takes (several inputs, or a dict of them) and returns (B, C, H, W), interpolated bilinearly
    where the network's output is smaller than its first image, as logits of a quarter of the size are.

    Raises:
        ValueError: when called, if there is no such entry, it is not a tensor (B, C, H, W), or no input is an image.

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
        return _tensor(self.network(*inputs), self.key, _size(inputs))


class Heads(nn.Module):
    """All heads of a network as one tensor, and the homoscedastic_tasks that a :class:`sfumato.Joint` likelihood learns with it.

    Args:
        network: returns a dict of tensors (B, C, H, W) by task, of any size; or one tensor, all heads side by side.
        heads: names of the tasks, in the order of the likelihood's ``heads``; of a dict, other entries are left out.
        homoscedastic_tasks: names of the tasks that get a channel whose one value is learned, the likelihood's ``homoscedastic_tasks``.
        start: that value at first.

    Takes what ``network`` takes and returns (B, C, H, W), as :class:`Output` does. ``log_variances[name]`` is the
    parameter s of a task.

    Raises:
        ValueError: when called, if an entry is missing, or is no tensor.

    Pitfall: s is a weight of the network like any other: it is what training moves, so leave weight decay off it.

    >>> import torch
    >>> pair = nn.Identity()
    >>> pair.forward = lambda image: {"classes": image[:, :2], "depth": image[:, 2:]}
    >>> Heads(pair, ("classes", "depth"), ("classes",))(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 4, 8, 8])
    """

    def __init__(
        self, network: nn.Module, heads: Iterable[str], homoscedastic_tasks: Iterable[str] = (), start: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self.heads, self.homoscedastic_tasks = network, tuple(heads), tuple(homoscedastic_tasks)
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(start)) for name in self.homoscedastic_tasks}
        )

    def forward(self, *inputs: Any) -> Tensor:
        """The output (B, C, H, W)."""
        found, size = self.network(*inputs), _size(inputs)
        keys = (None,) if isinstance(found, Tensor) else self.heads
        channels = [_tensor(found, key, size) for key in keys]
        like = channels[0][:, :1]
        learned = (self.log_variances[name].to(like.dtype).expand_as(like) for name in self.homoscedastic_tasks)
        return torch.cat([*channels, *learned], 1)


def _tensor(output: Any, key: int | str | None, size: Any) -> Tensor:
    """An entry of the output at this size."""
    found = _entry(output, key)
    if not isinstance(found, Tensor):
        raise ValueError(f"entry {key!r} of the network's output is a {type(found).__name__}, not a tensor")
    if found.ndim != 4:
        raise ValueError(
            f"entry {key!r} of the network's output has shape {tuple(found.shape)}, expected (B, C, H, W): "
            "wrap the network in a module whose forward makes such a tensor of it"
        )
    if found.shape[-2:] == size:
        return found
    return interpolate(found, size, mode="bilinear", align_corners=False)


def _size(inputs: tuple[Any, ...]) -> Any:
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.ndim == 4:
            return leaf.shape[-2:]
    raise ValueError(f"none of {len(inputs)} inputs is an image (B, C, H, W), whose size the output is to have")


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
