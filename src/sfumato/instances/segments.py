"""The segments of an image, and how those of a prediction overlap those of the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import ConfigError


@dataclass(frozen=True)
class Segments:
    """The segments of one image: each instance, and one segment for each class of the pixels without an instance.

    Args:
        at: Segment of each pixel (P,), int64; 0 for none.
        classes: Class of each segment (N + 1,), int64; −1 for segment 0.
        single: Whether it is one instance of a thing (N + 1,), bool.
        crowd: Whether it is the pixels of a thing's class that belong to no single instance (N + 1,), bool.
    """

    at: Tensor
    classes: Tensor
    single: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, label: Tensor, ids: Tensor, valid: Tensor, classes: int, things: Sequence[int]) -> Segments:
        """The segments of one image.

        The class of an instance is its most frequent one. An instance of a class that is no thing is part of that
        class. The pixels of a thing's class without an instance are a crowd.

        Args:
            label: Class of each pixel (P,) in [0, ``classes``).
            ids: Instance of each pixel (P,), 0 for none.
            valid: (P,) bool. Other pixels belong to no segment.
            classes: Number of classes.
            things: Ids of the classes that have instances.
        """
        is_thing = torch.zeros(classes, dtype=torch.bool, device=label.device)
        is_thing[list(things)] = True
        label, ids = label.where(valid, 0), ids.where(valid, 0)
        present, owner = torch.cat([ids.new_zeros(1), ids]).unique(return_inverse=True)
        owner = owner[1:]  # 0 for no instance, because the 0 in front is the first of the sorted ids
        votes = torch.bincount(owner * classes + label, minlength=len(present) * classes).view(-1, classes)
        kind = votes.argmax(1)
        single = is_thing[kind]
        single[0] = False
        of_class = len(present) + kind[owner].where(owner > 0, label)
        at = owner.where(single[owner], of_class).where(valid, 0)
        kind[0] = -1
        every = torch.arange(classes, device=label.device)
        no_class, no_instance = torch.zeros_like(is_thing), torch.zeros_like(single)
        return cls(at, torch.cat([kind, every]), torch.cat([single, no_class]), torch.cat([no_instance, is_thing]))


def overlaps(a: Segments, b: Segments) -> Tensor:
    """Number of pixels (N_a + 1, N_b + 1), int64, that each segment of one shares with each of the other."""
    rows, columns = len(a.classes), len(b.classes)
    return torch.bincount(a.at * columns + b.at, minlength=rows * columns).view(rows, columns)


def check_things(things: Sequence[int], classes: int) -> tuple[int, ...]:
    """The ids of the classes with instances, sorted, each once.

    Raises:
        ConfigError: If one of them is not in [0, ``classes``).
    """
    if not all(0 <= thing < classes for thing in things):
        raise ConfigError(f"things are {list(things)}, expected ids of {classes} classes, 0 to {classes - 1}")
    return tuple(sorted(set(things)))
