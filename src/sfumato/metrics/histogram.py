"""Histograms of uncertainties. Every curve (ROC, precision–recall, risk–coverage, sparsification) is made from them.

A curve needs the *order* of the pixels. A histogram over a key that grows with the uncertainty keeps this order, except
within a key. The key is the first bits of the float (exponent and eight bits of the mantissa), so a key has a relative
width of 2⁻⁸ at every scale. No range has to be known beforehand, and histograms can be added.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEYS = 1 << 16
"""Number of keys of a fine histogram. Every float32 ≥ 0 has a key."""

COARSE = 128
"""Number of keys of a coarse histogram: 16 per octave from 2⁻⁴ to 2², where most uncertainties are (in nats or meters),
and 2 per octave down to 2⁻²⁰. The first and the last key hold everything beyond."""


def key(values: Tensor) -> Tensor:
    """An integer in [0, 65536) that never falls as the value grows. Negative values count as 0.

    Two values share a key only if they differ by less than a factor 1 + 2⁻⁸ (or are both below 1e-40).

    Args:
        values: Values of any shape, not NaN.

    >>> key(torch.tensor([0.0, 1.0, 1.001, 1.01])).tolist()
    [0, 32512, 32512, 32514]
    """
    return values.float().clamp_min(0).view(torch.int32).bitwise_right_shift(15).bitwise_and(KEYS - 1)


def coarsen(fine: Tensor) -> Tensor:
    """Coarse histograms (…, 128) from fine ones (…, 65536), see :data:`COARSE`."""
    octaves = _octaves(fine)
    low = octaves[..., 127 - 20 : 127 - 4, :].unflatten(-1, (2, 8)).sum(-1).flatten(-2)
    coarse = torch.cat([low, octaves[..., 127 - 4 : 127 + 2, :].flatten(-2)], -1)
    return _with_ends(coarse, octaves, 20, 2)


def coarsen_wide(fine: Tensor) -> Tensor:
    """As :func:`coarsen`, but with 8 keys per octave from 2⁻⁴ to 2¹², for novelty scores, which may be large."""
    octaves = _octaves(fine)
    coarse = octaves[..., 127 - 4 : 127 + 12, :].unflatten(-1, (8, 2)).sum(-1).flatten(-2)
    return _with_ends(coarse, octaves, 4, 12)


def _octaves(fine: Tensor) -> Tensor:
    """Fine histograms as (…, 256, 16): octaves from 2⁻¹²⁷ on, 16 keys each."""
    return fine.unflatten(-1, (256, 16, 16)).sum(-1)


def _with_ends(coarse: Tensor, octaves: Tensor, below: int, above: int) -> Tensor:
    """Add everything below 2^−below to the first key, and everything above 2^above to the last."""
    coarse[..., 0] += octaves[..., : 127 - below, :].sum((-2, -1))
    coarse[..., -1] += octaves[..., 127 + above :, :].sum((-2, -1))
    return coarse


def lowest(weight: Tensor, column: Tensor, shares: Tensor) -> Tensor:
    """Sums (…, m) of a column over the lowest keys, up to given shares of the weight.

    A key that lies across a share counts in proportion, as if its pixels came in random order.

    Args:
        weight: (…, keys), usually the number of pixels.
        column: (…, keys), what is summed.
        shares: (m,) in [0, 1].

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
    """Sums (…, bins) of a column (…, keys) over bins of neighboring keys with equal ``weight`` (…, keys) each."""
    return lowest(weight, column, torch.linspace(0, 1, bins + 1, dtype=torch.float64)).diff(dim=-1)
