"""Disparity without labels, for networks with a distribution over planes: how well the views match at each plane."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, DataError
from sfumato.objectives.base import BaseObjective, Losses, TargetsOf
from sfumato.objectives.photometric import census_difference, census_signs, roughness


class Matching(BaseObjective):
    """The expected difference of the views under the distribution over planes, less its entropy (``matching``).

    ``Σ_k p_k C_k − T · H(p)``, where C_k is the census difference of the left view and the right view shifted by plane
    k. The least value of a pixel is at ``p ∝ exp(−C / T)``, the softmin of the costs. So a network is taught every
    plane at once, where the gradient of :class:`Reprojection` knows only those near its mean; and where several planes
    match equally well, all of them keep their probability. Pixels at the left border, whose match at the last plane
    lies outside of the right view, do not count.

    Args:
        task: The disparity.
        likelihood: ``planes``, one unit apart.
        inputs: The left and the right view.
        temperature: T > 0, in units of the census difference, which is in [0, 1). Default 0.03.
        smoothness: Weight ≥ 0 of the roughness of the mean disparity, which is divided by its mean. Default 0.01.

    Raises:
        ConfigError: If the likelihood is not over planes, or the network does not take two views.
        DataError: In training, if images are not wider than the largest disparity.

    Source: Kendall et al. (2017), GC-Net, for the softmin over costs; Zabih and Woodfill (1994) for the census.
    Pitfall: Points that the right view does not show match nothing, and take the disparity of what is around them.
    """

    needs_targets = False

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image", "right"),
        temperature: float = 0.03,
        smoothness: float = 0.01,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        if not hasattr(likelihood, "planes") or getattr(likelihood, "step", 0) != 1 or len(inputs) != 2:
            raise ConfigError(
                f"the objective matching is for two views and --likelihood planes, one pixel apart: it got "
                f"{', '.join(inputs)} and {likelihood}"
            )
        if not (temperature > 0 and smoothness >= 0):
            raise ConfigError(
                f"temperature is {temperature} and smoothness {smoothness}, expected above 0, and 0 or more"
            )
        self.temperature, self.smoothness = temperature, smoothness

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses ``matching`` and ``smoothness``; it logs ``entropy``, in nats."""
        left, right = self.inputs_of(batch)
        output = network(left, right).float()
        planes, width = output.shape[1], output.shape[-1]
        if width <= planes:
            raise DataError(
                f"the images are {width} pixels wide, and the {planes} planes reach as far: use larger images or crops"
            )
        with torch.autocast(left.device.type, enabled=False):
            with torch.no_grad():
                costs = plane_costs(left, right, planes)
            law = output[..., planes - 1 :].log_softmax(1)
            probs = law.exp()
            entropy = -(probs * law).sum(1).mean()
            expected = (probs * costs).sum(1).mean()
            place = torch.arange(planes, device=left.device).view(-1, 1, 1)
            mean = (output.softmax(1) * place).sum(1, keepdim=True)
            even = mean / mean.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
        losses = {
            "matching": expected - self.temperature * entropy,
            "smoothness": self.smoothness * roughness(even, left),
        }
        return losses, {"entropy": entropy.detach()}


def plane_costs(left: Tensor, right: Tensor, planes: int) -> Tensor:
    """Census differences of the left view and the right view shifted by 0, 1, …, planes − 1 px.

    Args:
        left: Images (B, C, H, W) in [0, 1].
        right: Images of the same shape.
        planes: Number of planes, less than W.

    Returns:
        (B, planes, H, W − planes + 1), for the columns of the left view from ``planes − 1`` on, all of whose matches
        lie in the right view.
    """
    one, other, width = census_signs(left), census_signs(right), left.shape[-1]
    first = planes - 1
    return torch.stack(
        [census_difference(one[..., first:], other[..., first - k : width - k]) for k in range(planes)], 1
    )
