"""A run as one file that other programs run: the export, which needs torch, and its reader, which does not."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.serving.bundle import Bundle
    from sfumato.serving.graph import Graph, export
    from sfumato.serving.precision import PRECISIONS, cost, shrink

_HOME = {"Bundle": "bundle", "Graph": "graph", "export": "graph"}
_HOME |= dict.fromkeys(("PRECISIONS", "cost", "shrink"), "precision")

__all__ = ["PRECISIONS", "Bundle", "Graph", "cost", "export", "shrink"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for, so that reading a bundle never loads torch.
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato.serving' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.serving.{_HOME[name]}"), name)
