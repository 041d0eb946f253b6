"""Several runs on the same images."""

import csv
import io
import math
from statistics import mean, stdev

import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.evaluation import by_seed, calibrate, compare, evaluate
from sfumato.report import save_comparison

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


def test_tables_have_a_row_for_each_score(pair, images):
    found = compare(dict(zip(("a_1", "b"), pair)), images(2, 1), **QUIET)
    scores = found.tasks["classes"]
    lines = found.to_markdown().splitlines()
    assert lines[2] == "| score | a_1 | b | b − a_1 |"
    assert len(lines) == 4 + len(scores)
    assert all(line.count("|") == 5 for line in lines[2:])
    lines = found.to_latex().splitlines()
    assert lines[1:4] == [r"\begin{tabular}{lrrr}", r"\toprule", r"score & a\_1 & b & b $-$ a\_1 \\"]
    assert all(line.count("&") == 3 and line.endswith(r"\\") for line in lines[5 : 5 + len(scores)])
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == 2 * len(scores)
    nll = next(row for row in rows if (row["score"], row["run"]) == ("nll", "b"))
    assert float(nll["value"]) == scores["nll"][1].value.value
    assert float(nll["difference_low"]) == scores["nll"][1].difference.low
    assert (nll["seeds"], nll["std"]) == ("1", "")
    assert found.to_json()["images"] == 2
    assert "\n" not in repr(found)


def test_runs_that_differ_in_the_seed_are_put_together(make, images):
    runs = [make(name, seed=seed) for seed, name in enumerate(("net-seed0", "net-seed1"))]
    with torch.no_grad():
        for weight in runs[1].networks[0].parameters():
            weight.mul_(1.5)
    other = make("other", samples=2)
    grouped = by_seed([*runs, other])
    assert {name.split("/")[-1]: len(group) for name, group in grouped.items()} == {"net": 2, "other": 1}
    data = images(3, 1)
    together, alone = compare(grouped, data, **QUIET), compare([*runs, other], data, **QUIET)
    entry, (first, second, third) = together.tasks["classes"]["nll"], alone.tasks["classes"]["nll"]
    values = [first.value.value, second.value.value]
    assert entry[0].value.value == pytest.approx(mean(values))
    assert entry[0].spread == pytest.approx(stdev(values))
    assert entry[0].spread > 0
    assert entry[1].difference.value == pytest.approx(third.value.value - mean(values))
    assert math.isnan(entry[1].spread)
    assert " ± " in together.to_markdown()
    assert r"$\pm$" in together.to_latex()


def test_curves_are_those_of_the_scores(make, images, tmp_path):
    first, second = make("first"), make("second", seed=1)
    found = compare([first, second], images(3, 1), ood=images(3, 2, novel=True), **QUIET)
    curves, scores = found.curves["classes"], found.tasks["classes"]
    for number in range(2):
        x, y = curves["risk_coverage"][number].x, curves["risk_coverage"][number].y
        assert y[-1] == pytest.approx(1 - scores["accuracy"][number].value.value)  # nothing is left out
        left_out = curves["sparsification"][number]
        assert left_out.x[0] == pytest.approx(0)
        assert left_out.y[0] == pytest.approx(0, abs=1e-6)  # as in any order
        assert mean(left_out.y) == pytest.approx(scores["ause"][number].value.value, abs=0.02)
        assert x[-1] == 1
    assert sorted(curves) == ["ood_aleatoric", "ood_epistemic", "reliability", "risk_coverage", "sparsification"]
    roc = curves["ood_epistemic"][0]
    assert (roc.x[0], roc.y[-1]) == (0, pytest.approx(1))
    files = save_comparison(found, tmp_path / "figures")
    assert {file.suffix for file in files} == {".pdf", ".svg"}
    before = [file.read_bytes() for file in files]
    assert before == [file.read_bytes() for file in save_comparison(found, tmp_path / "figures")]
    assert "first" in (tmp_path / "figures" / "classes-risk_coverage.svg").read_text()


def test_what_cannot_be_compared(make, run, images):
    with pytest.raises(ConfigError, match="at least two"):
        compare([run], images(2, 1), **QUIET)
    with pytest.raises(ConfigError, match="share no task"):
        compare([run, make("depth", ("depth",), ("gaussian",))], images(2, 1), **QUIET)
