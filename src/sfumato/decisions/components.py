"""Scores of regions that were found, region by region, so that a small object counts as much as a large one."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from sfumato.decisions.regions import label_regions
from sfumato.predictions import check_mask

OVERLAPS = tuple(0.25 + 0.05 * step for step in range(11))
"""The overlaps from which on a region counts as found: 0.25, 0.30, …, 0.75."""


class ComponentScores(Metric):
    r"""How well found regions match the true ones, over a data set. Regions are connected where pixels share a side.

    ``component_siou`` is the mean over true regions k of ``|k ∩ P| / |(k ∪ P) \ A|``, where P are the found regions
    that touch k, and A the other true regions. ``component_ppv`` is the mean over found regions of their true share.
    ``component_f1`` is the mean over overlaps τ of ``2 TP / (2 TP + FN + FP)``: TP true regions have an sIoU above τ,
    FN have not, and FP found regions have a share of τ or less. Where there is nothing to count, a score is NaN.

    Source: Chan et al. (2021), "SegmentMeIfYouCan". Their code leaves out small regions; this class counts all.
    """

    full_state_update: bool | None = False
    siou: Tensor
    ppv: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
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
        pairs = _shared(found, true)  # pixels of each found region in each true one; the first of both is the rest
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


def _shared(found: Tensor, true: Tensor) -> Tensor:
    """Numbers of pixels (1 + F, 1 + T), float64, of each found and each true region. Row and column 0 are the rest."""
    numbers = []
    for mask in (found, true):
        regions = label_regions(mask.long())  # regions outside the mask have the first numbers
        outside = int(regions[~mask].max()) + 1 if bool((~mask).any()) else 0
        numbers.append(torch.where(mask, regions - outside + 1, 0))
    rows, columns = (int(each.max()) + 1 for each in numbers)
    counts = torch.bincount((numbers[0] * columns + numbers[1]).flatten(), minlength=rows * columns)
    return counts.view(rows, columns).double()
