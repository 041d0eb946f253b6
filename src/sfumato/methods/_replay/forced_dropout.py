"""Modules that drop by their own mode, of which no call to a dropout tells: attention, dropout of one's own, depth."""

from __future__ import annotations

import re
import sys

from torch import nn


class DropoutInactive(Exception):  # noqa: N818  (a finding, not an error: the caller wakes it and runs again)
    """A module that would have dropped in training mode; ``args`` hold its type."""


def dropout_modules(network: nn.Module, stochastic_depth: bool) -> list[nn.Module]:
    """Modules that do nothing but drop, which torch does not know: hand-made dropout, or stochastic depth.

    They have no parameters, buffers or children, and hold a probability as ``p`` or ``drop_prob``, so waking them
    changes nothing else. Those named after paths or depth are stochastic depth.
    """
    return [
        module
        for module in network.modules()
        if only_drops(module) and bool(re.search("path|depth", type(module).__name__, re.I)) == stochastic_depth
    ]


def only_drops(module: nn.Module) -> bool:
    """Whether dropping is all that its mode decides."""
    if type(module).__module__.startswith("torch.nn.") or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    held = (getattr(module, name, None) for name in ("p", "drop_prob"))
    return any(isinstance(p, int | float) and not isinstance(p, bool) and 0 < p <= 1 for p in held)


def may_drop(module: nn.Module, layers: bool) -> bool:
    """Whether it keeps a probability above 0 under a name with "drop" in it or, if ``layers``, as a dropout layer."""
    if any("drop" in name and isinstance(value, float) and 0 < value <= 1 for name, value in vars(module).items()):
        return True
    return layers and any(isinstance(c, nn.modules.dropout._DropoutNd) and c.p > 0 for c in module.children())


def require_active_dropout(layers: bool) -> None:
    """For a function that was called with probability 0: was it because the module that calls it is not in training?

    Networks write ``dropout_p=self.p if self.training else 0.0``, and of the choice nothing but the 0 arrives. The
    module is the innermost one on Python's stack; hooks would tell too, but not which thread they were called from.

    Raises:
        DropoutInactive: if that module keeps a probability to drop with.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            if not module.training and may_drop(module, layers):
                raise DropoutInactive(type(module))
            return
        frame = frame.f_back
