"""Which segments an image consists of, and how those of a prediction overlap those of the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """The segments of one image: its instances, and one for each class of what is no instance.

    Args:
        at: (P,) int64, the segment of each pixel; 0 for none.
        classes: (N + 1,) int64, the class of each segment; −1 for segment 0.
        alone: (N + 1,) bool, whether it is an instance of a thing.
        crowd: (N + 1,) bool, whether it is what a thing has pixels of that nobody took apart.
    """

    at: Tensor
    classes: Tensor
    single: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, label: Tensor, ids: Tensor, valid: Tensor, classes: int, things: Sequence[int]) -> Segments:
        """Segments of labels (P,) in [0, ``classes``) and ids (P,), 0 for no instance, where ``valid`` (P,).

        The class of an instance is its most frequent one. An instance of a class that is no thing is part
        of that class. What is of a thing's class and no instance is a crowd.
        """
        is_thing = torch.zeros(classes, dtype=torch.bool, device=label.device)
        is_thing[list(things)] = True
        label, ids = label.where(valid, 0), ids.where(valid, 0)
        present, owner = torch.cat([ids.new_zeros(1), ids]).unique(return_inverse=True)
        owner = owner[1:]  # 0 for no instance, which the 0 in front made the first of all
        votes = torch.bincount(owner * classes + label, minlength=len(present) * classes).view(-1, classes)
        kind = votes.argmax(1)
        alone = is_thing[kind]
        alone[0] = False
        of_class = len(present) + kind[owner].where(owner > 0, label)
        at = owner.where(alone[owner], of_class).where(valid, 0)
        kind[0] = -1
        every = torch.arange(classes, device=label.device)
        nothing = torch.zeros_like(is_thing)
        return cls(
            at, torch.cat([kind, every]), torch.cat([alone, nothing]), torch.cat([torch.zeros_like(alone), is_thing])
        )


def overlaps(a: Segments, b: Segments) -> Tensor:
    """Pixels (N_a + 1, N_b + 1) that a segment of one shares with one of the other; int64."""
    rows, columns = len(a.classes), len(b.classes)
    return torch.bincount(a.at * columns + b.at, minlength=rows * columns).view(rows, columns)


def check(label: Tensor, ids: Tensor, classes: Tensor, truth: Tensor, valid: Tensor, count: int) -> None:
    """Raise unless all five have one shape (B, H, W), and hold what they should.

    Raises:
        ValueError: naming what does not.
    """
    if not label.shape == ids.shape == classes.shape == truth.shape == valid.shape:
        shapes = [tuple(t.shape) for t in (label, ids, classes, truth, valid)]
        raise ValueError(f"predicted labels and ids, true classes and ids, valid: {shapes}, expected one (B, H, W)")
    for name, values in (("predicted label", label), ("true class", classes[valid])):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < count:
            raise ValueError(f"{name} from {int(values.min())} to {int(values.max())}, expected 0 to {count - 1}")
    for name, values in (("predicted", ids), ("true", truth[valid])):
        if values.is_floating_point() or (values.numel() and int(values.min()) < 0):
            raise ValueError(f"{name} ids of instances are {values.dtype} or negative, expected int64, 0 for none")
