"""Several questions about each pixel, asked of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.contracts import Task


@dataclass(frozen=True)
class MultiTask:
    """Tasks that are learned together.

    Args:
        parts: each task by its key.
    """

    parts: Mapping[str, Task]
    calibrators: ClassVar[tuple[str, ...]] = ()  # each task has its own
    students: ClassVar[tuple[str, ...]] = ()
    conformal: ClassVar[None] = None

    def target_and_mask(self, sample: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Targets and masks of a sample or a batch, by task."""
        found = {name: task.target_and_mask(sample) for name, task in self.parts.items()}
        return {name: pair[0] for name, pair in found.items()}, {name: pair[1] for name, pair in found.items()}

    def entries(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Targets and masks of one sample by their keys; a task that it does not hold is nowhere valid."""
        return {key: value for task in self.parts.values() for key, value in task.entries(sample).items()}
