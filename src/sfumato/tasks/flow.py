"""Optical flow: how far each point moves between two pictures of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sfumato.tasks.value import VectorTask


@dataclass(frozen=True)
class Flow(VectorTask):
    """Vectors (dx, dy) from a pixel of ``image`` to the place of the same point in ``next``, the later picture.

    The network takes the entries ``image`` and ``next``.

    Args:
        reach: Length of the longest vector that pictures show, > 0, in ``unit``. Default 20.
        unit: Unit of the vectors. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.

    Source: Baker et al. (2011), "A database and evaluation methodology for optical flow".
    """

    key: ClassVar[str] = "flow"
    inputs: ClassVar[tuple[str, ...]] = ("image", "next")
    default_network: ClassVar[str] = "light-flow"
