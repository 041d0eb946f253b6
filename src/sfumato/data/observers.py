"""Labels of several observers as one distribution over the classes of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def observed_shares(observed: Sequence[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """The share of the observers that chose each class, among those that chose one.

    Args:
        observed: For each observer, classes (H, W) int64 and valid (H, W) bool.
        classes: K, the number of classes.

    Returns:
        Shares (K, H, W) float32, 0 where no observer chose a class; valid (H, W) bool.

    >>> road, car, both = torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[True]])
    >>> observed_shares([(road, both), (car, both), (car, both), (car, both)], 2)[0].flatten()
    tensor([0.2500, 0.7500])
    """
    votes = torch.stack([one_hot(chosen, classes) * valid.unsqueeze(-1) for chosen, valid in observed]).sum(0)
    count = votes.sum(-1)
    return (votes / count.clamp_min(1).unsqueeze(-1)).permute(2, 0, 1).contiguous(), count > 0


def most_likely(probs: Tensor, first: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The most likely class (H, W) of each pixel. Of equally likely ones, that of the first observer, else the lowest.

    Args:
        probs: Probabilities (K, H, W).
        first: Classes and mask of the first observer. Default: none.
    """
    if first is not None:
        chosen, valid = first
        probs = probs + 1e-4 * (one_hot(chosen, len(probs)) * valid.unsqueeze(-1)).permute(2, 0, 1)
    return probs.argmax(0)
