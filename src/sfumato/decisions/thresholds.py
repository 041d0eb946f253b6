"""The largest threshold of an uncertainty that keeps a risk with a stated probability: tests in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.calibration.risk import images_needed, p_values
from sfumato.errors import DataError
from sfumato.metrics import histogram

SHARE, STEPS = 5, 50  # one image in five sets the thresholds that are tested; number of thresholds


@dataclass(frozen=True)
class Row:
    """The pixels of one image by their uncertainty.

    Args:
        keys: The different keys (m,) of the uncertainties, ascending, see :mod:`sfumato.metrics.histogram`.
        accepted: Number of pixels (m,) up to each key.
        wrong: Number of them (m,) that are wrong.
    """

    keys: Tensor
    accepted: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, uncertainty: Tensor, wrong: Tensor) -> Row:
        """The row of an image.

        Args:
            uncertainty: Uncertainties (N,) of its pixels, ≥ 0.
            wrong: Whether each of them is wrong (N,), or a loss in [0, 1].
        """
        keys, places = histogram.key(uncertainty.cpu()).unique(return_inverse=True)
        counts = torch.bincount(places).cumsum(0)
        return cls(keys, counts, torch.bincount(places, wrong.cpu().double()).cumsum(0))

    def up_to(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """For thresholds (L,): the share of the pixels that are accepted, and of those the share that is wrong.

        The second one is NaN where no pixel is accepted.
        """
        place = torch.searchsorted(self.keys, keys, right=True) - 1
        accepted, wrong = (column[place.clamp_min(0)].where(place >= 0, 0) for column in (self.accepted, self.wrong))
        return accepted / self.accepted[-1], wrong / accepted


def chosen(rows: Sequence[Row], risk: float, delta: float, ends: tuple[float, float] = (0.0, 1.0)) -> tuple[int, float]:
    """The largest key of an uncertainty up to which the risk is kept, with probability ``1 − delta``.

    Args:
        rows: The held-out images, with losses as shares of their range.
        risk: The allowed mean risk.
        delta: The probability of failure.
        ends: The smallest and the largest loss. Default 0 and 1.

    Returns:
        The key, and the mean share of pixels that are accepted on the images that were tested.

    Raises:
        DataError: If the images are too few, or no threshold keeps the risk.
    """
    allowed, risk = risk, (risk - ends[0]) / (ends[1] - ends[0])
    needed = images_needed(risk, delta)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    few = len(rows) // SHARE
    first, tested = [rows[i] for i in order[:few]], [rows[i] for i in order[few:]]
    if len(tested) < needed or not first:
        enough = max(SHARE, next(n for n in range(needed, 2 * needed + SHARE) if n - n // SHARE >= needed))
        raise DataError(
            f"{len(rows)} held-out images are too few for a risk of {allowed:.4g} with probability {1 - delta:.4g}: it "
            f"needs at least {enough}"
        )
    keys = _quantiles(first)
    start = _start(first, keys, len(tested), risk, delta)
    shares, losses = (torch.stack(each) for each in zip(*(row.up_to(keys) for row in tested)))
    best: int | None = None
    for place in range(start, len(keys)):
        if _p_value(shares[:, place], losses[:, place], risk, delta) > delta:
            break
        best = place
    if best is None:
        own = losses[:, start][shares[:, start] > 0]
        mean = ends[0] + (ends[1] - ends[0]) * float(own.mean())
        found = f"risk {mean:.3g} on {len(own)} images" if len(own) else "nothing accepted"
        raise DataError(
            f"no threshold keeps a risk of {allowed:.4g} with probability {1 - delta:.4g}: the one with the best "
            f"prospects has {found}. Allow a larger risk, or use more images"
        )
    return int(keys[best]), float(shares[:, best].mean())


def _start(rows: Sequence[Row], keys: Tensor, images: int, risk: float, delta: float) -> int:
    """The largest threshold with the smallest p-value, if ``images`` were as these are. It is tested first."""
    shares, losses = (torch.stack(each).repeat(-(-images // len(rows)), 1)[:images]
                      for each in zip(*(row.up_to(keys) for row in rows)))  # fmt: skip
    found = [_p_value(shares[:, place], losses[:, place], risk, delta) for place in range(len(keys))]
    return max(place for place, value in enumerate(found) if value == min(found))


def _p_value(shares: Tensor, losses: Tensor, risk: float, delta: float) -> float:
    """The p-value of one threshold, given what it accepts of each image (n,) and how much of that is wrong (n,)."""
    own = losses[shares > 0]
    return float(p_values(own[:, None], risk, delta)) if len(own) else 1.0


def _quantiles(rows: Sequence[Row]) -> Tensor:
    """Keys up to which 1/50, 2/50, … and all of the pixels are accepted, where each image weighs the same."""
    keys = torch.cat([row.keys for row in rows])
    weights = torch.cat(
        [row.accepted.diff(prepend=torch.zeros(1, dtype=torch.int64)) / row.accepted[-1] for row in rows]
    )
    ordered, places = keys.sort()
    upto = weights[places].cumsum(0)
    wanted = torch.arange(1, STEPS) / STEPS * float(upto[-1])
    found = ordered[torch.searchsorted(upto, wanted).clamp_max(len(ordered) - 1)]
    everything = histogram.key(torch.tensor([torch.finfo(torch.float32).max]))
    return torch.cat([found, everything]).unique()
