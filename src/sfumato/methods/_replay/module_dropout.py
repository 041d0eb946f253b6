"""Modules whose own training mode decides whether they drop, so that no call of a dropout function shows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache

from torch import nn


class DropoutInactive(Exception):  # noqa: N818  (it is not an error: the caller activates the module and runs again)
    """A module that would drop in training mode. ``args`` holds its type."""


def dropout_modules(network: nn.Module, stochastic_depth: bool) -> list[nn.Module]:
    """Modules that only drop and that are not torch's own: dropout written by hand, or stochastic depth.

    They have no parameters, buffers or children, and hold a probability as ``p`` or ``drop_prob``. So training mode
    changes nothing else in them. Those with "path" or "depth" in their type's name are stochastic depth.
    """
    return [
        module
        for module in network.modules()
        if only_drops(module) and bool(re.search("path|depth", type(module).__name__, re.I)) == stochastic_depth
    ]


def only_drops(module: nn.Module) -> bool:
    """Whether dropping is all that the training mode of this module decides."""
    if type(module).__module__.startswith("torch.nn.") or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    held = (getattr(module, name, None) for name in ("p", "drop_prob"))
    return any(isinstance(p, int | float) and not isinstance(p, bool) and 0 < p <= 1 for p in held)


def may_drop(module: nn.Module, layers: bool) -> bool:
    """Whether it holds a probability above 0 under a name with "drop" in it or, if ``layers``, as a dropout layer."""
    if any("drop" in name and isinstance(value, float) and 0 < value <= 1 for name, value in vars(module).items()):
        return True
    return layers and any(isinstance(c, nn.modules.dropout._DropoutNd) and c.p > 0 for c in module.children())


def calling_modules() -> Iterator[nn.Module]:
    """The modules whose methods are running, the innermost first.

    They are found on Python's stack. Hooks would find them too, but hooks do not know which thread called them.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            yield module
        frame = frame.f_back


def require_active_dropout(layers: bool) -> None:
    """Check a function that was called with probability 0: is the module that calls it not in training mode?

    Networks write ``dropout_p=self.p if self.training else 0.0``, and the function only receives the 0.

    Raises:
        DropoutInactive: If that module holds a probability to drop with.
    """
    module = next(calling_modules(), None)
    if module is not None and not module.training and may_drop(module, layers):
        raise DropoutInactive(type(module))


def undetected(network: nn.Module, active: set[nn.Module]) -> list[str]:
    """The names of modules that can drop, but in which no dropout was active.

    They hold a dropout probability, or their ``forward`` reads ``self.training`` and draws numbers that a mask may be
    made of.

    Args:
        network: The network that was run.
        active: The modules in which a dropout was found, including all modules around it.

    Stochastic depth does not count: it is active only on request.
    """
    return [
        name
        for name, module in network.named_modules()
        if module not in active
        and not only_drops(module)
        and (_holds_dropout(module) or _masks_in_training(type(module)))
    ]


def _holds_dropout(module: nn.Module) -> bool:
    return any(
        "drop" in name and not re.search("path|depth", name, re.I) and isinstance(value, float) and 0 < value <= 1
        for name, value in vars(module).items()
    )


MASKS = {"bernoulli", "bernoulli_", "rand", "rand_like", "dropout", "dropout1d", "dropout2d", "dropout3d", "uniform_"}


@cache
def _masks_in_training(of: type[nn.Module]) -> bool:
    kinds = (kind for kind in of.__mro__ if not kind.__module__.startswith("torch."))
    codes = (getattr(vars(kind).get("forward"), "__code__", None) for kind in kinds)
    names = {name for code in codes if code is not None for name in code.co_names}
    depth = re.search("path|depth", of.__name__, re.I)
    return not depth and "training" in names and bool(names & MASKS)
