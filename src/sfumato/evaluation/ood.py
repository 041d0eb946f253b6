"""The comparison of uncertainties in and out of distribution, from histograms that add up."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from sfumato.evaluation.results import OODHistogram
from sfumato.metrics import OODScores, histogram
from sfumato.predictions import TaskPrediction, ValuePrediction

PARTS = ("aleatoric", "epistemic", "novelty")
BINS, SHARE = 60, 0.995  # bins of a histogram in the report, and the quantile at which they end


class OODTally(nn.Module):
    """Scores and histograms of the uncertainties of images in distribution and out of it.

    Where images mark novel pixels, these are also compared with the other pixels of the same images alone, as
    benchmarks of anomaly segmentation do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.histograms, self.marked = OODScores(), UncertaintyHistograms(), OODScores()

    def update(
        self, prediction: TaskPrediction, *, outside: bool, novel: Tensor | None = None, valid: Tensor | None = None
    ) -> None:
        """Add the prediction of a batch.

        Args:
            prediction: Prediction of B images.
            outside: Whether the images are out of distribution.
            novel: Pixels (B, *event), bool, that are out of distribution in such images. None for all pixels.
            valid: Pixels (B, *event), bool, for which ``novel`` is known. None for all pixels.
        """
        total = prediction.total
        every = torch.ones_like(total, dtype=torch.bool)
        fits = outside and novel is not None and novel.shape == total.shape
        known = every if valid is None or not fits else valid.bool()
        new = cast(Tensor, novel).bool() & known if fits else every & outside
        self.scores.update(prediction, new, known)
        self.histograms.update(prediction, new if fits else None, outside)
        if fits:
            self.marked.update(prediction, new, known)

    def compute(self) -> dict[str, OODHistogram]:
        """The histograms of each part of the uncertainty. All processes must call this."""
        found = self.histograms.compute()
        return {
            name: linear_histogram(found["pixels"][k], found["sums"][k])
            for k, name in enumerate(PARTS)
            if bool(found["pixels"][k].sum() > 0)
        }


class UncertaintyHistograms(Metric):
    """Fine histograms (see :mod:`sfumato.metrics.histogram`) of each part of the uncertainty, inside and outside.

    Uncertainties are in nats for classes and standard deviations for values, as pictures show them. Memory: 3 MB.
    """

    full_state_update: bool | None = False
    pixels: Tensor
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pixels", torch.zeros(len(PARTS), 2, histogram.KEYS, dtype=torch.int64), "sum")
        self.add_state("sums", torch.zeros(len(PARTS), 2, dtype=torch.float64), "sum")

    def update(self, prediction: TaskPrediction, chosen: Tensor | None, outside: bool) -> None:
        """Add the chosen pixels (B, *event), bool, of a prediction. None for all pixels."""
        for k, name in enumerate(PARTS):
            if (values := displayed(prediction, name)) is not None:
                values = values.flatten() if chosen is None else values[chosen]
                self.pixels[k, int(outside)] += torch.bincount(histogram.key(values), minlength=histogram.KEYS)
                self.sums[k, int(outside)] += values.sum(dtype=torch.float64)

    def compute(self) -> dict[str, Tensor]:
        """Pixels (parts, 2, keys) and sums (parts, 2)."""
        return {"pixels": self.pixels.cpu(), "sums": self.sums.cpu()}


def displayed(prediction: TaskPrediction, part: str) -> Tensor | None:
    """A part of the uncertainty (B, *event) as pictures show it: variances as standard deviations. None without it."""
    values: Tensor | None = getattr(prediction, part, None)
    if values is None:
        return None
    spread = isinstance(prediction, ValuePrediction) and part != "novelty"
    return values.detach().float().sqrt() if spread else values.detach().float()


def linear_histogram(pixels: Tensor, sums: Tensor) -> OODHistogram:
    """Fine histograms as 60 bins of equal width, which end at the larger of the two 99.5 % quantiles.

    The pixels of a fine key, which is at most 0.8 % wide, are spread evenly over it.

    Args:
        pixels: Pixels (2, keys) inside and outside by uncertainty.
        sums: Sums (2,) of these uncertainties.
    """
    ends = (torch.arange(histogram.KEYS + 1) << 15).int().view(torch.float32).double()
    ends = ends.where(ends >= 0, math.inf)  # the last keys hold what is not finite
    upto = torch.nn.functional.pad(pixels.double().cumsum(-1), (1, 0))
    totals = upto[:, -1]
    last = [int(torch.searchsorted(row, SHARE * total)) for row, total in zip(upto, totals) if total > 0]
    top = float(ends[max(last, default=0)])
    top = top if 1e-30 < top < math.inf else 1.0  # the first key holds all values below 1e-40
    edges = torch.linspace(0, top, BINS + 1, dtype=torch.float64)
    counts = torch.stack([_upto(edges, ends, row) for row in upto]).diff(dim=-1)
    counts[:, -1] += totals - counts.sum(-1)
    means = (sums.double() / totals).tolist()
    rows = counts.clamp_min(0).tolist()
    return OODHistogram(tuple(edges.tolist()), tuple(rows[0]), tuple(rows[1]), (means[0], means[1]))


def _upto(edges: Tensor, ends: Tensor, upto: Tensor) -> Tensor:
    """How many pixels lie below each edge (m,): linear between the ends of the keys (keys + 1,). Key 0 counts as 0."""
    after = torch.searchsorted(ends, edges.clamp_min(float(ends[1])), right=True).clamp_max(histogram.KEYS - 1)
    low, high = ends[after - 1], ends[after]
    share = ((edges - low) / (high - low)).clamp(0, 1)
    found = upto[after - 1].lerp(upto[after], share)
    return found.where(edges > 0, 0.0)
