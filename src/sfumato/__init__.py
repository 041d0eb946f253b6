"""Uncertainty in dense prediction: how sure a network is about each pixel, and why it is not.

A **method** draws outputs of a network. A **likelihood** says what an output means. The draws are aggregated into a
**prediction**, whose uncertainty has an aleatoric and an epistemic part. Everything after that works on predictions.

Public names are those in ``__all__`` of the packages below; each package declares its own.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.api import *
    from sfumato.boxes import *
    from sfumato.instances import *
    from sfumato.likelihoods import *
    from sfumato.methods import *
    from sfumato.metrics import *
    from sfumato.predictions import *

__version__ = "0.1.0"

# In the order in which a name is looked up. The last two import much, so that others are not slowed down by them.
PACKAGES = ("predictions", "likelihoods", "methods", "instances", "boxes", "metrics", "api")


def __getattr__(name: str) -> object:
    # Looked up when asked for: importing this package alone loads nothing, not even torch.
    if find_spec(f"sfumato.{name}") is not None:  # as `from sfumato import storage` asks first
        return import_module(f"sfumato.{name}")
    if not name.startswith("_"):
        for package in PACKAGES:
            module = import_module(f"sfumato.{package}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({name for package in PACKAGES for name in import_module(f"sfumato.{package}").__all__})
