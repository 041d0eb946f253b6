"""The stream test: rare false alarms, alarms after a change of level or of spread, whatever the unit of the score."""

import math

import pytest
import torch

from sfumato.decisions import Drift
from sfumato.errors import ConfigError, DataError, NotFiniteError


def alarms(draws, change, delta=0.1, before=60, after=120):
    """For each draw, the number of scores until the alarm, None without one."""
    found = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        drift = Drift(torch.randn(60, generator=generator).tolist(), delta, seed)
        for score in torch.randn(before, generator=generator).tolist():
            drift.update(score)
        for score in torch.randn(after, generator=generator).tolist():
            drift.update(change(score))
        found.append(drift.alarm)
    return found


def test_false_alarms_are_rare():
    found = alarms(300, lambda score: score)
    assert sum(each is not None for each in found) <= 0.1 * 300


@pytest.mark.parametrize("change", [lambda s: s + 2, lambda s: s - 2])
def test_changes_are_found(change):
    found = alarms(40, change)
    assert all(each is not None for each in found)
    assert 60 < sorted(found)[20] < 90


def test_the_alarm_does_not_depend_on_the_unit():
    scores = torch.randn(80, generator=torch.Generator().manual_seed(0)).add(torch.arange(80) / 10).tolist()
    first, second = Drift(range(20)), Drift([math.exp(v) for v in range(20)])
    for score in scores:
        first.update(score)
        second.update(math.exp(score))
    assert first.log_capital == pytest.approx(second.log_capital)


def test_capital_is_what_bets_by_hand_give():
    """The held-out scores are larger than all that come, so every p-value is near 1."""
    drift = Drift([10.0 + i for i in range(1000)], seed=3)
    drift.update(1.0)
    # p = (1000 + U) / 1001. After one bet the capital is the mean of 1 + ε (p − 1/2) over ε in −1, 0, 1, which is 1.
    assert drift.log_capital == pytest.approx(0, abs=1e-12)
    drift.update(0.0)
    low, high = (1 / 3) * 0.5, (1 / 3) * 1.5
    mixed = [0.99 * value + 0.01 / 3 for value in (low, 1 / 3, high)]
    assert drift.capital == pytest.approx(mixed[0] * 0.5 + mixed[1] + mixed[2] * 1.5, abs=5e-3)


def test_equal_scores_are_ranked_at_random():
    drift = Drift([1.0] * 50, 0.01)
    for _ in range(300):
        drift.update(1.0)
    assert drift.alarm is None
    assert drift.seen == 300


def test_bad_requests():
    with pytest.raises(DataError, match="9 held-out images are too few"):
        Drift(range(9))
    with pytest.raises(ConfigError, match="delta is 1"):
        Drift(range(20), 1)
    with pytest.raises(NotFiniteError, match="NaN"):
        Drift([math.nan] * 20)
    drift = Drift(range(20))
    with pytest.raises(NotFiniteError, match="NaN"):
        drift.update(math.inf)
    assert drift.seen == 0
