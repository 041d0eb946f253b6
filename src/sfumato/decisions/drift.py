"""A test over a stream of images that reports when they are no longer like the held-out ones."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from random import Random

from sfumato.errors import ConfigError, DataError, NotFiniteError

JUMP, FEWEST = 0.01, 10  # share of the capital that is divided anew before each bet; the fewest held-out images


class Drift:
    """Bets against the hypothesis that a stream of scores is exchangeable with held-out ones.

    Each score has a p-value: its random rank among all scores so far. As long as nothing changes, these are
    independent and uniform, so no bet on them gains capital on average, and the capital ever reaches ``1 / delta``
    with probability ``delta`` at most, however long the stream is. After a change p-values are too small or too large,
    and the capital grows. The score decides what is watched: an uncertainty watches the inputs, an error watches the
    calibration too.

    Args:
        reference: Scores of held-out images, at least 10.
        delta: Probability of a false alarm over the whole stream, in (0, 1). Default 0.01.
        seed: Seed of the random ranks of equal scores. Default 0.

    Raises:
        ConfigError: If ``delta`` is not in (0, 1).
        DataError: If there are fewer than 10 held-out images.
        NotFiniteError: If a score is not finite.

    Source: Vovk, Nouretdinov and Gammerman (2003); Vovk et al. (2021), "Retrain or not retrain: conformal test
    martingales for change-point detection" (the simple jumper).
    Pitfall: Neighboring frames of a video resemble each other, so they are not exchangeable, and the capital grows
    without a change. Score one frame of each sequence.

    >>> drift = Drift([i / 100 for i in range(100)])
    >>> for _ in range(30):
    ...     drift.update(2.0)
    >>> drift.alarm, drift.capital > 100
    (16, True)
    """

    def __init__(self, reference: Iterable[float], delta: float = 0.01, seed: int = 0) -> None:
        self.known = sorted(map(_finite, reference))
        if not 0 < delta < 1:
            raise ConfigError(f"delta is {delta}, expected a probability in (0, 1)")
        if len(self.known) < FEWEST:
            raise DataError(
                f"{len(self.known)} held-out images are too few to watch for a change: expected {FEWEST} or more"
            )
        self.delta, self.seen = delta, 0
        self.alarm: int | None = None
        """How many scores had come when the capital first reached ``1 / delta``. None while it has not."""
        self._random = Random(seed)
        self._logs = {-1: math.log(1 / 3), 0: math.log(1 / 3), 1: math.log(1 / 3)}

    @property
    def log_capital(self) -> float:
        """Logarithm of the capital, which starts at 0."""
        top = max(self._logs.values())
        return top + math.log(sum(math.exp(each - top) for each in self._logs.values()))

    @property
    def capital(self) -> float:
        """The capital, at most the largest finite number."""
        return math.exp(min(700.0, self.log_capital))

    def update(self, score: float) -> None:
        """Add a score. It is compared with the held-out scores and with those that came before."""
        score = _finite(score)
        low, high = bisect_left(self.known, score), bisect_right(self.known, score)
        above, equal = len(self.known) - high, high - low + 1
        p = (above + self._random.random() * equal) / (len(self.known) + 1)
        insort(self.known, score)
        total = self.log_capital
        shared = math.log(JUMP / 3) + total
        for bet, log in self._logs.items():
            kept = math.log1p(-JUMP) + log
            top = max(kept, shared)
            mixed = top + math.log(math.exp(kept - top) + math.exp(shared - top))
            self._logs[bet] = mixed + math.log1p(bet * (p - 0.5))
        self.seen += 1
        if self.alarm is None and self.log_capital >= -math.log(self.delta):
            self.alarm = self.seen


def _finite(score: float) -> float:
    score = float(score)
    if not math.isfinite(score):
        raise NotFiniteError("a score is NaN or infinite: look at the prediction it comes from")
    return score
