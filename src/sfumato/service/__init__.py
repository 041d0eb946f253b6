"""A run or an exported file as an HTTP service with a page. Needs ``sfumato[serve]``."""

from importlib import import_module
from typing import TYPE_CHECKING

from sfumato.errors import MissingDependencyError

if TYPE_CHECKING:
    from sfumato.service.app import application
    from sfumato.service.limits import Limits
    from sfumato.service.model import Model
    from sfumato.service.server import listening, run, server_of

_MODULES = {
    "application": "app",
    "Limits": "limits",
    "Model": "model",
    "listening": "server",
    "run": "server",
    "server_of": "server",
}

__all__ = ["Limits", "Model", "application", "listening", "run", "server_of"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'sfumato.service' has no attribute {name!r}")
    try:
        return getattr(import_module(f"sfumato.service.{_MODULES[name]}"), name)
    except ImportError as error:
        if (error.name or "").startswith("sfumato"):
            raise
        raise MissingDependencyError(f"the service needs {error.name}: pip install 'sfumato[serve]'") from error
