"""What likelihoods of values with a location and a scale share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LinkName, as_link, check, clipped_moments, location_scale_nll, split
from sfumato.predictions import ValueMoments

Quadrature = tuple[tuple[float, ...], tuple[float, ...]]
"""Nodes t and weights w with ``E g(t) ≈ Σ w g(t)``."""


@dataclass(frozen=True, repr=False)
class LocationScale:
    """``link(y) = μ + e^s t`` with a standard distribution of t, for each of D values independently.

    The output channels are D locations μ, then D log scales s. Log scales count as −10 below −10 and as 10 above 10.

    Args:
        dims: Number D ≥ 1 of values per pixel or image. Default 1.
        link: ``identity`` (flow, disparity), ``log`` (depth: y > 0, relative errors) or ``inverse`` (depth through its
            disparity). Default ``identity``.
        lower: Smallest value of y, > 0, in ``unit``. For the log and inverse links only.
        upper: Largest value of y, in ``unit``. For the log and inverse links only.
        unit: Unit of y, such as ``"m"``. Default: none.

    Raises:
        ConfigError: If ``dims`` is less than 1, the link is unknown, or not 0 < lower < upper < ∞ where a range is
            needed.
    """

    dims: int = 1
    link: LinkName = "identity"
    lower: float | None = None
    upper: float | None = None
    unit: str = ""
    target: ClassVar[str] = "value"
    standard_variance: ClassVar[float]  # the variance of t

    def __post_init__(self) -> None:
        check(self.dims, self.link, self.lower, self.upper)

    def __repr__(self) -> str:
        reach = "" if self.lower is None else f", {self.link} of {self.lower} to {self.upper}"
        return f"{type(self).__name__}({self.dims}{reach}{self.unit and f' {self.unit}'})"

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task, in its unit, with its link and its range."""
        return cls(task.dims, as_link(task.link), task.lower, task.upper, task.unit)

    @property
    def channels(self) -> int:
        """2D."""
        return 2 * self.dims

    @staticmethod
    def standard_nll(t: Tensor) -> Tensor:
        """The negative log density of t."""
        raise NotImplementedError

    @staticmethod
    def quadrature() -> Quadrature:
        """Nodes and weights for expectations over t."""
        raise NotImplementedError

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log p(y)`` (B, *event) in nats per ``unit``, summed over D, 0 where not valid."""
        return location_scale_nll(output, target, valid, self.link, self.standard_nll)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean and variance of y in ``unit``. For the log and inverse links y is clipped to [lower, upper].

        The variance is above 0 everywhere, see :func:`clipped_moments`. For the identity link it is at least
        ``e^{−20}`` times that of t.
        """
        location, log_scale = split(output, self.dims)
        scale = log_scale.exp()
        if self.lower is None or self.upper is None:
            return ValueMoments.of(location, self.standard_variance * scale.square(), self.unit)
        found = clipped_moments(location, scale, self.link, self.lower, self.upper, *self.quadrature())
        return ValueMoments.of(*found, self.unit)
