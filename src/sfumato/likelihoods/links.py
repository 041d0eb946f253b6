"""Links: the space ``z = link(y)`` in which a law of a value is simple, and the way back to the value's unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor

from sfumato.errors import ConfigError

LinkName = Literal["identity", "log", "inverse"]

# Scales from e⁻¹⁰ to e¹⁰ (4.5e-5 to 2.2e4) in link space: their squares and inverse squares are exact in float32.
LOG_SCALE = 10.0


@dataclass(frozen=True)
class Link:
    """A monotone map ``z = link(y)``, its inverse, and ``log|dz/dy|``, each elementwise."""

    to_z: Callable[[Tensor], Tensor]
    to_y: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]


LINKS: dict[str, Link] = {
    "identity": Link(lambda y: y, lambda z: z, torch.zeros_like),
    "log": Link(torch.log, torch.exp, lambda y: -y.log()),
    "inverse": Link(torch.reciprocal, torch.reciprocal, lambda y: -2 * y.abs().log()),
}


def as_link(name: str) -> LinkName:
    """The name of a link.

    Raises:
        ConfigError: If there is no such link.
    """
    if name not in LINKS:
        raise ConfigError(f"link is {name!r}, expected one of {', '.join(LINKS)}")
    return cast(LinkName, name)


def check(dims: int, link: str, lower: float | None, upper: float | None) -> None:
    """Refuse what no law of a value can mean.

    Raises:
        ValueError: unless dims ≥ 1, the link is known, and 0 < lower < upper < ∞ where the link is not the identity.
    """
    if dims < 1:
        raise ValueError(f"dims is {dims}, expected the number of values per pixel, at least 1")
    if link not in LINKS:
        raise ValueError(f"link is {link!r}, expected one of {', '.join(LINKS)}")
    if link == "identity":
        if lower is not None or upper is not None:
            raise ValueError("lower and upper belong to the log and inverse links: leave them out for the identity")
    elif lower is None or upper is None or not 0 < lower < upper < math.inf:
        raise ValueError(
            f"the {link} link got lower={lower}, upper={upper}, expected 0 < lower < upper < inf: the range of the "
            "values, because without one their mean or variance may be infinite"
        )


def split(output: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Location and log scale (B, D, H, W) of an output (B, 2D, H, W), in float32 or wider.

    Beyond ±10 the log scale is held there, but its gradient passes: a pixel that strayed finds its way back.
    """
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    location, raw = output[:, :dims], output[:, dims:]
    return location, raw + (raw.clamp(-LOG_SCALE, LOG_SCALE) - raw).detach()


def law_nll(output: Tensor, target: Tensor, valid: Tensor, link: str, standard: Callable[[Tensor], Tensor]) -> Tensor:
    """``Σ_D −log p((z − μ) / e^s) + s − log|dz/dy|`` (B, H, W) in nats, 0 where not valid.

    ``standard`` is the negative log density of the law with location 0 and scale 1.
    """
    batch, channels, *size = output.shape
    if target.shape != (batch, channels // 2, *size):
        raise ValueError(
            f"targets have shape {tuple(target.shape)}, expected {(batch, channels // 2, *size)}: half the channels of "
            f"the output {tuple(output.shape)}, at its size"
        )
    known = valid[:, None]
    # Both are replaced, not only the result: where(·) alone would send 0 · NaN = NaN back through an invalid pixel.
    location, log_scale = split(output.where(known, 0.0), channels // 2)
    target = target.to(location.dtype).where(known, 1.0)
    z = LINKS[link].to_z(target)
    nll = standard((z - location) * (-log_scale).exp()) + log_scale - LINKS[link].log_slope(target)
    return nll.sum(1).where(valid, 0.0)


def clipped_moments(
    location: Tensor,
    scale: Tensor,
    link: str,
    lower: float,
    upper: float,
    nodes: tuple[float, ...],
    weights: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``clip(y, lower, upper)`` where ``link(y) = location + scale · t``, in the unit of y.

    ``E g(t) ≈ Σ weights · g(nodes)``, one node at a time, so memory does not grow with their number.
    """
    ends = _ends(link, lower, upper)

    def value(z: Tensor) -> Tensor:
        # Clipping in z: e^z cannot overflow there, and 1/z ≤ 0 ("beyond infinity") means the far end.
        return LINKS[link].to_y(z.clamp(min(ends), max(ends)))

    center = value(location)  # moments about the median: differences do not cancel
    first, second = torch.zeros_like(center), torch.zeros_like(center)
    for node, weight in zip(nodes, weights, strict=True):
        away = value(torch.add(location, scale, alpha=node)).sub_(center)
        first.add_(away, alpha=weight)
        second.addcmul_(away, away, value=weight)
    return (center + first).clamp_(lower, upper), second.sub_(first.square()).clamp_min_(0)


@cache  # numbers and not tensors, so that they are constants of an exported graph
def _ends(link: str, lower: float, upper: float) -> tuple[float, float]:
    """The range of y as that of z."""
    low, high = LINKS[link].to_z(torch.tensor([lower, upper], dtype=torch.float64)).tolist()
    return low, high


@cache
def normal_scores() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """41 nodes t and weights w with ``E g(t) ≈ Σ w g(t)`` for t ~ N(0, 1): the trapezoid rule from −6 to 6, float64.

    Exact to rounding where g is smooth on the scale of 0.3, as ``e^(σt)`` is. The standard deviation of a clipped
    value is then within 0.5 % (log link, scale 0.3), 2 % (log, scale 1), 0.1 % (inverse, scale 2 % of the location),
    10 % (inverse, scale 10 % of it), and 20 % where the law reaches the inverse's pole at 0.
    """
    nodes = torch.linspace(-6, 6, 41, dtype=torch.float64)
    weights = (-0.5 * nodes.square()).exp()
    return tuple(nodes.tolist()), tuple((weights / weights.sum()).tolist())
