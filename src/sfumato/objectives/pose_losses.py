"""Losses of camera poses: PoseNet's fixed weight, learned weights, and the reprojection of scene points."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import check_intrinsics, transform, unproject
from sfumato.geometry.pose import inverse, poses_of, quaternions, rigid, rotations
from sfumato.likelihoods.pose_likelihood import LOCATION, PoseLikelihood
from sfumato.objectives.base import BaseObjective, Losses, TargetsOf

NEAR = 0.1  # meters; points that come closer to a predicted camera are projected as if they did not


class PoseNetLoss(BaseObjective):
    """``mean |x − x̂|₂ + β |q − q̂|₂`` of positions in meters and unit quaternions (``posenet``).

    The sign of q̂ is the one that is closer to q, because q and −q are one rotation. The predicted covariance learns the
    errors by its negative log likelihood, which has no gradient to the predicted pose.

    Args:
        task: The task ``pose``.
        likelihood: A :class:`~sfumato.likelihoods.PoseLikelihood`.
        inputs: The sample entries that the network takes, in order.
        beta: β ≥ 0, meters. The paper uses 120 to 750 indoors and 250 to 2000 outdoors. Default 250.

    Raises:
        ConfigError: If the task is not ``pose``, a weight is below 0, or the method has a loss of its own.

    Source: Kendall, Grimes and Cipolla (2015), "PoseNet".
    Pitfall: The best β differs from place to place. :class:`PoseNetLearned` learns it.
    """

    own_loss: str = "this method has a loss of its own: use the objective nll, or choose another --method"
    moves: bool = False

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        beta: float = 250.0,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        self.beta = _checked(beta, "beta")
        if not isinstance(likelihood, PoseLikelihood):
            raise ConfigError("this objective is for poses: use it with --task pose")
        self.poses = likelihood

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses of :meth:`losses`, and ``covariance``. A batch without a known pose has the loss 0."""
        output = network(*self.inputs_of(batch)).float()
        target, valid = self.task.target_and_mask(batch)
        if not bool(valid.any()):
            return {"position": output.sum() * 0}, {}
        with torch.autocast(output.device.type, enabled=False):  # bf16 would round rotations to half a degree
            known = {name: value[valid] for name, value in batch.items() if isinstance(value, Tensor)}
            losses, logs = self.losses(output[valid], poses_of(target[valid].float()), known)
            if self.poses.channels > LOCATION:
                losses["covariance"] = self.poses.covariance_nll(output, target, valid).sum() / valid.sum()
        return losses, logs

    def losses(self, output: Tensor, true: Tensor, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """Losses of the predicted poses, and numbers to log.

        Args:
            output: Outputs (B, C) of the network.
            true: True poses (B, 4, 4).
            batch: The other entries of these B samples.
        """
        del batch
        position, rotation = self._distances(output, true, order=2)
        return {"position": position, "rotation": self.beta * rotation}, {}

    def _distances(self, output: Tensor, true: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """Mean distance of positions in meters, and of unit quaternions, by the norm of this order."""
        position, quaternion = self.poses.position_and_quaternion(output)
        quaternion = quaternion / quaternion.norm(dim=1, keepdim=True).clamp_min(1e-6)
        right = quaternions(true[:, :3, :3])
        right = torch.where((quaternion * right).sum(1, keepdim=True) < 0, -right, right)
        far = (_norm(a - b, order).mean() for a, b in ((position, true[:, :3, 3]), (quaternion, right)))
        return next(far), next(far)


class PoseNetLearned(PoseNetLoss):
    """``L_x e^{−s_x} + s_x + L_q e^{−s_q} + s_q`` with learned s (``posenet-learned``).

    L_x and L_q are the mean L1 distances of positions and unit quaternions.

    Args:
        task: The task ``pose``.
        likelihood: A :class:`~sfumato.likelihoods.PoseLikelihood`.
        inputs: The sample entries that the network takes, in order.
        position: s_x at the start. Default 0.
        rotation: s_q at the start. Default −3.

    Raises:
        ConfigError: As :class:`PoseNetLoss`.

    Source: Kendall and Cipolla (2017), "Geometric loss functions for camera pose regression", §3.3.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        position: float = 0.0,
        rotation: float = -3.0,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        starts = {"position": position, "rotation": rotation}
        if not all(map(math.isfinite, starts.values())):
            raise ConfigError(f"position is {position} and rotation {rotation}, expected finite log weights")
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.tensor(s)) for name, s in starts.items()})

    def losses(self, output: Tensor, true: Tensor, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The two weighted losses; it logs s_x and s_q."""
        del batch
        found: Losses = {}
        for (name, s), distance in zip(self.log_variances.items(), self._distances(output, true, order=1)):
            found[name] = distance * (-s).exp() + s
        return found, {f"log_{name}": s.detach() for name, s in self.log_variances.items()}


class PoseNetGeometric(PoseNetLoss):
    """Mean L1 distance of scene points in the predicted and in the true camera (``posenet-geometric``).

    ``mean |π(T̂⁻¹ g) − π(T⁻¹ g)|₁`` over the points g that depth shows in the image. π divides by the depth and leaves
    out the focal length, so 1 is the tangent of 45 degrees. No weight between meters and degrees is needed: a point
    moves as much as both make it move.

    It reads ``depth`` and ``intrinsics``. It diverges from random weights: start it with ``--init-from`` from a run
    that was trained with ``posenet-learned`` or ``nll``.

    Args:
        task: The task ``pose``.
        likelihood: A :class:`~sfumato.likelihoods.PoseLikelihood`.
        inputs: The sample entries that the network takes, in order.

    Raises:
        ConfigError: As :class:`PoseNetLoss`.
        DataError: In training, if the samples have no depth or no intrinsics, or none of their points is known.

    Source: Kendall and Cipolla (2017), "Geometric loss functions for camera pose regression", §3.4.
    """

    further: tuple[str, ...] = ("depth", "depth_valid", "intrinsics")

    def __init__(self, task: TargetsOf, likelihood: Likelihood[object], inputs: tuple[str, ...] = ("image",)) -> None:
        super().__init__(task, likelihood, inputs)

    def losses(self, output: Tensor, true: Tensor, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The loss ``reprojection``."""
        if missing := [name for name in self.further if name not in batch]:
            raise DataError(
                f"the samples have no {missing[0]!r}, from which the points of the scene are made: use the objective "
                "posenet-learned, or data with depth and intrinsics"
            )
        depth, seen, intrinsics = (batch[name] for name in self.further)
        if not bool(seen.any()):
            raise DataError("no pixel of this batch has a known depth, so no point of the scene is known: check depth")
        check_intrinsics(intrinsics, (depth.shape[-2], depth.shape[-1]))
        position, quaternion = self.poses.position_and_quaternion(output)
        predicted = rigid(rotations(quaternion), position)
        points = unproject(depth.where(seen[:, None], 1.0), intrinsics)
        moved = transform(points, inverse(predicted) @ true)
        away = moved[:, :2] / moved[:, 2:].clamp_min(NEAR) - points[:, :2] / points[:, 2:].clamp_min(NEAR)
        return {"reprojection": away.abs().sum(1)[seen].mean()}, {}


def _norm(away: Tensor, order: int) -> Tensor:
    """L1 or L2 norms (B,) of (B, D). The L2 norm has a finite gradient at 0."""
    return away.abs().sum(1) if order == 1 else (away.square().sum(1) + 1e-12).sqrt()


def _checked(weight: float, name: str) -> float:
    if not 0 <= weight < math.inf:
        raise ConfigError(f"{name} is {weight}, expected a weight of at least 0")
    return weight
