"""What all tasks share: where the target is in a sample, and what a likelihood has to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.targets import EntryKind

Entries = Mapping[str, "Tensor | str"]


class BaseTask:
    """One target, the sample entry ``key``. Its mask is the entry ``key + "_valid"``.

    A subclass is a frozen dataclass. It says what kind of entry the target is (``target``), whether predictions are of
    classes or of values (``kind``), and which likelihood is used if the user names none. ``inputs`` are the entries
    that the network takes for it, empty for those that the data set declares.
    """

    key: ClassVar[str]
    kind: ClassVar[str]
    target: ClassVar[EntryKind]
    default_likelihood: ClassVar[str]
    default_network: ClassVar[str] = ""  # empty for that of all tasks, which takes one image
    dims: ClassVar[int] = 1  # values of a pixel; 0 for a class
    inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def parts(self) -> dict[str, Self]:
        """The tasks that are predicted together, by key: this one alone."""
        return {self.key: self}

    def target_and_mask(self, sample: Entries) -> tuple[Tensor, Tensor]:
        """Target and mask of a sample or of a batch of samples."""
        target, valid = sample[self.key], sample[self.key + "_valid"]
        assert isinstance(target, Tensor)
        assert isinstance(valid, Tensor)
        return target, valid

    def entries(self, sample: Entries) -> dict[str, Tensor]:
        """Target and mask of one sample by their keys. A sample without the target gets zeros that are nowhere valid.

        Raises:
            DataError: If the sample has neither the target nor a map whose size the target could have.
        """
        valid = self.key + "_valid"
        if self.key in sample:
            target, mask = self.target_and_mask(sample)
            return {self.key: target, valid: mask}
        size = _map_size(sample) if self.target.is_map else ()
        shape, kind = ((self.dims, *size), torch.float32) if self.dims else (size, torch.int64)
        return {self.key: torch.zeros(shape, dtype=kind), valid: torch.zeros(size, dtype=torch.bool)}


def _map_size(sample: Entries) -> tuple[int, ...]:
    for value in sample.values():
        if isinstance(value, Tensor) and value.ndim >= 3:
            return tuple(value.shape[-2:])
    raise DataError(f"sample {sample.get('name', '')!r} holds no image: expected an entry of shape (channels, H, W)")
