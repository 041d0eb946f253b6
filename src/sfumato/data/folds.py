"""Folds: training images divided into parts, one of which is left out and validated on."""

from __future__ import annotations

from sfumato.data.views import DatasetView, Samples, folds_of, splits_of
from sfumato.errors import ConfigError

DIVIDED = ("train", "val")  # the splits that are made from the training images


class FoldedDataset(DatasetView):
    """One fold of the training images, or all others.

    Folds are blocks of images in their order, because neighbors often resemble each other.

    Args:
        whole: All training images.
        fold: The number of the fold, from 0.
        folds: The number K of folds. 0 for what the data set declares as ``folds``. Default 0.
        held_out: Whether these are the images of the fold, or all others.

    Raises:
        ConfigError: If there is no such fold, or there are fewer images than folds.
    """

    def __init__(self, whole: Samples, fold: int, folds: int = 0, *, held_out: bool) -> None:
        count, folds = len(whole), folds or folds_of(whole)
        if not 0 <= fold < folds:
            has = f"there are the folds 0 to {folds - 1}" if folds else "the data have no folds: add --folds 5"
            raise ConfigError(f"fold is {fold}, but {has}")
        if count < folds:
            raise ConfigError(f"{count} images cannot be divided into {folds} folds: choose at most {count}")
        start, end = (round(part * count / folds) for part in (fold, fold + 1))
        super().__init__(whole, range(start, end) if held_out else [*range(start), *range(end, count)])

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of the data set, and ``val``, which is the fold."""
        return tuple(dict.fromkeys((*splits_of(self.whole), "val")))
