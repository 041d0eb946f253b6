"""Are unseen things more uncertain than known ones? Scores of uncertainty as a detector of novelty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.contracts import Prediction
from sfumato.metrics import histogram, ranking
from sfumato.metrics.scores import Scores

KINDS = ("total", "aleatoric", "epistemic")


@dataclass(frozen=True)
class OODStatistics:
    """What the scores of a set of pixels are computed from. Adding the fields of two sets gives those of their union.

    Args:
        ranks: (…, 3, 2, keys) known and novel pixels by uncertainty, one histogram for each of :data:`KINDS`.
        sums: (…, 3, 2) uncertainties summed over known and over novel pixels.
    """

    ranks: Tensor
    sums: Tensor

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
        found = {
            f"ood_{name}_{kind}": column[..., k] for name, column in columns.items() for k, kind in enumerate(KINDS)
        }
        return found | {"novel_pixels": novel[..., 0, :].sum(-1), "known_pixels": known[..., 0, :].sum(-1)}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """ROC of each uncertainty."""
        rates = {kind: ranking.roc(known, novel) for kind, (known, novel) in zip(KINDS, self.ranks)}
        return {f"roc_{kind}": {"false_positive_rate": f, "true_positive_rate": t} for kind, (f, t) in rates.items()}


def uncertainties(prediction: Prediction) -> Tensor:
    """Total, aleatoric and epistemic (B, 3, H, W) of a prediction."""
    return torch.stack([getattr(prediction, kind) for kind in KINDS], 1).float()


def pixels(maps: Tensor, valid: Tensor) -> Tensor:
    """The uncertainties (…, N) of the valid pixels of maps (…, H, W).

    Raises:
        ValueError: if one is NaN.
    """
    found = maps.flatten(-2).index_select(-1, valid.flatten().nonzero()[:, 0])
    if bool(found.isnan().any()):
        raise ValueError("an uncertainty is NaN at a valid pixel: mark such pixels as not valid")
    return found


def count(maps: Tensor, novel: Tensor) -> tuple[OODStatistics, dict[str, Tensor]]:
    """Statistics of the pixels of one image: uncertainties ``maps`` (3, N), ``novel`` (N,) bool; and the fine ranks."""
    half = novel.int() * histogram.KEYS
    fine = torch.stack([
        torch.bincount(histogram.key(u) + half, minlength=2 * histogram.KEYS).view(2, -1) for u in maps
    ])  # fmt: skip
    wide = maps.double()
    sums = torch.stack([(wide * ~novel).sum(-1), (wide * novel).sum(-1)], -1)
    return OODStatistics(histogram.coarsen(fine), sums), {"ranks": fine}


class OODScores(Scores[OODStatistics]):
    """How well each uncertainty tells novel pixels from known ones, pooled over all valid pixels of a data set.

    AUROC, average precision and the false-positive rate at 95 % found, with novel as the positive class; and the
    ratio of the mean uncertainties, novel over known.

    Source: Chan et al. (2021), SegmentMeIfYouCan: pooled over pixels.
    Pitfall: the mean over images of per-image scores (:meth:`per_image`) is another number, and leaves out the images
    that hold one kind of pixel only.
    """

    headline: tuple[str, ...] = tuple(f"ood_auroc_{kind}" for kind in KINDS)

    def __init__(self) -> None:
        nothing = count(torch.zeros(len(KINDS), 0), torch.zeros(0, dtype=torch.bool))
        super().__init__(*nothing)

    def update(self, prediction: Prediction, novel: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: of B images; only its uncertainties (B, H, W) are read.
            novel: (B, H, W) bool, True for pixels of a kind that training did not hold.
            valid: (B, H, W) bool, False for pixels to leave out.

        Raises:
            ValueError: if shapes differ, or an uncertainty is NaN at a valid pixel.
        """
        maps = uncertainties(prediction)
        if not maps[:, 0].shape == novel.shape == valid.shape:
            raise ValueError(
                f"uncertainties {tuple(maps[:, 0].shape)}, novel {tuple(novel.shape)}, valid {tuple(valid.shape)}: "
                f"expected the same (B, H, W)"
            )
        for image, new, mask in zip(maps, novel.bool(), valid.bool()):
            self.add(*count(pixels(image, mask), new[mask]))
