"""The base of all scores: a torchmetrics.Metric over rows of statistics, one row for each image."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.contracts import Task
from sfumato.errors import ConfigError, DataError
from sfumato.metrics import bootstrap
from sfumato.metrics.rows import Statistics, fields, pack, unpack

S = TypeVar("S", bound=Statistics)

BLOCK = 64
"""Number of rows that are joined to one tensor."""


class Scores(Metric, Generic[S]):
    """Scores over all valid pixels of a data set. The memory does not grow with the number of pixels.

    Statistics add up: there is one row for each image, and one set of fine histograms for all. So the scores do not
    depend on the batch size, on the order of the images, or on the number of processes that share them.

    A subclass says what it scores (``target``: "class", "value" or "any"), how it is built for a task
    (:meth:`for_task`), and how a batch is added (``update(prediction, target, valid)``).
    """

    target: ClassVar[str] = "any"
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

    @classmethod
    @abstractmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores for the predictions of a task."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sum(len(block) for block in self.counts)} images)"

    def add(self, image: S, fine: dict[str, Tensor]) -> None:
        """Add the statistics of one image, and the fine version of its coarse histograms."""
        for rows, row in zip((self.counts, self.sums), pack(image)):
            rows.append(row)
            if sum(len(block) for block in rows[-BLOCK:]) == BLOCK:  # many small tensors waste memory
                rows[-BLOCK:] = [torch.cat(rows[-BLOCK:])]
        for name in self._fine:
            total = getattr(self, name)
            frozen = total.is_inference() and not torch.is_inference_mode_enabled()  # cannot be changed in place
            setattr(self, name, total + fine[name] if frozen else total.add_(fine[name]))

    def _filled(self) -> None:
        """Give a process without images an empty row, so that it can take part in the gathering."""
        if not len(self.counts):
            counts, sums = pack(self._like)
            self.counts, self.sums = [counts[:0].to(self.device)], [sums[:0].to(self.device)]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, including those without an image."""
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

        A score is NaN where the data do not define it: without a valid pixel, or with only right (or only wrong) pixels
        to rank.
        """
        return self._pooled().scores()

    def per_image(self) -> dict[str, Tensor]:
        """The same scores of each image (n,), in the order of the updates. Rankings use coarse histograms.

        With several processes, the images of the first process come first. All processes must call this.
        """
        with self.sync_context():
            return self._rows().scores()

    def rows(self) -> S:
        """The statistics of each image (n, …), in the order of :meth:`per_image`. All processes must call this."""
        with self.sync_context():
            return self._rows()

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap interval (low, high) of each pooled score. Images are resampled, not pixels.

        Args:
            level: Nominal coverage in (0, 1). Default 0.95.
            seed: Seed of the 1000 resamples. Default 0.

        Raises:
            ConfigError: If ``level`` is not in (0, 1).
            DataError: If there are fewer than two images.

        Source: Efron and Tibshirani (1993), chapter 13 (percentile interval).
        Pitfall: The interval says nothing about other training runs.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level is {level}, expected a coverage in (0, 1) such as 0.95")
        with self.sync_context():
            rows = self._rows()
            if len(dim_zero_cat(self.counts)) < 2:
                raise DataError("intervals over images need at least two images")
            return bootstrap.intervals(rows, self._pooled().scores(), level, seed)

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Curves for the report by name, each with its columns, pooled over all images."""
        with self.sync_context():
            return self._pooled().curves()


def class_names(task: Task) -> tuple[str, ...]:
    """The names of a task's classes.

    Raises:
        ConfigError: If the task has none.
    """
    names = getattr(task, "names", None)
    if not names:
        raise ConfigError(f"{type(task).__name__} has no class names: choose scores for its kind, {task.kind!r}")
    return tuple(names)
