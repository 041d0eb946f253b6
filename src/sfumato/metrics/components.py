"""Scores of regions that were found, region by region, so that a small object counts as much as a large one."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from sfumato.errors import ConfigError
from sfumato.metrics.regions import number_regions
from sfumato.predictions import check_mask

OVERLAPS = tuple(0.25 + 0.05 * step for step in range(11))
"""The overlaps from which on a region counts as found: 0.25, 0.30, …, 0.75."""


class ComponentScores(Metric):
    r"""How well found regions match the true ones, over a data set. Pixels that share a side or a corner are connected.

    ``component_siou`` is the mean over true regions k of ``|k ∩ P| / |(k ∪ P) \ A|``, where P are the found regions
    that touch k, and A the other true regions. ``component_ppv`` is the mean over found regions of their true share.
    ``component_f1`` is the mean over overlaps τ of ``2 TP / (2 TP + FN + FP)``: TP true regions have an sIoU above τ,
    FN have not, and FP found regions have a share of τ or less. Where there is nothing to count, a score is NaN.

    Found regions with fewer pixels than ``smallest_found`` are left out. Pixels of smaller true regions than
    ``smallest_true`` do not count, as if they were not labeled.

    Args:
        smallest_found: Pixels, ≥ 0; 500 for the anomaly track of SegmentMeIfYouCan, 50 for the obstacle track. Default
            0, all regions count.
        smallest_true: Pixels, ≥ 0; 100 and 10 there. Default 0.

    Raises:
        ConfigError: If a size is negative.

    Source: Chan et al. (2021), "SegmentMeIfYouCan".
    """

    full_state_update: bool | None = False
    siou: Tensor
    ppv: Tensor
    counts: Tensor

    def __init__(self, smallest_found: int = 0, smallest_true: int = 0) -> None:
        super().__init__()
        if min(smallest_found, smallest_true) < 0:
            raise ConfigError(f"smallest regions are {smallest_found} and {smallest_true} pixels, expected 0 or more")
        self.smallest = smallest_found, smallest_true
        self.add_state("siou", torch.zeros(2, dtype=torch.float64), "sum")
        self.add_state("ppv", torch.zeros(2, dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(3, len(OVERLAPS), dtype=torch.int64), "sum")

    def update(self, found: Tensor, true: Tensor, valid: Tensor | None = None) -> None:
        """Add images.

        Args:
            found: Pixels (B, H, W), bool, that were found.
            true: Pixels (B, H, W), bool, that should be found.
            valid: Pixels (B, H, W), bool, that count. Default: all.

        Raises:
            DataError: If the sizes differ.
            MissingDependencyError: If SciPy is not installed.
        """
        check_mask(true, found.shape, "found pixels")
        inside = torch.ones_like(true) if valid is None else valid
        check_mask(inside, found.shape, "found pixels")
        for one, other in zip((found & inside).cpu(), (true & inside).cpu()):
            self._add(one, other)

    def _add(self, found: Tensor, true: Tensor) -> None:
        overlaps = torch.tensor(OVERLAPS, dtype=torch.float64)
        pairs = _shared(found, true, *self.smallest)  # pixels of each found region in each true one; first the rest
        touching = pairs[1:, 1:] > 0
        sizes, own = pairs[:, 1:].sum(0), pairs[1:].sum(1)
        hit = pairs[1:, 1:].sum(0)
        beside = (touching * pairs[1:, :1]).sum(0)  # pixels of touching found regions that are in no true region
        siou = hit / (sizes + beside)
        ppv = pairs[1:, 1:].sum(1) / own
        above = (siou[:, None] > overlaps).sum(0)
        below = (ppv[:, None] <= overlaps).sum(0)
        place = self.siou.device
        self.siou += torch.stack([siou.sum(), torch.tensor(float(len(siou)))]).to(place)
        self.ppv += torch.stack([ppv.sum(), torch.tensor(float(len(ppv)))]).to(place)
        self.counts += torch.stack([above, len(siou) - above, below]).to(place)

    def compute(self) -> dict[str, Tensor]:
        """The three scores, and the numbers of true and found regions."""
        tp, fn, fp = self.counts.double()
        return {
            "component_siou": self.siou[0] / self.siou[1],
            "component_ppv": self.ppv[0] / self.ppv[1],
            "component_f1": (2 * tp / (2 * tp + fn + fp)).mean(),
            "true_components": self.siou[1],
            "found_components": self.ppv[1],
        }


def _shared(found: Tensor, true: Tensor, smallest_found: int, smallest_true: int) -> Tensor:
    """Numbers of pixels (1 + F, 1 + T), float64, of each found and each true region. Row and column 0 are the rest."""
    numbers = [number_regions(mask, corners=True) for mask in (found, true)]
    rows, columns = (int(each.max()) + 1 for each in numbers)
    counts = torch.bincount((numbers[0] * columns + numbers[1]).flatten(), minlength=rows * columns)
    pairs = counts.view(rows, columns).double()
    large = pairs.sum(1) >= smallest_found
    large[0] = False
    pairs = torch.cat([pairs[~large].sum(0, keepdim=True), pairs[large]])
    counted = pairs.sum(0) >= smallest_true
    counted[0] = True
    pairs = pairs[:, counted]
    present = pairs.sum(1) > 0
    present[0] = True
    return pairs[present]
