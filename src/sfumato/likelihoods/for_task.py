"""What a likelihood has to know about the target of a task."""

from __future__ import annotations

from typing import Protocol


class ClassTarget(Protocol):
    """A task whose target is a class."""

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        ...


class ValueTarget(Protocol):
    """A task whose target is a value or a vector."""

    @property
    def dims(self) -> int:
        """D, values per pixel or image."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the values."""
        ...

    @property
    def link(self) -> str:
        """``identity``, ``log`` or ``inverse``."""
        ...

    @property
    def lower(self) -> float | None:
        """The smallest value, where the link needs a range."""
        ...

    @property
    def upper(self) -> float | None:
        """The largest value, where the link needs a range."""
        ...
