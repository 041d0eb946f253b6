"""Histograms of uncertainties: what every curve (ROC, precision–recall, risk–coverage, sparsification) is made of.

A curve needs the *order* of the pixels, and a histogram over a key that grows with the uncertainty holds it up to ties
within a key. The key is the head of the float's own bits (exponent, then the first eight bits of the mantissa), so a
key spans a relative width of 2⁻⁸ at every scale: no range has to be known beforehand, and histograms add up.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEYS = 1 << 16
"""Keys of a fine histogram: every float32 ≥ 0 has one."""

COARSE = 128
"""Keys of a coarse histogram: 16 per octave from 2⁻⁴ to 2², where uncertain pixels are (in nats, or in meters), and
2 per octave down to 2⁻²⁰; the first and the last hold what is beyond."""


def key(values: Tensor) -> Tensor:
    """A whole number in [0, 65536) that never falls as the value grows; negative values count as 0.

    Two values share a key only if they differ by less than a factor 1 + 2⁻⁸ (or are both below 1e-40).

    Args:
        values: any shape, not NaN.

    >>> key(torch.tensor([0.0, 1.0, 1.001, 1.01])).tolist()
    [0, 32512, 32512, 32514]
    """
    return values.float().clamp_min(0).view(torch.int32).bitwise_right_shift(15).bitwise_and(KEYS - 1)


def coarsen(fine: Tensor) -> Tensor:
    """Fine histograms (…, 65536) with neighboring keys joined, see :data:`COARSE`: (…, 128)."""
    octaves = fine.unflatten(-1, (256, 16, 16)).sum(-1)  # the exponent runs from -127 in 16ths of an octave
    low = octaves[..., 127 - 20 : 127 - 4, :].unflatten(-1, (2, 8)).sum(-1).flatten(-2)
    coarse = torch.cat([low, octaves[..., 127 - 4 : 127 + 2, :].flatten(-2)], -1)
    coarse[..., 0] += octaves[..., : 127 - 20, :].sum((-2, -1))
    coarse[..., -1] += octaves[..., 127 + 2 :, :].sum((-2, -1))
    return coarse


def lowest(weight: Tensor, column: Tensor, shares: Tensor) -> Tensor:
    """A column (…, keys) summed over the lowest keys, up to shares (m,) in [0, 1] of the ``weight`` (…, keys): (…, m).

    A key that lies across a share counts in proportion: its pixels are taken in random order.

    >>> lowest(torch.tensor([1, 3]), torch.tensor([5.0, 3.0]), torch.tensor([0.25, 0.5, 1.0]))
    tensor([5., 6., 8.], dtype=torch.float64)
    """
    weight, column = weight.double(), column.double()
    upto = weight.cumsum(-1)
    wanted = shares.to(upto) * upto[..., -1:]
    key = torch.searchsorted(upto, wanted, right=True).clamp_max(weight.shape[-1] - 1)
    missing = (upto.gather(-1, key) - wanted) / weight.gather(-1, key).clamp_min(1)
    return column.cumsum(-1).gather(-1, key) - missing * column.gather(-1, key)


def equal_mass(weight: Tensor, column: Tensor, bins: int) -> Tensor:
    """A column (…, keys) summed over runs of keys that hold the same ``weight`` (…, keys) each: (…, bins)."""
    return lowest(weight, column, torch.linspace(0, 1, bins + 1, dtype=torch.float64)).diff(dim=-1)
