"""Correlations that independent rules miss, fitted to sampled dropout masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.methods._propagation.rules import LinearMap

STEPS = 150
RATE = 0.05
BATCH = 4
"""Steps of Adam, its learning rate, and images in each step, for the weights of one operation."""
FLOOR = 1e-4
"""Variances below this share of the channel's mean do not matter."""


class Gain(nn.Module):
    """Multiplies a variance (B, C, H, W) by a factor for each channel, or one of another shape by one factor.

    Args:
        name: The name of the operation.
        gain: The factors, (C, 1, 1) or ().
    """

    gain: Tensor

    def __init__(self, name: str, gain: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("gain", gain)

    @classmethod
    def fit(cls, name: str, variance: Tensor, target: Tensor) -> Self:
        """The gain with which the mean standard deviation of each channel is that of the target."""
        axes = (0, 2, 3) if variance.ndim == 4 else tuple(range(variance.ndim))
        given, wanted = (x.sqrt().mean(axes) for x in (variance, target))
        gain = torch.where(given > 0, wanted / given.clamp_min(1e-30), 1.0).square()
        return cls(name, gain[:, None, None] if variance.ndim == 4 else gain)

    def forward(self, variance: Tensor, linear: LinearMap | None) -> Tensor:
        """The corrected variance."""
        return variance * self.gain


class WindowCovariance(nn.Module):
    """The variance of ``Σ w x`` for correlated elements of the window that a convolution reads.

    The correlations are the same at every pixel: ``Σ a v + Σ_k (Σ b_k σ)²`` with σ² = v. This holds exactly where the
    correlation matrix of the window is one of rank k plus a diagonal one.

    Args:
        name: The name of the operation.
        diagonal: The weights a ≥ 0, of the shape of the convolution's weights.
        factors: The weights b (rank, …), each of the same shape.
    """

    diagonal: Tensor
    factors: Tensor

    def __init__(self, name: str, diagonal: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("diagonal", diagonal)
        self.register_buffer("factors", factors)

    @classmethod
    def fit(
        cls, name: str, linear: LinearMap, target: Tensor, rank: int, generator: torch.Generator
    ) -> WindowCovariance:
        """The maximum-likelihood weights: sampled variances have a gamma distribution about the true ones."""
        weight, channel = linear.weight.detach(), linear.weight.ndim - 1
        axes = tuple(axis for axis in range(target.ndim) if axis != target.ndim - channel)
        floor = (FLOOR * target.mean(axes, keepdim=True)).clamp_min(1e-12)
        ratio = target.mean() / linear(linear.variance, weight.square()).mean().clamp_min(1e-30)
        scale = ratio.sqrt() * weight.abs().mean()
        start = torch.randn(rank, *weight.shape, generator=generator).to(weight)
        start = start * 0.3 * weight * ratio.sqrt() / scale.clamp_min(1e-30)
        log_diagonal = (weight.square() * ratio + 1e-12).log()
        images = target.shape[0] if linear.variance.ndim == weight.ndim else 1  # else the first axis may be another
        with torch.enable_grad():
            parameters = [log_diagonal.requires_grad_(), start.requires_grad_()]
            optimizer = torch.optim.Adam(parameters, RATE)
            for _ in range(STEPS):
                chosen = torch.randperm(images, generator=generator)[:BATCH] if images > BATCH else slice(None)
                found = cls(name, log_diagonal.exp(), scale * start)._of(linear, linear.variance[chosen]) + floor
                loss = ((target[chosen] + floor) / found + found.log()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return cls(name, log_diagonal.detach().exp(), scale * start.detach())

    def forward(self, variance: Tensor, linear: LinearMap | None) -> Tensor:
        """The corrected variance."""
        assert linear is not None
        return self._of(linear, linear.variance)

    def _of(self, linear: LinearMap, variance: Tensor) -> Tensor:
        result, sd = linear(variance, self.diagonal), variance.sqrt()
        for factor in self.factors:
            result = result + linear(sd, factor).square()
        return result.clamp_min(0)


def corrections_of(state: Mapping[str, Tensor]) -> list[nn.Module]:
    """The corrections whose tensors are stored under ``INDEX.PART.OPERATION``."""
    parts: dict[int, dict[str, Tensor]] = {}
    names: dict[int, str] = {}
    for key, value in state.items():
        index, part, name = key.split(".", 2)
        parts.setdefault(int(index), {})[part] = value
        names[int(index)] = name
    kinds = ((names[index], parts[index]) for index in sorted(parts))
    return [Gain(name, **held) if "gain" in held else WindowCovariance(name, **held) for name, held in kinds]


class Fitted:
    """Applies fitted corrections, one for each operation in the order in which they run."""

    def __init__(self, corrections: Iterable[nn.Module]) -> None:
        self._left = iter(corrections)

    def __call__(self, name: str, variance: Tensor, linear: LinearMap | None) -> Tensor:
        correction = next(self._left, None)
        if correction is None or correction.name != name:
            found = "no more operations" if correction is None else correction.name
            raise ConfigError(
                f"the network runs {name} where the fitted network ran {found}: fit VariancePropagation again, to a "
                "network that runs the same operations for every input"
            )
        return correction(variance, linear)


class Fitting:
    """Fits a correction for each operation, to variances that were sampled, and applies it."""

    def __init__(self, targets: Sequence[Tensor], rank: int, generator: torch.Generator) -> None:
        self._targets = iter(targets)
        self._rank = rank
        self._generator = generator
        self.corrections: list[nn.Module] = []

    def __call__(self, name: str, variance: Tensor, linear: LinearMap | None) -> Tensor:
        target = next(self._targets)
        if linear is None:
            correction = Gain.fit(name, variance, target)
        else:
            correction = WindowCovariance.fit(name, linear, target, self._rank, self._generator)
        self.corrections.append(correction)
        return correction(variance, linear)
