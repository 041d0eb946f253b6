"""How far apart are the predicted and the true surface of a region?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato.errors import DataError
from sfumato.metrics.by_class import ScoresByClass, by_class
from sfumato.predictions import ClassPrediction

BLOCK = 1 << 22  # numbers that are computed together


@dataclass(frozen=True)
class SurfaceStatistics:
    """Sums over images. Adding the fields of two sets gives those of their union.

    Args:
        both: Images in which both the prediction and the target show the class (…, K).
        one: Images in which only one of the two shows it (…, K).
        sums: Sums over the images with both of the average distance and of the 95 % distance, pixels (…, 2, K).
    """

    both: Tensor
    one: Tensor
    sums: Tensor

    def scores(self) -> dict[str, Tensor]:
        """Means over images (…)."""
        average, far = (self.sums / self.both.double()[..., None, :]).unbind(-2)
        missed = self.one.double() / (self.one + self.both)
        return {**by_class("assd", average), **by_class("hd95", far), **by_class("surface_missed", missed)}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


class SurfaceDistance(ScoresByClass[SurfaceStatistics]):
    """Distances between the surfaces of predicted and true regions of each class, pixels (``surface-distance``).

    The surface of a region is its pixels with one of four neighbors outside it; the border of the image and of the
    valid pixels counts as outside. Each surface pixel has a distance to the nearest one of the other surface. Of each
    image and class, ``assd`` is the mean of these distances over both surfaces (average symmetric surface distance),
    and ``hd95`` is the larger one of the two 95 % quantiles (of the prediction to the target, and back). The scores are
    means over the images in which both show the class. ``surface_missed`` is the share of images with only one of them,
    in which no distance is defined.

    Source: Heimann et al. (2009), "Comparison and evaluation of methods for liver segmentation from CT datasets", for
    the average distance; Huttenlocher et al. (1993) for the Hausdorff distance.
    Pitfall: A region that was missed altogether is in ``surface_missed`` only.
    """

    measures: ClassVar[tuple[str, ...]] = ("assd", "hd95", "surface_missed")

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        """Fresh scores for classes with these names."""
        none = torch.zeros(len(names), dtype=torch.int64)
        return cls(names, SurfaceStatistics(none, none, torch.zeros(2, len(names), dtype=torch.float64)), {})

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the images of a batch.

        Args:
            prediction: Predictions of B images.
            target: Classes (B, H, W), anything where not ``valid``.
            valid: (B, H, W) bool.

        Raises:
            DataError: If the shapes differ, a valid target is no class, or the prediction is no map.
        """
        self.checked(prediction, target, valid)
        if target.ndim != 3:
            raise DataError(f"target {tuple(target.shape)}: surfaces need maps (B, H, W)")
        for label, classes, mask in zip(prediction.label, target, valid):
            regions = [((label == k) & mask, (classes == k) & mask) for k in range(len(self.names))]
            found = [distances(ours, theirs) for ours, theirs in regions]
            both = torch.tensor([each is not None for each in found])
            one = torch.tensor([bool(ours.any()) != bool(theirs.any()) for ours, theirs in regions])
            sums = torch.tensor([each or (0.0, 0.0) for each in found], dtype=torch.float64).T
            place = mask.device
            self.add(SurfaceStatistics(both.long().to(place), one.long().to(place), sums.to(place)), {})


def surface(region: Tensor) -> Tensor:
    """The pixels of a region (H, W) that have one of four neighbors outside it, (H, W) bool."""
    wide = pad(region, (1, 1, 1, 1), value=False)
    return region & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def distances(ours: Tensor, theirs: Tensor) -> tuple[float, float] | None:
    """Average symmetric and 95 % distance of the surfaces of two regions (H, W), pixels; None if one is empty.

    >>> one, two = torch.zeros(5, 9, dtype=torch.bool), torch.zeros(5, 9, dtype=torch.bool)
    >>> one[2, 1], two[2, 5] = True, True
    >>> distances(one, two)
    (4.0, 4.0)
    """
    a, b = surface(ours), surface(theirs)
    if not bool(a.any()) or not bool(b.any()):
        return None
    there, back = _nearest(a, b), _nearest(b, a)
    far = max(float(each.kthvalue(max(1, round(0.95 * len(each)))).values) for each in (there, back))
    return float((there.sum() + back.sum()) / (len(there) + len(back))), far


def _nearest(points: Tensor, others: Tensor) -> Tensor:
    """The distance (n,) of each of the n points of a map (H, W) to the nearest point of another one, float64."""
    height, width = others.shape
    rows = torch.arange(height, device=others.device, dtype=torch.float32)[:, None]
    above = rows.where(others, -torch.inf).cummax(0).values
    below = rows.where(others, torch.inf).flip(0).cummin(0).values.flip(0)
    vertical = torch.minimum(rows - above, below - rows).square_()  # to the nearest point of the same column
    columns = torch.arange(width, device=others.device, dtype=torch.float32)
    nearest = [
        (vertical[part[:, 0]] + (part[:, 1:] - columns).square()).amin(1)
        for part in points.nonzero().split(max(1, BLOCK // width))
    ]
    return torch.cat(nearest).double().sqrt()
