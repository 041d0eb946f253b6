"""What all tasks share: where their truth lies in a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


class BaseTask:
    """One target of each pixel, under ``key``; its mask under ``key + "_valid"``."""

    key: ClassVar[str]
    dims: ClassVar[int] = 1  # values of a pixel; 0 for a class

    @property
    def parts(self) -> dict[str, Self]:
        """The questions asked, by their keys: this one alone."""
        return {self.key: self}

    def target_and_mask(self, sample: Mapping[str, Any]) -> tuple[Any, Any]:
        """Target and mask of a sample or a batch of them."""
        return sample[self.key], sample[self.key + "_valid"]

    def entries(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Target and mask of one sample by their keys; where it holds none, a target of zeros that is nowhere valid."""
        valid = self.key + "_valid"
        if self.key in sample:
            return {self.key: sample[self.key], valid: sample[valid]}
        size = tuple(sample["image"].shape[-2:])
        blank = torch.zeros(self.dims, *size) if self.dims else torch.zeros(size, dtype=torch.int64)
        return {self.key: blank, valid: torch.zeros(size, dtype=torch.bool)}
