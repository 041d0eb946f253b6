"""A run as one file that other programs run: the export, which needs torch, and its reader, which does not."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.serving.bundle import Bundle
    from sfumato.serving.graph import Graph, export

__all__ = ["Bundle", "Graph", "export"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for, so that reading a bundle never loads torch.
    if name == "Bundle":
        from sfumato.serving.bundle import Bundle

        return Bundle
    if name in __all__:
        from sfumato.serving import graph

        return getattr(graph, name)
    raise AttributeError(f"module 'sfumato.serving' has no attribute {name!r}")
