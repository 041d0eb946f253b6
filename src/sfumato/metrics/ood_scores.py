"""Does uncertainty detect what training did not show? Scores of each uncertainty as a detector of novel pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics import histogram, ranking
from sfumato.metrics.pixels import select_uncertainties, uncertainty_maps
from sfumato.metrics.scores import Scores
from sfumato.predictions import UNCERTAINTIES, ClassPrediction, ValuePrediction, check_mask

KINDS = (*UNCERTAINTIES, "novelty")
"""What pixels are ranked by. The novelty score is there only if the method gives one."""


@dataclass(frozen=True)
class OODStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        ranks: Known and novel pixels by uncertainty (…, 4, 2, keys), one histogram for each of :data:`KINDS`.
        sums: Sums of the uncertainties over known and over novel pixels (…, 4, 2).
    """

    ranks: Tensor
    sums: Tensor

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the predictions have."""
        return KINDS if bool(self.ranks[..., -1, :, :].any()) else UNCERTAINTIES

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        known, novel = self.ranks.unbind(-2)
        mean = (self.sums / self.ranks.sum(-1).double()).unbind(-1)
        columns = {
            "auroc": ranking.auroc(known, novel),
            "aupr": ranking.aupr(known, novel),
            "fpr95": ranking.fpr95(known, novel),
            "ratio": mean[1] / mean[0],
        }
        kinds = list(enumerate(self.kinds))
        found = {f"ood_{name}_{kind}": column[..., k] for name, column in columns.items() for k, kind in kinds}
        return found | {"novel_pixels": novel[..., 0, :].sum(-1), "known_pixels": known[..., 0, :].sum(-1)}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """ROC curve of each uncertainty."""
        rates = {kind: ranking.roc(known, novel) for kind, (known, novel) in zip(self.kinds, self.ranks)}
        return {f"roc_{kind}": {"false_positive_rate": f, "true_positive_rate": t} for kind, (f, t) in rates.items()}


def count(maps: Tensor, novel: Tensor) -> tuple[OODStatistics, dict[str, Tensor]]:
    """Statistics of the pixels of one image.

    Args:
        maps: Uncertainties (3, N), or (4, N) with the novelty score.
        novel: Whether each pixel is novel (N,), bool.

    Returns:
        The statistics with coarse histograms, and the fine histograms ``ranks`` (4, 2, 65536).
    """
    half = novel.int() * histogram.KEYS
    fine = torch.zeros(len(KINDS), 2, histogram.KEYS, dtype=torch.int64, device=maps.device)
    sums = torch.zeros(len(KINDS), 2, dtype=torch.float64, device=maps.device)
    for k, u in enumerate(maps):
        fine[k] = torch.bincount(histogram.key(u) + half, minlength=2 * histogram.KEYS).view(2, -1)
        sums[k] = torch.stack([(u.double() * ~novel).sum(), (u.double() * novel).sum()])
    coarse = torch.cat([histogram.coarsen(fine[:-1]), histogram.coarsen_wide(fine[-1:])])
    return OODStatistics(coarse, sums), {"ranks": fine}


class OODScores(Scores[OODStatistics]):
    """How well each uncertainty separates novel pixels from known ones, pooled over all valid pixels of a data set.

    AUROC, average precision and the false-positive rate at 95 % recall, with novel as the positive class; and the ratio
    of the mean uncertainties, novel over known. If predictions carry a novelty score, it is scored too.

    Source: Chan et al. (2021), SegmentMeIfYouCan: pooled over pixels.
    Pitfall: The mean over images of per-image scores (:meth:`per_image`) is another number, and leaves out images with
    one kind of pixel only.
    """

    target: ClassVar[str] = "any"
    headline: tuple[str, ...] = tuple(f"ood_auroc_{kind}" for kind in UNCERTAINTIES)
    ranks: Tensor

    def __init__(self) -> None:
        super().__init__(*count(torch.zeros(len(KINDS), 0), torch.zeros(0, dtype=torch.bool)))

    def thresholds(self) -> dict[str, float]:
        """For each kind the uncertainty from which on pixels count as novel with the largest F1.

        All processes must call this.
        """
        with self.sync_context():
            kinds = self._pooled().kinds
            keys = ranking.best_f1(*self.ranks.unbind(-2)).cpu()
        values = (keys << 15).int().view(torch.float32)
        return {kind: float(values[k]) for k, kind in enumerate(kinds)}

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores; they are the same for every task."""
        return cls()

    def update(self, prediction: ClassPrediction | ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images. Only their uncertainties (B, *event) are read.
            target: (B, *event) bool, True for novel pixels, of a kind that the training data do not show.
            valid: (B, *event) bool, False for pixels to leave out.

        Raises:
            DataError: If the shapes differ.
            NotFiniteError: If an uncertainty is NaN at a valid pixel.
        """
        maps = uncertainty_maps(prediction)
        if prediction.novelty is not None:
            maps = torch.cat([maps, prediction.novelty[:, None].float()], 1)
        if maps[:, 0].shape != target.shape:
            raise DataError(
                f"uncertainties {tuple(maps[:, 0].shape)}, target {tuple(target.shape)}: expected the same (B, H, W)"
            )
        check_mask(valid, target.shape, "target")
        for image, novel, mask in zip(maps, target.bool(), valid):
            self.add(*count(select_uncertainties(image, mask), novel[mask]))
