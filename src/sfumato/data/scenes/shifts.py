"""Graded departures from what a network was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.data.scenes.rays import FAR

SHIFTS = ("fog", "darkness", "blur", "noise")


def shift(
    image: Tensor, kind: str, severity: int, *, depth: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """An image taken under worse conditions.

    Args:
        image: (3, H, W) in [0, 1].
        kind: ``fog`` thickens with depth: ``t x + (1 − t) · 0.85``, ``t = exp(−β · depth)``, β = 0.02 to 0.32 per
            meter, doubling; ``darkness`` divides the light by 2^severity; ``blur`` is Gaussian with σ = 0.4 % of the
            width times severity; ``noise`` is Gaussian with σ = 0.03 to 0.48, doubling, clipped to [0, 1].
        severity: 1 to 5.
        depth: (1, H, W) meters, ``inf`` in the sky; only fog needs it.
        generator: source of the noise; the same state gives the same noise at every severity, only stronger.

    Returns:
        (3, H, W) in [0, 1].

    Raises:
        ValueError: for an unknown kind, another severity, or fog without depth.

    Source: after Hendrycks and Dietterich (2019), "Benchmarking neural network robustness to common corruptions".

    >>> shift(torch.full((3, 1, 1), 0.8), "darkness", 1).flatten()
    tensor([0.5657, 0.5657, 0.5657])
    """
    check(kind, severity)
    if kind == "fog":
        if depth is None:
            raise ValueError("fog without depth: fog thickens with distance, pass depth (1, H, W) in meters")
        through = torch.exp(-0.01 * 2.0**severity * depth.clamp(max=FAR))
        return image * through + 0.85 * (1 - through)
    if kind == "darkness":
        return image * 2 ** (-severity / 2)  # in the square-root encoding of Scenes
    if kind == "blur":
        return _blur(image, 0.004 * severity * image.shape[-1])
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    return (image + 0.015 * 2.0**severity * noise).clamp(0, 1)


def check(kind: str, severity: int) -> None:
    """Raise the error that :func:`shift` promises."""
    if kind not in SHIFTS:
        raise ValueError(f"shift is {kind!r}, expected one of {', '.join(SHIFTS)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity is {severity}, expected 1 (mild) to 5 (severe)")


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with the border repeated, along one axis and then the other."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device) / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (-2, -1):
        size = image.shape[axis]
        offsets = torch.arange(-reach, reach + 1, device=image.device)
        shifted = [
            image.index_select(axis, (torch.arange(size, device=image.device) + o).clamp(0, size - 1)) for o in offsets
        ]
        image = sum((w * s for w, s in zip(weights, shifted)), torch.zeros_like(image))
    return image
