"""Camera poses: a distribution of six values in the tangent space of SE(3), around a predicted pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError
from sfumato.geometry.pose import difference, poses_of, rigid, rotations
from sfumato.likelihoods.full_covariance import FullCovariance
from sfumato.likelihoods.links import check_targets
from sfumato.likelihoods.standardized import has_location, value_moments
from sfumato.predictions import PoseMoments, ValuePrediction
from sfumato.predictions.values import products

DIMS = 6
LOCATION = 7


@dataclass(frozen=True)
class PoseLikelihood:
    """``T = T̂ displaced by δ`` with a distribution of δ around 0, see :class:`~sfumato.predictions.PosePrediction`.

    The first 7 output channels are the pose T̂: a position x̂ = center + extent · f and a quaternion q̂, which is
    normalized. Both are relative to the middle of the training cameras, so that f = 0 is that pose. As q and −q are one
    rotation, the sign does not matter. The other channels are those of ``likelihood`` without its locations: scales and
    shears of δ, in units of ``extent`` and ``spread``.

    Args:
        likelihood: A distribution of 6 values around a location: ``gaussian``, ``laplace``, with the full covariance
            ``gaussian-full`` or ``laplace-full``, or ``l1``.
        center: Position of the middle, meters.
        rotation: Its rotation as a quaternion x, y, z, w.
        extent: Standard deviation of the positions of the training cameras, meters, > 0.
        spread: Standard deviation of their rotations, radians, > 0.

    Raises:
        ConfigError: If the likelihood is none of 6 values around a location.

    Source: Zangeneh et al. (2025), "Conditional variational autoencoders for probabilistic pose regression", for the
    residual on SE(3); Barfoot and Furgale (2014) for normal distributions in the tangent space.
    Pitfall: The density is that of a vector of 6 numbers. For rotations that are uncertain by more than a radian it is
    no density of rotations, which repeat after a full turn.
    """

    likelihood: Likelihood[ValuePrediction]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    extent: float = 1.0
    spread: float = 1.0
    target: ClassVar[str] = "value"
    absolute: ClassVar[bool] = True  # it standardizes by itself

    def __post_init__(self) -> None:
        known = has_location(self.likelihood) or isinstance(self.likelihood, FullCovariance)
        if not known or getattr(self.likelihood, "dims", 0) != DIMS or getattr(self.likelihood, "student", False):
            raise ConfigError(
                f"{type(self.likelihood).__name__} is no distribution of {DIMS} values around a pose: use "
                "gaussian-full, laplace-full, gaussian, laplace or l1"
            )

    @property
    def channels(self) -> int:
        """7 for the pose, and those of the likelihood without its 6 locations: 28 for a full covariance."""
        return LOCATION + self.likelihood.channels - DIMS

    def poses(self, output: Tensor) -> Tensor:
        """The predicted poses (B, 4, 4), world from camera, meters."""
        position, quaternion = self.position_and_quaternion(output)
        return rigid(rotations(quaternion), position)

    def position_and_quaternion(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted positions (B, 3) in meters, and quaternions (B, 4) as x, y, z, w of any length and sign.

        Raises:
            ConfigError: If the output has a value for each pixel.
        """
        if output.ndim != 2:
            raise ConfigError(
                f"the network's output is a map {tuple(output.shape)}, and a pose is one value for each image: use the "
                f"network pose-net, or another one that returns (B, {self.channels})"
            )
        position = output.new_tensor(self.center) + self.extent * output[:, :3]
        turned = self.spread / 2 * output[:, 3:LOCATION] + output.new_tensor([0.0, 0, 0, 1])
        return position, _product(turned, output.new_tensor(self.rotation))

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B,) in nats per m³ rad³ of target poses (B, 6), 0 where not valid."""
        check_targets(output, target, DIMS, "position and rotation vector for the output {}")
        known = valid.unsqueeze(1)
        with torch.autocast(output.device.type, enabled=False):  # bf16 would round rotations to half a degree
            output, target = (each.float().where(known, 0.0) for each in (output, target))
            away = difference(self.poses(output), poses_of(target)) / output.new_tensor(self._scales)
            found = self.likelihood.nll(self._around_0(output), away, valid)
        return (found + sum(math.log(scale) for scale in self._scales)).where(valid, 0.0)

    def covariance_nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """:meth:`nll`, whose gradient reaches scales and shears only, and not the predicted pose."""
        fixed = torch.cat([output[:, :LOCATION].detach(), output[:, LOCATION:]], 1)
        return self.nll(fixed, target, valid)

    def moments(self, output: Tensor) -> PoseMoments:
        """The pose, and the moments of the tangent vector in meters and radians."""
        poses = self.poses(output)
        noise = value_moments(self.likelihood.moments(self._around_0(output)))
        scales = output.new_tensor(self._scales)
        shared = noise.covariance
        shared = noise.variance.new_zeros(output.shape[0], 15) if shared is None else shared * products(scales[None])
        return PoseMoments.of(
            poses,
            replace(
                noise,
                variance=noise.variance * scales.square(),
                covariance=shared,
                codeviation=torch.zeros_like(shared),
            ),
        )

    @property
    def _scales(self) -> tuple[float, ...]:
        return (self.extent,) * 3 + (self.spread,) * 3

    def _around_0(self, output: Tensor) -> Tensor:
        """The output of the likelihood of δ: locations of 0, then scales and shears."""
        return torch.cat([torch.zeros_like(output[:, :DIMS]), output[:, LOCATION:]], 1)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Product of quaternions (…, 4), x, y, z, w: the rotation by ``second``, then that by ``first``."""
    (a, s), (b, t) = (torch.split(each, [3, 1], -1) for each in torch.broadcast_tensors(first, second))
    return torch.cat([s * b + t * a + torch.linalg.cross(a, b), s * t - (a * b).sum(-1, keepdim=True)], -1)
