"""Changes of a network in place that can be taken back: which layers they concern, and how they are removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from torch import nn
from torch.utils.hooks import RemovableHandle

from sfumato.errors import ConfigError

Where = str | type[nn.Module] | tuple[type[nn.Module], ...]
"""A regular expression that matches the whole names of modules, or types of modules."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with weights that conversions know. Subclasses may use their weights in another way, so they do not count."""


@dataclass(frozen=True)
class Conversion:
    """What a ``make_…`` or ``inject_…`` function did to a network.

    Args:
        modules: The names of the modules that were changed.
        undo: The functions that take it back.
    """

    modules: tuple[str, ...]
    undo: tuple[Callable[[], None], ...] = field(repr=False)

    def remove(self) -> None:
        """Take the change back, and what it has learned. The network's own weights stay as they are now."""
        for undo in self.undo:
            undo()


def chosen(network: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """The names and modules that a regular expression on whole names, or types, select.

    Raises:
        ConfigError: If there is none.
    """
    named = [(name, module) for name, module in network.named_modules() if name]
    if isinstance(where, str):
        found = [(name, module) for name, module in named if re.fullmatch(where, name)]
    else:
        found = [(name, module) for name, module in named if isinstance(module, where)]
    if not found:
        names = ", ".join(name for name, _ in named[:12]) + (", …" if len(named) > 12 else "")
        raise ConfigError(f"no module of {type(network).__name__} matches {where!r}: its modules are {names}")
    return found


def chosen_one(network: nn.Module, where: str) -> str:
    """The name of the only module that a regular expression on whole names selects.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    found = [name for name, _ in chosen(network, where)]
    if len(found) > 1:
        raise ConfigError(f"{where!r} matches {len(found)} modules, such as {found[0]} and {found[1]}: name one")
    return found[0]


def replace_module(network: nn.Module, name: str, module: nn.Module) -> Conversion:
    """Put another module in the place of the one called ``name``."""
    parent, _, attribute = name.rpartition(".")
    original = network.get_submodule(name)
    owner = network.get_submodule(parent)
    module.training = original.training
    setattr(owner, attribute, module)
    return Conversion((name,), (partial(setattr, owner, attribute, original),))


def add_children(
    network: nn.Module,
    where: Where,
    name: str,
    make: Callable[[nn.Module], nn.Module],
    hooks: Callable[[nn.Module], Iterable[RemovableHandle]],
    kinds: tuple[type[nn.Module], ...] = LAYERS,
) -> Conversion:
    """Give each selected layer of these types a child called ``name``, and hooks that use it.

    Raises:
        ConfigError: If no such layer is selected, or one has such a child already.
    """
    layers = [(path, layer) for path, layer in chosen(network, where) if type(layer) in kinds]
    if not layers:
        known = ", ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"none of the modules of {type(network).__name__} that match {where!r} is a {known}")
    for path, layer in layers:
        if name in layer._modules:
            raise ConfigError(f"{path} has a {type(layer._modules[name]).__name__} already: remove() that first")
    undo: list[Callable[[], None]] = []
    for _, layer in layers:
        layer.add_module(name, make(layer))
        undo += [handle.remove for handle in hooks(layer)]
        undo.append(partial(_remove_child, layer, name))
    return Conversion(tuple(path for path, _ in layers), tuple(undo))


def _remove_child(layer: nn.Module, name: str) -> None:
    layer._modules.pop(name, None)


def input_features(layer: nn.Module) -> int:
    """The number of features that a convolution or linear layer reads."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return layer.in_channels


def disable_dropout(network: nn.Module) -> None:
    """Set the probability of all dropout layers to 0, because the method brings its own noise."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
