"""How steady predictions of a video are, on pixels that flow can follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.geometry import sample_at, sample_nearest
from sfumato.metrics import confusion
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import ClassPrediction, TaskPrediction, check_mask


@dataclass(frozen=True)
class TemporalStatistics:
    """Statistics of pixels of a frame and of the one before it. Adding the fields of two sets gives those of both.

    Args:
        overlap: Counts (…, 3, K) of :func:`sfumato.metrics.confusion.overlap`, present label against the one before.
            0 for values.
        pixels: Number of pixels that are followed, and of all (…, 2).
        changes: Sums (…, 2) over the followed pixels: the change of the best guess (1 for another class, else the
            length of the difference), and that of the uncertainty.
    """

    overlap: Tensor
    pixels: Tensor
    changes: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        followed, total = self.pixels.double().unbind(-1)
        best, uncertainty = (self.changes / followed[..., None]).unbind(-1)
        found = {"uncertainty_flicker": uncertainty, "followed": followed / total}
        if self.overlap.shape[-1] == 1:
            return {"value_flicker": best, **found}
        consistency = confusion.iou(self.overlap).nanmean(-1)
        return {"temporal_consistency": consistency, "label_flicker": best, **found}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


class TemporalScores(Scores[TemporalStatistics]):
    """How steady predictions are from frame to frame, over all pixels that flow can follow.

    For classes ``temporal_consistency``, the mIoU of the labels with those of the last frame at the same points, and
    ``label_flicker``, the share of points that change their label. For values ``value_flicker``, the mean length of the
    change, in the unit. For both ``uncertainty_flicker``, the mean change of the total uncertainty, in nats (for values
    of the standard deviation, in the unit), and ``followed``, the share of pixels that count.

    Args:
        classes: K; 1 for values. Default 1.

    Source: Liu et al. (2020), "Efficient semantic video segmentation with per-frame inference", for the consistency.
    Pitfall: A constant prediction is perfectly steady. Read these numbers only beside a score of accuracy.

    >>> still = torch.stack(torch.meshgrid(torch.arange(2.0), torch.arange(2.0), indexing="xy"))[None]
    >>> def certain(labels):
    ...     return ClassPrediction(torch.eye(2)[torch.tensor([labels])].movedim(-1, 1), torch.zeros(1, 2, 2))
    >>> scores = TemporalScores(2)
    >>> scores.update(certain([[0, 1], [1, 1]]), certain([[0, 0], [1, 1]]), still, torch.ones(1, 2, 2, dtype=bool))
    >>> scores.compute()["label_flicker"].item(), round(scores.compute()["temporal_consistency"].item(), 3)
    (0.25, 0.583)
    """

    target: ClassVar[str] = "any"

    def __init__(self, classes: int = 1) -> None:
        names = ("value_flicker",) if classes == 1 else ("temporal_consistency", "label_flicker")
        self.classes, self.headline = classes, (*names, "uncertainty_flicker", "followed")
        none = torch.zeros(0, dtype=torch.int64)
        super().__init__(_statistics(none, none, torch.zeros(0), torch.zeros(0), 0, classes), {})

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores, with as many classes as the task has."""
        return cls(len(class_names(task)) if task.kind == "class" else 1)

    def update(self, prediction: TaskPrediction, earlier: TaskPrediction, pixels: Tensor, followed: Tensor) -> None:
        """Add a frame.

        Args:
            prediction: The prediction of B frames, maps (B, …, H, W).
            earlier: Those of the frames before them, of the same kind and shape.
            pixels: Where the earlier frames show each pixel (B, 2, H, W), px, as :func:`sfumato.geometry.follow` gives
                it.
            followed: (B, H, W) bool, whether that can be trusted.

        Raises:
            DataError: If the predictions differ in kind or shape.
        """
        if type(prediction) is not type(earlier) or prediction.channels.shape != earlier.channels.shape:
            raise DataError(f"{prediction!r} and {earlier!r} are of no two frames of one video: expected one shape")
        check_mask(followed, prediction.total.shape, "prediction")
        if isinstance(prediction, ClassPrediction) and isinstance(earlier, ClassPrediction):
            now, before = prediction.label, sample_nearest(earlier.label, pixels)
            change, spreads = (now != before).double(), (prediction.total, earlier.total)
        else:
            now = before = torch.zeros_like(prediction.total, dtype=torch.int64)
            change = (prediction.best - sample_at(earlier.best, pixels)[0]).norm(dim=1).double()
            spreads = prediction.total.sqrt(), earlier.total.sqrt()
        flicker = (spreads[0] - sample_at(spreads[1][:, None], pixels)[0][:, 0]).abs().double()
        for n, b, c, f, mask in zip(now, before, change, flicker, followed):
            self.add(_statistics(n[mask], b[mask], c[mask], f[mask], mask.numel(), self.classes), {})


def _statistics(
    now: Tensor, before: Tensor, change: Tensor, flicker: Tensor, pixels: int, classes: int
) -> TemporalStatistics:
    """Statistics of the pixels (N,) of a frame that are followed, out of so many."""
    changes = torch.stack([change.sum(dtype=torch.float64), flicker.sum(dtype=torch.float64)])
    counts = torch.tensor([len(now), pixels], device=now.device)
    return TemporalStatistics(confusion.overlap(confusion.confusion(now, before, classes)), counts, changes)
