"""Dropout for networks that were built without."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class InjectedDropout:
    """Dropout that was put behind some modules of a network.

    Args:
        modules: their names.
        handles: what holds it there.
    """

    modules: tuple[str, ...]
    handles: tuple[RemovableHandle, ...]

    def remove(self) -> None:
        """Take it away again: the network is as it was."""
        for handle in self.handles:
            handle.remove()


def inject_dropout(
    network: nn.Module, p: float = 0.1, where: str | type | tuple[type, ...] = nn.Conv2d
) -> InjectedDropout:
    r"""Put dropout behind modules of a network that has none, or too little, in place.

    Whole feature maps (B, C, H, W) are dropped as by ``nn.Dropout2d``, single features of other outputs. It follows the
    module's mode: on while training, off in evaluation, forced_dropout under :class:`MCDropout`.

    Args:
        network: its code stays as it is.
        p: probability in (0, 1) that a feature is dropped.
        where: a regular expression that matches the whole names of modules, as in ``r"decoder\.\d+"``, or types of
            modules.

    Returns:
        What was done, to undo it with ``remove()``.

    Raises:
        ValueError: if ``p`` is not in (0, 1), or no module is meant; when called, if one of them returns no tensor.

    Source: Gal and Ghahramani (2016). Pitfall: a network that was not trained with this dropout loses accuracy by it,
    and its spread means little: fine-tune it, or keep ``p`` small and look at the calibration. A type also means the
    last layer, whose outputs are better not dropped: name modules by a pattern, then.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> inject_dropout(net, 0.2, r"1").modules
    ('1',)
    """
    if not 0 < p < 1:
        raise ValueError(f"p is {p}, expected the probability that a feature is dropped, in (0, 1)")
    named = chosen(network, where)

    handles = tuple(module.register_forward_hook(partial(_drop, name, p)) for name, module in named)
    return InjectedDropout(tuple(name for name, _ in named), handles)


def chosen(network: nn.Module, where: str | type | tuple[type, ...]) -> list[tuple[str, nn.Module]]:
    """The modules that a regular expression on whole names, or types, mean.

    Raises:
        ValueError: if there is none.
    """
    named = [(name, module) for name, module in network.named_modules() if name]
    if isinstance(where, str):
        found = [(name, module) for name, module in named if re.fullmatch(where, name)]
    else:
        found = [(name, module) for name, module in named if isinstance(module, where)]
    if not found:
        names = ", ".join(name for name, _ in named[:12]) + (", …" if len(named) > 12 else "")
        raise ValueError(f"no module of {type(network).__name__} is meant by {where!r}: its modules are {names}")
    return found


def _drop(name: str, p: float, module: nn.Module, inputs: Any, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"module {name} returns a {type(output).__name__}, and dropout goes behind modules that return a tensor: "
            "take it away with remove(), and name one inside"
        )
    dropping = F.dropout2d if output.ndim == 4 else F.dropout
    return dropping(output, p, module.training)
