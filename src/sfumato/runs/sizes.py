"""The one rule between the original size of an image and the size at which a network sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.predictions import JointPrediction, TaskPrediction, ValuePrediction
from sfumato.targets import ENTRIES, Image, Size, kind_of, scaled_size

P = TypeVar("P")


@dataclass(frozen=True)
class Scaling:
    """The sizes of one sample.

    Args:
        original: Height and width of its maps, pixels.
        seen: Height and width at which the network sees them, pixels.
    """

    original: Size
    seen: Size

    @classmethod
    def of(cls, names: Sequence[str], inputs: Sequence[Tensor], factors: tuple[float, float]) -> Scaling:
        """The sizes of inputs.

        Args:
            names: The names of the inputs, in order.
            inputs: Tensors (B, …).
            factors: The size that the network sees, divided by the original size: for heights and for widths.

        Raises:
            DataError: If inputs are missing or differ in size.
        """
        if len(inputs) != len(names):
            raise DataError(f"{len(inputs)} inputs, expected {len(names)}: {', '.join(names)}")
        sizes = {name: tuple(value.shape[-2:]) for name, value in zip(names, inputs) if is_map(name)}
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{name} {height} × {width}" for name, (height, width) in sizes.items())
            raise DataError(f"inputs of different sizes: {found}. Expected one size for all inputs of a sample")
        height, width = next(iter(sizes.values()))
        return cls((height, width), scaled_size((height, width), factors))

    def inputs(self, names: Sequence[str], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs as the network sees them."""
        if self.original == self.seen:
            return tuple(inputs)
        kinds = [kind_of(name, ENTRIES) or Image() for name in names]
        return tuple(kind.resize(value, self.original, self.seen) for kind, value in zip(kinds, inputs))

    def prediction(self, found: P, tasks: Mapping[str, Task]) -> P:
        """A prediction at the original size. Lengths in pixels grow with it.

        Maps are interpolated. The distribution of an interpolated pixel is that of its neighborhood.

        Args:
            found: A prediction at the size that the network sees.
            tasks: Its tasks by name.
        """
        if self.original == self.seen:
            return found
        if isinstance(found, JointPrediction):
            parts = {name: self.prediction(found[name], {name: tasks[name]}) for name in found}
            return replace(found, parts=parts)
        ((_, task),) = tasks.items()
        return cast(P, self._task_prediction(cast(TaskPrediction, found), task))

    def _task_prediction(self, prediction: TaskPrediction, task: Task) -> TaskPrediction:
        found = prediction.resized(self.original)
        if not isinstance(found, ValuePrediction) or not task.target.is_map:
            return found
        ones = torch.ones(found.mean.shape[1], *self.seen)
        factor = task.target.resize(ones, self.seen, self.original)[:, :1, :1].to(found.mean)
        return replace(
            found,
            mean=found.mean * factor,
            aleatoric_variance=found.aleatoric_variance * factor.square(),
            epistemic_variance=found.epistemic_variance * factor.square(),
        )


def is_map(name: str) -> bool:
    """Whether the input with this name has height and width."""
    kind = kind_of(name, ENTRIES)
    return kind is None or kind.is_map
