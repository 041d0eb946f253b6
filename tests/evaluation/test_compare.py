"""Several runs on the same images."""

import pytest

from sfumato.errors import ConfigError
from sfumato.evaluation import calibrate, compare, evaluate

QUIET = {"progress": False, "workers": 0, "device": "cpu"}


@pytest.fixture
def pair(make, images):
    """A run, and the same run with a calibrator."""
    first, second = make("first"), make("second")
    return first, calibrate(second, images(3, 5), progress=False)[0]


def test_differences_are_paired(pair, images):
    data = images(5, 1)
    found = compare(pair, data, **QUIET)
    first, second = found.tasks["classes"]["nll"]
    assert found.names == ("first", "second")
    for entry, run in zip((first, second), pair):
        assert entry.value.value == pytest.approx(evaluate(run, data, **QUIET).tasks["classes"].scores["nll"].value)
    assert first.difference is None
    difference = second.difference
    assert difference.value == pytest.approx(second.value.value - first.value.value)
    assert difference.low <= difference.value <= difference.high
    assert (difference.high - difference.low) < (first.value.high - first.value.low) + (
        second.value.high - second.value.low
    )


def test_a_run_does_not_differ_from_itself(run, images):
    found = compare({"a": run, "b": run}, images(4, 1), **QUIET)
    for entries in found.tasks["classes"].values():
        difference = entries[1].difference
        assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0), nan_ok=True)


def test_markdown_has_a_row_for_each_score(pair, images):
    found = compare(dict(zip("ab", pair)), images(2, 1), **QUIET)
    lines = found.to_markdown().splitlines()
    assert lines[2] == "| score | a | b | b − a |"
    assert len(lines) == 4 + len(found.tasks["classes"])
    assert all(line.count("|") == 5 for line in lines[2:])
    assert found.to_json()["images"] == 2
    assert "\n" not in repr(found)


def test_what_cannot_be_compared(make, run, images):
    with pytest.raises(ConfigError, match="at least two"):
        compare([run], images(2, 1), **QUIET)
    with pytest.raises(ConfigError, match="share no task"):
        compare([run, make("depth", ("depth",), ("gaussian",))], images(2, 1), **QUIET)
