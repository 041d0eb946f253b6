"""Labels of some frames, and predictions that agree between two frames of a video."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import follow, pixel_grid, sample_at
from sfumato.objectives.base import BaseObjective, Losses, TargetsOf
from sfumato.objectives.loss_sum import WithProbabilities
from sfumato.objectives.nll import NLL
from sfumato.predictions import ValueMoments

FLOWS = ("dis", "known")
LEAST = 1e-12  # variance, so that a certain prediction divides by no zero


class TemporalConsistency(BaseObjective):
    """The negative log likelihood, and the disagreement of two frames of a video (``temporal-consistency``).

    The loss ``consistency`` is ``weight · Σ t d / Σ t`` over the pixels, where t is how far the other frame can be
    trusted to show the same point, and d the disagreement of both predictions there: ``Σ_k (p_k − p'_k)²`` for classes,
    in [0, 2], and ``Σ (μ − μ')² / (σ² + σ'²)`` for values, where the variances get no gradient. Frames without labels
    count in this loss only. Pixels are followed by optical flow.

    Args:
        task: What is predicted.
        likelihood: The meaning of the network's output.
        inputs: The sample entries that the network takes: one image.
        other: The entry of the other frame. Default ``next``.
        flow: ``dis`` to compute flow and trust from both frames with OpenCV, see :func:`sfumato.geometry.follow`;
            ``known`` to read the entries ``flow`` and ``flow_valid``, from the image to ``next``. Default ``dis``.
        weight: Factor ≥ 0 of the disagreement. Default 1.

    Raises:
        ConfigError: For several tasks, a network of several inputs, a method with a loss of its own, or an argument
            that is out of range.
        DataError: In training, if the samples lack the other frame or its flow.

    Source: Liu et al. (2020), "Efficient semantic video segmentation with per-frame inference", for classes.
    Pitfall: Constant predictions agree perfectly. A large weight, or few labels, teach them.
    """

    own_loss: str = "this method has a loss of its own, which has no part for two frames: choose another"

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        other: str = "next",
        flow: str = "dis",
        weight: float = 1.0,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        if len(inputs) != 1:
            raise ConfigError(f"temporal-consistency is for networks that take one image, this one takes {inputs}")
        if flow not in FLOWS or (flow == "known" and other != "next"):
            raise ConfigError(f"flow is {flow!r} to {other!r}, expected dis, or known to next")
        if not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
            raise ConfigError(f"weight is {weight!r}, expected a number of at least 0")
        self.nll = NLL(task, likelihood, inputs)
        self.other, self.flow, self.weight = other, flow, weight
        self.further = (*self.nll.further, other, *(("flow", "flow_valid") if flow == "known" else ()))

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses ``nll`` and ``consistency``. It logs ``followed``, the mean trust."""
        image, other = batch[self.inputs[0]], self._entry(batch, self.other)
        outputs = network(image).float(), network(other).float()  # not joined: some methods divide a batch by members
        pixels, trust = self._followed(image, other, batch)
        with torch.autocast(image.device.type, enabled=False):
            apart = self._disagreement(*outputs, pixels)
            consistency = self.weight * (apart * trust).sum() / trust.sum().clamp_min(1)
        return {"nll": self.nll.of_output(outputs[0], batch), "consistency": consistency}, {"followed": trust.mean()}

    def _disagreement(self, here: Tensor, there: Tensor, pixels: Tensor) -> Tensor:
        """How much the predictions of two outputs differ at the same points (B, H, W)."""
        if isinstance(self.likelihood, WithProbabilities):
            first, second = self.likelihood.probabilities(here), self.likelihood.probabilities(there)
            return (first - sample_at(second, pixels)[0]).square().sum(1)
        ours, theirs = (self.likelihood.moments(output) for output in (here, there))
        if not (isinstance(ours, ValueMoments) and isinstance(theirs, ValueMoments)):
            raise ConfigError(
                f"temporal-consistency needs probabilities with a gradient, which {self.likelihood} lacks"
            )
        variance = ours.variance + sample_at(theirs.variance, pixels)[0]
        square = (ours.mean - sample_at(theirs.mean, pixels)[0]).square()
        return (square / variance.detach().clamp_min(LEAST)).sum(1)

    @torch.no_grad()
    def _followed(self, image: Tensor, other: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the other frame shows each pixel (B, 2, H, W), and how far that can be trusted (B, H, W)."""
        if self.flow == "dis":
            return follow(image, other)
        flow = self._entry(batch, "flow")
        grid = pixel_grid((flow.shape[-2], flow.shape[-1]), flow)
        return flow + grid, self._entry(batch, "flow_valid").to(flow)

    def _entry(self, batch: Mapping[str, Tensor], name: str) -> Tensor:
        if name not in batch:
            raise DataError(
                f"the samples have no {name!r}, which the objective temporal-consistency reads: they have "
                f"{', '.join(sorted(batch))}. Name another frame with --objective-args, or add it to the data"
            )
        return batch[name]
