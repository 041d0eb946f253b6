"""Depth, disparity and flow without labels: other pictures, warped by the prediction, look like the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from sfumato.contracts import Inputs, Likelihood
from sfumato.errors import ConfigError
from sfumato.geometry import sample_at
from sfumato.objectives.base import BaseObjective, Losses, NothingToLearnError, TargetsOf, TrainingPlan
from sfumato.objectives.photometric import roughness
from sfumato.objectives.views import Seen, views_of
from sfumato.predictions import ValueMoments

SAME = 1e-3
"""Images whose mean absolute difference is less than this are the same image."""

REPR_WEIGHT = 0.1

SMALLEST = 8
"""Side of the smallest image of a pyramid, px."""


class Reprojection(BaseObjective):
    """The photometric error of other pictures that the predicted means warp to the image (``reprojection``).

    Depth learns from the right view of a stereo pair or from other frames of a video, with poses that are known or
    learned; disparity from both views; flow from the next picture. The error of a pixel is the least over all sources
    that show it: ``0.85 (1 − SSIM) / 2 + 0.15 |difference|``, for flow that of the census transform. It is averaged
    over the pixels that are seen, at each level of an image pyramid. Coarse levels reach further and are less exact.
    Each counts as much as it has pixels, a quarter of the one before.

    The predicted standard deviation learns the photometric error, too. For depth it is that of the relative error, for
    disparity and flow that in pixels. A photometric error is no error of depth, so only its order means something until
    the run is calibrated.

    Args:
        task: A task whose target is a :class:`~sfumato.targets.Depth`, ``Disparity`` or ``VectorMap``.
        likelihood: The meaning of the network's output.
        inputs: The sample entries that the network takes, in order.
        sources: The pictures that are warped. Default ``right`` for depth and disparity, ``next`` for flow. Depth may
            have several, such as ``previous`` and ``next``.
        poses: For depth: ``known`` (the default) to read ``world_from_camera`` and ``world_from_SOURCE``, ``learned``
            for a network that learns them. The intrinsics are read in both cases.
        uncertainty: What the standard deviation u learns of the photometric error F: ``repr`` for ``0.1 |u − F|``,
            ``log`` for ``F / u + log u`` in the place of F. Default ``repr``.
        smoothness: Weight ≥ 0 of the roughness of inverse depth, disparity or flow, which is divided by its mean.
            Default 0.001 for depth, else 0.01.
        consistency: Weight ≥ 0 of the disagreement with the prediction for the other picture, in [0, 1]. Above 0 that
            is predicted, too, and decides which pixels are seen. Default 0 for depth, 0.1 for disparity, 0.05 for flow.
        auto_mask: Whether pixels are left out where the picture that is not warped fits better, as where a thing moves
            with the camera. Default True for depth from frames of a video.
        levels: Number of levels of the image pyramid, ≥ 1, each with half of the resolution. Images of less than 8 px
            are left out. Default 3.

    Raises:
        ConfigError: For arguments that do not fit the task, or a method with a loss of its own.
        DataError: In training, if an entry is missing, no pixel of a batch is seen in any source, the pictures of a
            batch are all the same, its cameras do not move, or intrinsics do not fit.

    Source: Godard et al. (2019), monodepth2, for the error, the mask and the smoothness; Bian et al. (2019), SC-Depth,
    for the consistency of depth; Meister et al. (2018), UnFlow, for flow; Poggi et al. (2020) for the uncertainties.
    Pitfall: With learned poses the unit of depth is free. Compare such depths after scaling them. A video in which the
    camera only turns teaches no depth; with learned poses that cannot be noticed.
    """

    needs_targets = False
    own_loss = "this method has a loss of its own, which needs labels: choose another --method"

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        sources: Sequence[str] | str = (),
        poses: str = "",
        uncertainty: str = "repr",
        smoothness: float | None = None,
        consistency: float | None = None,
        auto_mask: bool | None = None,
        levels: int = 3,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        chosen = (sources,) if isinstance(sources, str) else tuple(sources)
        arguments = {"poses": poses} if poses else {}
        self.views, self.consistency = views_of(getattr(task, "target", None), chosen, inputs, consistency, arguments)
        self.further, self.moves = self.views.further, self.views.moves
        self.smoothness = self.views.smoothness if smoothness is None else smoothness
        self.auto_mask = self.views.auto_mask if auto_mask is None else auto_mask
        self.uncertainty, self.levels = uncertainty, levels
        if uncertainty not in ("repr", "log"):
            raise ConfigError(f"uncertainty is {uncertainty!r}, expected repr or log")
        if not (self.smoothness >= 0 and self.consistency >= 0 and levels >= 1):
            raise ConfigError(
                f"smoothness is {self.smoothness}, consistency {self.consistency} and levels {levels}, expected 0 or "
                "more, and at least 1 level"
            )

    @classmethod
    def build(cls, task: TargetsOf, likelihood: Likelihood[object], plan: TrainingPlan) -> Self:
        """The objective of a plan.

        Raises:
            ConfigError: If the method has a loss of its own, which needs labels.
        """
        found = super().build(task, likelihood, plan)
        (height, width), crop = plan.config.size, plan.config.crop
        if any(crop):  # a crop has left out so much of the image around its principal point
            found.views.beyond = max(0, height - crop[0]), max(0, width - crop[1])
        return found

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses ``photometric``, ``smoothness``, and ``uncertainty`` and ``consistency`` where they are used.

        It logs ``seen``, the share of pixels that a source shows and that no mask leaves out.
        """
        image = self.views.of(batch, self.inputs[0])
        moments = self._moments(network, self.inputs_of(batch))
        mean = moments.mean
        with torch.autocast(image.device.type, enabled=False):
            seen = self.views.seen(mean, batch, lambda inputs: self._moments(network, inputs).mean)
            self._check_differ(image, seen)
            spread = self.views.spread(mean, moments.variance)
            side = min(image.shape[-2:])
            factors = [2**level for level in range(self.levels) if level == 0 or side >> level >= SMALLEST]
            levels = [self._level(image, seen, spread, factor) for factor in factors]
            shares = [factor**-2.0 for factor in factors]
            losses = {"photometric": _weighted([each for each, _, _ in levels], shares)}
            losses["smoothness"] = self.smoothness * roughness(self.views.even(mean), image)
            _, finest, share = levels[0]
            if self.uncertainty == "repr":
                losses["uncertainty"] = REPR_WEIGHT * finest
            if self.consistency:
                losses["consistency"] = self.consistency * _mean_disagreement(seen)
        return losses, {"seen": share}

    def _moments(self, network: nn.Module, inputs: Inputs) -> ValueMoments:
        found = self.likelihood.moments(network(*inputs).float())
        if not isinstance(found, ValueMoments):
            raise ConfigError(f"the objective reprojection is for values, and {self.likelihood} is not")
        return found

    def _level(self, image: Tensor, seen: Sequence[Seen], spread: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at one level, how far the standard deviation is from the error, and the share of pixels seen."""
        small = avg_pool2d(image, factor)
        errors, weights, still = [], [], []
        for each in seen:
            source = avg_pool2d(each.source, factor)
            pixels = (avg_pool2d(each.pixels, factor) + 0.5) / factor - 0.5
            warped, inside = sample_at(source, pixels)
            whole = avg_pool2d((each.weight > 0).float()[:, None], factor)[:, 0] > 0.999
            weights.append(avg_pool2d(each.weight[:, None], factor)[:, 0] * (whole & inside))
            errors.append(self.views.error(small, warped))
            still.append(self.views.error(small, source))
        weight, error = torch.stack(weights), torch.stack(errors)
        error, best = error.where(weight > 0, torch.inf).min(0)
        weight = weight.gather(0, best[None])[0]
        if self.auto_mask:
            weight = weight * (error < torch.stack(still).amin(0))
        # Replaced, not only left out of the sum: 0 · inf is NaN. A coarse level may have no block that is seen.
        error, total = error.where(weight > 0, 0.0), weight.sum()
        if factor == 1 and not bool(total > 0):
            raise NothingToLearnError(
                "no pixel of this batch is seen in another picture and moves in it: the video may be static, the "
                "frames too far apart, or the poses or intrinsics wrong. Check the data, or use a larger batch"
            )
        u = avg_pool2d(spread[:, None], factor)[:, 0]
        away = ((u - error.detach()).abs() * weight).sum() / total.clamp_min(1e-6)
        if self.uncertainty == "log":
            error = error / u + u.log()
        return (error * weight).sum() / total.clamp_min(1e-6), away, (weight > 0).float().mean()

    def _check_differ(self, image: Tensor, seen: Sequence[Seen]) -> None:
        """Refuse a batch whose pictures are all the same."""
        most = torch.stack([(image - each.source).abs().mean((1, 2, 3)).max() for each in seen]).max()
        if float(most) < SAME:
            raise NothingToLearnError(
                f"the image and {', '.join(self.views.sources)} are the same in every sample of this batch: a static "
                "video teaches no depth and no motion. Use frames in which the camera moves, or a larger batch"
            )


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * value for value, weight in zip(values, weights)]).sum() / sum(weights)


def _mean_disagreement(seen: Sequence[Seen]) -> Tensor:
    """The mean disagreement over the pixels that are seen. They are not empty: the photometric error needs them."""
    total, count = torch.zeros(()), torch.zeros(())
    for each in seen:
        if each.disagreement is not None:
            total = total.to(each.weight) + (each.disagreement * (each.weight > 0)).sum()
            count = count.to(each.weight) + (each.weight > 0).sum()
    return total / count
