"""Scores as an object: a thin torchmetrics.Metric over rows of statistics, one for each image."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.metrics import bootstrap
from sfumato.metrics.rows import Statistics, fields, pack, unpack

S = TypeVar("S", bound=Statistics)

BLOCK = 64
"""Rows that are joined to one tensor."""


class Scores(Metric, Generic[S]):
    """Scores over all valid pixels of a data set, in bounded memory per pixel.

    What is kept adds up: one row of statistics per image, and one set of fine histograms for the whole. Hence the
    scores do not depend on the batch size, on the order of the images, or on how many processes share them.
    """

    full_state_update: bool | None = False
    headline: tuple[str, ...] = ()
    counts: list[Tensor]
    sums: list[Tensor]

    def __init__(self, like: S, fine: dict[str, Tensor]) -> None:
        super().__init__()
        self._like = like
        self._fine = tuple(fine)
        self.add_state("counts", [], "cat")
        self.add_state("sums", [], "cat")
        for name, histogram in fine.items():
            self.add_state(name, histogram, "sum")

    def add(self, image: S, fine: dict[str, Tensor]) -> None:
        """Add the statistics of one image, and the fine version of those of its histograms that are coarse."""
        for rows, row in zip((self.counts, self.sums), pack(image)):
            rows.append(row)
            if sum(len(block) for block in rows[-BLOCK:]) == BLOCK:  # small tensors between large ones waste memory
                rows[-BLOCK:] = [torch.cat(rows[-BLOCK:])]
        for name in self._fine:
            total = getattr(self, name)
            foreign = total.is_inference() and not torch.is_inference_mode_enabled()  # may not be written to
            setattr(self, name, total + fine[name] if foreign else total.add_(fine[name]))

    def _filled(self) -> None:
        """A process without images holds an empty row, so that it can take part in gathering."""
        if not len(self.counts):
            counts, sums = pack(self._like)
            self.counts, self.sums = [counts[:0].to(self.device)], [sums[:0].to(self.device)]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, those without an image included."""
        self._filled()
        super().sync(*args, **kwargs)

    def _rows(self) -> S:
        self._filled()
        return unpack(dim_zero_cat(self.counts), dim_zero_cat(self.sums), self._like)

    def _pooled(self) -> S:
        total = {name: tensor.sum(0) for name, tensor in fields(self._rows()).items()}
        return type(self._like)(**total | {name: getattr(self, name) for name in self._fine})

    def compute(self) -> dict[str, Tensor]:
        """The scores pooled over the valid pixels of all images, the headline first.

        NaN where the data leave one undefined: no valid pixel, or only right (only wrong) pixels to rank.
        """
        return self._pooled().scores()

    def per_image(self) -> dict[str, Tensor]:
        """The same scores of each image (n,), in the order of the updates; rankings by coarse histograms.

        With many processes the images of the first come first. All processes must call this.
        """
        with self.sync_context():
            return self._rows().scores()

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap interval (low, high) of each pooled score: images are drawn anew, not pixels.

        Args:
            level: nominal coverage in (0, 1).
            seed: of the 1000 draws.

        Raises:
            ValueError: if ``level`` is not in (0, 1), or there are fewer than two images.

        Source: Efron and Tibshirani (1993), chapter 13 (percentile interval).
        Pitfall: says nothing about other training runs; pixels of one image are not independent, hence by image.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}, expected a coverage in (0, 1) such as 0.95")
        with self.sync_context():
            rows = self._rows()
            if len(dim_zero_cat(self.counts)) < 2:
                raise ValueError("intervals over images need at least two images")
            return bootstrap.intervals(rows, self._pooled().scores(), level, seed)

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """What the report draws, pooled over all images."""
        with self.sync_context():
            return self._pooled().curves()
