"""Networks that return more than one tensor, or a smaller one than their input."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

from sfumato.errors import ConfigError

Key = int | str | None


def own_name(network: nn.Module) -> str:
    """The name of the class of a network, without the modules around it that prepare inputs and select outputs."""
    while isinstance(inner := getattr(network, "network", None), nn.Module):
        network = inner
    return type(network).__name__


class Output(nn.Module):
    """One tensor of what a network returns, at the size of its first image.

    It takes what ``network`` takes (several inputs, or a dict of them) and returns (B, C, H, W). An output that is
    smaller than the first image, such as logits at a quarter of the size, is interpolated bilinearly. An output (B, C),
    with one value for each image, is returned as it is.

    Args:
        network: A module that returns a tuple, a dict, a dataclass or a tensor, such as torchvision's and transformers'
            segmentation networks.
        key: The position in a tuple, or the name in a dict or dataclass; None if it returns one tensor. Default None.

    Raises:
        ConfigError: When called, if there is no such entry, it is not a tensor (B, C, H, W) or (B, C), or no input is
            an image.

    >>> pair = nn.Identity()
    >>> pair.forward = lambda image: {"out": image[..., ::2, ::2], "aux": None}
    >>> Output(pair, "out")(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, network: nn.Module, key: Key = None) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output (B, C, H, W) or (B, C)."""
        return output_map(self.network(*inputs), self.key, inputs)


class Heads(nn.Module):
    """All heads of a network as one tensor, and the log-variances that a :class:`sfumato.Joint` likelihood learns.

    It takes what ``network`` takes and returns (B, C, H, W), as :class:`Output` does. ``log_variances[name]`` is the
    log-variance s of a task.

    Args:
        network: A module that returns a dict of tensors (B, C, H, W) by task, of any size, or one tensor with all heads
            side by side.
        heads: The names of the tasks, in the order of the likelihood's ``heads``. Other entries of a dict are ignored.
        homoscedastic_tasks: The names of the tasks that get a further channel with one learned value, their
            log-variance. Default: none.
        start: The value of the log-variances at the start. Default 0.

    Raises:
        ConfigError: When called, if an entry is missing, or is not a tensor.

    Pitfall: A log-variance is a parameter like any other. Exclude it from weight decay.

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

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output (B, C, H, W)."""
        found = self.network(*inputs)
        keys = (None,) if isinstance(found, Tensor) else self.heads
        channels = [output_map(found, key, inputs) for key in keys]
        like = channels[0][:, :1]
        learned = (self.log_variances[name].to(like.dtype).expand_as(like) for name in self.homoscedastic_tasks)
        return torch.cat([*channels, *learned], 1)


def output_map(output: object, key: Key, inputs: tuple[object, ...]) -> Tensor:
    """An entry of what a network returned, as a map (B, C, H, W) at the size of the first image, or as (B, C).

    Raises:
        ConfigError: If there is no such entry, or it is neither of the two.
    """
    found = _entry(output, key)
    if not isinstance(found, Tensor):
        raise ConfigError(f"entry {key!r} of the network's output is a {type(found).__name__}, not a tensor")
    if found.ndim == 2:
        return found
    if found.ndim != 4:
        raise ConfigError(
            f"entry {key!r} of the network's output has shape {tuple(found.shape)}, expected (B, C, H, W) or (B, C): "
            "wrap the network in a module whose forward returns such a tensor"
        )
    size = _size(inputs)
    return found if found.shape[-2:] == size else interpolate(found, size, mode="bilinear", align_corners=False)


def _size(inputs: tuple[object, ...]) -> torch.Size:
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.ndim == 4:
            return leaf.shape[-2:]
    raise ConfigError(f"none of {len(inputs)} inputs is an image (B, C, H, W), whose size the output must have")


def _entry(output: object, key: Key) -> object:
    if key is None:
        return output
    try:
        return output[key]  # pyright: ignore[reportIndexIssue]  # transformers' outputs can be indexed too
    except (KeyError, IndexError, TypeError):
        if isinstance(key, str) and hasattr(output, key):
            return getattr(output, key)
    raise ConfigError(f"the network's output has no entry {key!r}: it is {_described(output)}")


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"one tensor {tuple(output.shape)}: omit the key"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}: expected a position from 0 to {len(output) - 1}"
    names = output if isinstance(output, dict) else vars(output)
    return f"a {type(output).__name__} with {', '.join(map(repr, names))}"
