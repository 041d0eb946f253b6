"""Students that benchmarks/students.py compares with those of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.likelihoods import DistilledClasses
from sfumato.models import UNet
from sfumato.models.unet import unit
from sfumato.predictions import ClassMoments, entropy

SHIFT = 4.0  # of h: the share of the largest epistemic part begins at sigmoid(−4) = 0.018 in the place of 0.5
WIDTH = 8  # channels of each depth that the last layer reads


class SmallStart(DistilledClasses):
    """:class:`DistilledClasses` with ``h − 4`` in the place of h, so that it begins with a small epistemic part."""

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """As that of :class:`DistilledClasses`."""
        return super().nll(_shifted(output), target, valid)

    def moments(self, output: Tensor) -> ClassMoments:
        """As those of :class:`DistilledClasses`."""
        return super().moments(_shifted(output))


def _shifted(output: Tensor) -> Tensor:
    return torch.cat([output[:, :-1], output[:, -1:] - SHIFT], 1)


class DirichletStudent(DistilledClasses):
    """:class:`DistilledClasses` that predicts a Dirichlet distribution with the teacher's epistemic part.

    The probabilities are ``p = softmax(f)``, and the concentration is ``S = e^(3 + h)``. The aleatoric part is the mean
    entropy of ``Dirichlet(S p)``, ``Σ p_k (ψ(S + 1) − ψ(S p_k + 1))``, and the epistemic part is the rest of the total.
    S is fitted so that the epistemic part is that of the teacher. It is never more than the total.

    Source: Malinin et al. (2020), "Ensemble distribution distillation", who fit it by the likelihood of the draws.
    """

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """That of :class:`DistilledClasses`, with the share of the Dirichlet distribution."""
        detached = torch.cat([output[:, :-1].detach(), output[:, -1:]], 1)  # the classes learn from labels alone
        share = (self._spread(detached) / math.log(self.classes)).clamp(1e-6, 1 - 1e-6)
        return super().nll(torch.cat([output[:, :-1], share.logit()[:, None]], 1), target, valid)

    def _spread(self, output: Tensor) -> Tensor:
        probs = output[:, :-1].softmax(1)
        concentration = (3 + output[:, -1:].clamp(-10, 10)).exp()
        terms = probs * (torch.digamma(concentration + 1) - torch.digamma(concentration * probs + 1))
        return (entropy(probs) - terms.sum(1)).clamp_min(0)


class DeepHeadUNet(UNet):
    """:class:`UNet` whose head also reads 8 projected channels of the coarsest features and of each decoder block."""

    def __init__(
        self, channels_out: int, widths: Sequence[int] = (16, 32, 64, 96, 144), in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(channels_out, widths, in_channels, dropout)
        self.depths = nn.ModuleList(unit(width, WIDTH, kernel=1) for width in (widths[-1], *reversed(widths[:-1])))
        self.head = nn.Conv2d(widths[0] + WIDTH * len(self.depths), channels_out, 1)

    def decode(self, detail: Tensor, skips: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """As that of :class:`UNet`."""
        *skips, deepest = skips
        x, found = self.center(deepest), []
        found.append(x)
        for rise in reversed(self.decoder):
            x = rise(x, skips.pop())
            found.append(x)
        whole = detail.shape[-2:]

        def large(features: Tensor) -> Tensor:
            return interpolate(features, whole, mode="bilinear", align_corners=False)

        parts = [large(project(each)) for project, each in zip(self.depths, found, strict=True)]
        x = self.sharpen(torch.cat([detail, large(x)], 1))
        return self.head(torch.cat([x, *parts], 1)[..., : size[0], : size[1]])
