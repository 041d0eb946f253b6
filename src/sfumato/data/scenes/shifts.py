"""Shifts of the image distribution in five severities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.data.scenes.rays import FAR
from sfumato.errors import ConfigError

SHIFTS = ("fog", "darkness", "blur", "noise")


def shift(
    image: Tensor, kind: str, severity: int, *, depth: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """An image under worse conditions.

    - ``fog``: ``t x + (1 − t) · 0.85`` with ``t = exp(−β · depth)``; β = 0.02, 0.04, …, 0.32 per meter.
    - ``darkness``: the light is divided by ``2^severity``.
    - ``blur``: Gaussian with σ = 0.4 % of the width times severity.
    - ``noise``: Gaussian with σ = 0.03, 0.06, …, 0.48, clipped to [0, 1].

    Args:
        image: (3, H, W) in [0, 1].
        kind: ``fog``, ``darkness``, ``blur`` or ``noise``.
        severity: 1 to 5.
        depth: (1, H, W) meters, ``inf`` in the sky. Only fog needs it. Default None.
        generator: Source of the noise. The same state gives the same noise, which grows with severity. None for
            torch's global generator. Default None.

    Returns:
        (3, H, W) in [0, 1].

    Raises:
        ConfigError: For an unknown kind, another severity, or fog without depth.

    Source: after Hendrycks and Dietterich (2019), "Benchmarking neural network robustness to common corruptions".

    >>> shift(torch.full((3, 1, 1), 0.8), "darkness", 1).flatten()
    tensor([0.5657, 0.5657, 0.5657])
    """
    check(kind, severity)
    if kind == "fog":
        if depth is None:
            raise ConfigError("fog without depth: pass depth (1, H, W) in meters, because fog depends on the distance")
        through = torch.exp(-0.01 * 2.0**severity * depth.clamp(max=FAR))
        return image * through + 0.85 * (1 - through)
    if kind == "darkness":
        return image * 2 ** (-severity / 2)  # Scenes store the square root of the light
    if kind == "blur":
        return _blur(image, 0.004 * severity * image.shape[-1])
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    return (image + 0.015 * 2.0**severity * noise).clamp(0, 1)


def check(kind: str, severity: int) -> None:
    """Raise the error of :func:`shift` for an unknown kind or severity."""
    if kind not in SHIFTS:
        raise ConfigError(f"shift is {kind!r}, expected one of {', '.join(SHIFTS)}")
    if severity not in range(1, 6):
        raise ConfigError(f"severity is {severity}, expected 1 (mild) to 5 (severe)")


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with the border repeated, first along one axis, then along the other."""
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
