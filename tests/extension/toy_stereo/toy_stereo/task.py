"""The task: the disparity of each pixel of the left image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.targets import Disparity, EntryKind
from sfumato.tasks import ValueTask


@dataclass(frozen=True)
class ToyDisparity(ValueTask):
    """The disparity ``d``: the pixel x of the left image is at ``x − d`` in the right image.

    Args:
        largest: Largest disparity that pictures show, px.
        unit: Unit of disparities.
    """

    largest: float = 4.0
    unit: str = "px"
    key: ClassVar[str] = "toy_disparity"
    target: ClassVar[EntryKind] = Disparity()
    default_likelihood: ClassVar[str] = "student-t"

    @property
    def display_range(self) -> tuple[float, float]:
        """From 0 to the largest disparity."""
        return 0.0, self.largest

    def color(self, values: Tensor) -> Tensor:
        """Disparities (1, H, W) or (H, W) in gray, uint8 (H, W, 3)."""
        gray = (values.reshape(values.shape[-2:]).float() / self.largest).clamp(0, 1) * 255
        return gray.byte()[..., None].expand(*gray.shape, 3).to(torch.uint8)
