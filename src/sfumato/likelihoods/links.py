"""Links: ``z = link(y)``, in which the distribution of a value y is simple, and the way back to the unit of y."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError

LinkName = Literal["identity", "log", "inverse"]

LOG_SCALE = 10.0
"""Largest size of a log scale: scales are from 4.5e-5 to 2.2e4. Their squares and inverse squares fit float32."""

SCALE_FLOOR, RANGE_FLOOR = 0.1, 0.01
"""Least standard deviation of a clipped value: parts of the scale at the mean, and of the range. The smaller counts."""


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
    """Check the arguments of a likelihood of values.

    Raises:
        ConfigError: Unless dims ≥ 1, the link is known, and 0 < lower < upper < ∞ where the link is not the identity.
    """
    if dims < 1:
        raise ConfigError(f"dims is {dims}, expected the number of values per pixel, at least 1")
    as_link(link)
    if link == "identity":
        if lower is not None or upper is not None:
            raise ConfigError("lower and upper belong to the log and inverse links: leave them out for the identity")
    elif lower is None or upper is None or not 0 < lower < upper < math.inf:
        raise ConfigError(
            f"the {link} link got lower={lower}, upper={upper}, expected 0 < lower < upper < inf: without a range the "
            "mean or the variance of the values may be infinite"
        )


def split(output: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Location and log scale (B, D, *event) of an output (B, 2D, *event), in float32 or wider.

    Log scales are clamped to ±10, but the gradient passes, so that training can bring them back into the range.
    """
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    return output[:, :dims], bounded(output[:, dims:], LOG_SCALE)


def bounded(raw: Tensor, limit: float) -> Tensor:
    """The tensor, clamped to ±limit. The gradient passes as if it were not, so that no value is stuck at the limit."""
    return raw + (raw.clamp(-limit, limit) - raw).detach()


def check_targets(output: Tensor, target: Tensor, dims: int, expected: str) -> None:
    """Check that targets are (B, dims, *event) for an output (B, C, *event).

    Args:
        output: The output of a network.
        target: The targets.
        dims: Number of values at each pixel.
        expected: What they are, for the message, with ``{}`` for the shape of the output.

    Raises:
        DataError: If the targets have another shape.
    """
    shape = (output.shape[0], dims, *output.shape[2:])
    if target.shape != shape:
        raise DataError(
            f"targets have shape {tuple(target.shape)}, expected {shape}: {expected.format(tuple(output.shape))}"
        )


def location_scale_nll(
    output: Tensor, target: Tensor, valid: Tensor, link: str, standard: Callable[[Tensor], Tensor]
) -> Tensor:
    """``Σ_D −log p((z − μ) / e^s) + s − log|dz/dy|`` (B, *event) in nats, 0 where not valid.

    Args:
        output: Locations μ, then log scales s (B, 2D, *event).
        target: Values y (B, D, *event).
        valid: Mask (B, *event).
        link: Name of the link ``z = link(y)``.
        standard: The negative log density of the distribution with location 0 and scale 1.

    Raises:
        DataError: If the targets have another shape.
    """
    channels = output.shape[1]
    check_targets(output, target, channels // 2, "half the channels of the output {}, at its size")
    known = valid.unsqueeze(1)
    # Output and target are replaced, not only the result: where(·) alone gives the gradient 0 · NaN = NaN.
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

    A distribution that lies outside of the range is clipped to one number, and its variance would be 0. So the standard
    deviation is at least a tenth of ``scale |dy/dz|`` at the mean, or 1 % of the range if that is less.

    Args:
        location: Locations (B, D, *event) behind the link.
        scale: Scales (B, D, *event) behind the link, > 0.
        link: ``log`` or ``inverse``.
        lower: Smallest value.
        upper: Largest value.
        nodes: Values of t.
        weights: Weights with ``E g(t) ≈ Σ weights · g(nodes)``. Nodes are used one by one, to save memory.
    """
    ends = _ends(link, lower, upper)

    def value(z: Tensor) -> Tensor:
        # Clipping z, not y: e^z cannot overflow, and 1/z with z ≤ 0 means the far end.
        return LINKS[link].to_y(z.clamp(min(ends), max(ends)))

    center = value(location)  # moments about the median, so that differences do not cancel
    first, second = torch.zeros_like(center), torch.zeros_like(center)
    for node, weight in zip(nodes, weights, strict=True):
        away = value(torch.add(location, scale, alpha=node)) - center  # not in place: an objective may need gradients
        first.add_(away, alpha=weight)
        second.addcmul_(away, away, value=weight)
    mean = (center + first).clamp_(lower, upper)
    floor = (SCALE_FLOOR * scale * (-LINKS[link].log_slope(mean)).exp()).clamp_max_(RANGE_FLOOR * (upper - lower))
    return mean, torch.maximum(second.sub_(first.square()), floor.square_())


@cache  # numbers and not tensors, so that they are constants of an exported graph
def _ends(link: str, lower: float, upper: float) -> tuple[float, float]:
    """The ends of the range of y in the space of z."""
    low, high = LINKS[link].to_z(torch.tensor([lower, upper], dtype=torch.float64)).tolist()
    return low, high


@cache
def normal_scores() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """41 nodes t and weights w with ``E g(t) ≈ Σ w g(t)`` for t ~ N(0, 1): the trapezoid rule from −6 to 6, float64.

    It is exact to rounding where g is smooth on the scale of 0.3, as ``e^(σt)`` is. The standard deviation of a clipped
    value has an error of 0.5 % (log link, scale 0.3), 2 % (log, scale 1), 0.1 % (inverse, scale 2 % of the location),
    10 % (inverse, scale 10 % of it), and 20 % where the distribution reaches the pole of the inverse at 0.
    """
    nodes = torch.linspace(-6, 6, 41, dtype=torch.float64)
    weights = (-0.5 * nodes.square()).exp()
    return tuple(nodes.tolist()), tuple((weights / weights.sum()).tolist())
