"""Several tasks that one network learns together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.contracts import Task


@dataclass(frozen=True)
class MultiTask:
    """Tasks that are learned together. Each has its own scores, calibrator and colors.

    Args:
        parts: Each task by its key.
    """

    parts: Mapping[str, Task]
    kind: ClassVar[str] = "multi-task"

    def target_and_mask(self, sample: Mapping[str, Tensor | str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Targets and masks of a sample or of a batch, by task."""
        found = {name: task.target_and_mask(sample) for name, task in self.parts.items()}
        return {name: pair[0] for name, pair in found.items()}, {name: pair[1] for name, pair in found.items()}

    def entries(self, sample: Mapping[str, Tensor | str]) -> dict[str, Tensor]:
        """Targets and masks of one sample by their keys. A task that the sample does not hold is nowhere valid."""
        return {key: value for task in self.parts.values() for key, value in task.entries(sample).items()}
