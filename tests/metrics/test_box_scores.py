"""Scores of boxes against closed forms, an independent average precision, and simulation."""

import math
import sys

import numpy as np
import pytest
import torch

from sfumato.boxes import Boxes
from sfumato.errors import DataError, MissingDependencyError
from sfumato.metrics import BoxScores
from sfumato.metrics.box_quality import ROW, calibration_error, optimal_lrp, proper_rows
from sfumato.metrics.instance_scores import average_precision
from sfumato.metrics.pdq import pdq_of_image

SIZE = (100, 100)


def boxes(edges, score=0.8, variance=4.0, classes=2, kind=0):
    edges = torch.as_tensor(edges, dtype=torch.float32).reshape(-1, 4)
    probs = torch.full((len(edges), classes), 0.05)
    probs[:, kind] = torch.as_tensor(score)
    cov = variance * torch.eye(4).repeat(len(edges), 1, 1)
    return Boxes(edges, probs, cov, 0 * cov, torch.ones(len(edges)).long())


def true(edges, kind=0.0, ignored=0.0):
    edges = torch.as_tensor(edges, dtype=torch.float32).reshape(-1, 4)
    rest = torch.tensor([[kind, ignored]]).expand(len(edges), 2)
    return torch.cat([edges, rest], 1)


GRID = [[x, y, x + 20, y + 20] for x in (5, 35, 65) for y in (5, 35, 65)]


def test_perfect_boxes():
    scores = BoxScores(2)
    scores.update([boxes(GRID, 1.0, 1e-6)], [true(GRID)], SIZE)
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found["ap"] == pytest.approx(1)
    assert found["lrp"] == pytest.approx(0)
    assert found["laece0"] == pytest.approx(0)
    assert found["edge_error"] == 0
    assert found["coverage90"] == 1
    assert found["pdq"] == pytest.approx(1, abs=0.02)
    assert found["boxes_tp"] == 9


def test_average_precision_is_that_of_another_implementation():
    """At IoU 0.5, one class: the matches are made by hand, the curve by the score of instances."""
    torch.manual_seed(0)
    scores, hits, score = BoxScores(1), [], []
    for _ in range(20):
        shift = 8 * torch.rand(9, 1)  # IoU of squares of side 20 that are shifted by d: (20 − d) / (20 + d)
        found = boxes(torch.tensor(GRID) + shift * torch.tensor([1.0, 0, 1, 0]), torch.rand(9), classes=1)
        scores.update([found], [true(GRID)], SIZE)
        hits.append((20 - shift[:, 0]) / (20 + shift[:, 0]) >= 0.5)
        score.append(found.scores)
    expected = average_precision(torch.cat(score), torch.cat(hits), 180)
    assert float(scores.compute()["ap50"]) == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_and_lrp():
    torch.manual_seed(0)
    score = torch.rand(20000)
    assert calibration_error(score, (torch.rand(20000) < score).float()) < 0.02
    assert float(calibration_error(score, score / 2)) == pytest.approx(0.25, abs=0.01)
    assert calibration_error(score[:0], score[:0]).isnan()
    # one of two true boxes found with IoU 0.8, and a false one with a lower score that is best left out
    assert float(optimal_lrp(torch.tensor([0.9, 0.2]), torch.tensor([0.8, 0.0]), 2)) == pytest.approx((0.4 + 1) / 2)
    assert float(optimal_lrp(torch.zeros(0), torch.zeros(0), 3)) == 1


def test_proper_scores_of_one_box():
    """Closed forms: an error of (2, 0, 0, 0) px under variance 4, and a false positive."""
    found = boxes([[12, 10, 30, 30], [60, 60, 80, 80]], 0.8, 4.0)
    row = dict(zip(ROW, proper_rows(found, true([[10, 10, 30, 30]]), 0.9).T))
    assert row["kind"].tolist() == [0, 3]
    assert row["class_nll"].tolist() == pytest.approx([-math.log(0.8), -math.log(0.15)], rel=1e-4)
    assert row["brier"].tolist() == pytest.approx([0.04 + 0.0025 + 0.0225, 0.64 + 0.0025 + 0.7225], rel=1e-4)
    assert row["box_nll"][0].item() == pytest.approx(0.5 + 2 * math.log(2 * math.pi * 4), rel=1e-3)
    assert row["box_nll"][1].isnan()
    assert row["entropy"][1].item() == pytest.approx(2 * math.log(2 * math.pi * math.e * 4), rel=1e-3)
    assert row["error"][0].item() == pytest.approx(1.0)
    assert row["inside"][0] == 4


def test_energy_score_of_a_normal_distribution():
    """With an exact mean: E‖Z‖ − ½ E‖Z − Z'‖ = (1 − 1/√2) σ E‖t‖, and E‖t‖ = √2 Γ(5/2) / Γ(2) in four dimensions."""
    row = proper_rows(boxes([[10, 10, 30, 30]], variance=9.0), true([[10, 10, 30, 30]]), 0.9)[0]
    length = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert row[ROW.index("energy")].item() == pytest.approx(3 * length * (1 - math.sqrt(0.5)), rel=0.03)


def test_the_true_deviation_has_the_best_proper_scores():
    torch.manual_seed(0)
    noisy = torch.tensor(GRID * 30) + 2 * torch.randn(270, 4)
    means = {}
    for variance in (1.0, 4.0, 16.0):
        rows = [proper_rows(boxes(noisy[9 * i : 9 * i + 9], variance=variance), true(GRID), 0.9) for i in range(30)]
        means[variance] = torch.cat(rows)[:, [ROW.index("box_nll"), ROW.index("energy")]].mean(0)
    assert (means[4.0] < means[1.0]).all()
    assert (means[4.0] < means[16.0]).all()


def test_coverage_of_true_deviations():
    torch.manual_seed(0)
    scores = BoxScores(2)
    for _ in range(60):
        scores.update([boxes(torch.tensor(GRID) + 1.0 * torch.randn(9, 4), variance=1.0)], [true(GRID)], SIZE)
    found = scores.compute()
    assert float(found["coverage90"]) == pytest.approx(0.9, abs=0.015)
    assert float(found["edge_error"]) == pytest.approx(1.0, rel=0.05)


def test_pdq_of_a_shifted_box():
    """A sure box over half of the true one: the other half has the probability 0, counted as 1e−14."""
    found = boxes([[0, 0, 10, 10]], 1.0, 1e-8)
    part = pdq_of_image(found, true([[0, 0, 10, 20]]), (40, 40))
    spatial = math.exp((0 + 100 * math.log(1e-14)) / 200)
    assert part.quality == pytest.approx(math.sqrt(spatial), rel=1e-6)
    wide = boxes([[0, 0, 10, 20]], 0.5, 4.0)
    assert 0 < pdq_of_image(wide, true([[0, 0, 10, 20]]), (40, 40)).quality < math.sqrt(0.5)


def test_pdq_against_a_sum_over_pixels():
    """An independent loop over all pixels, with scipy's normal distribution."""
    from scipy.stats import norm

    found, (x1, y1, x2, y2), s = boxes([[6.0, 5, 21, 17]], 0.7, 2.25), (4, 6, 20, 18), 1.5
    inside = outside = 0.0
    for y in np.arange(32) + 0.5:
        for x in np.arange(32) + 0.5:
            p = norm.cdf((x - 6) / s) * norm.cdf((21 - x) / s) * norm.cdf((y - 5) / s) * norm.cdf((17 - y) / s)
            p = p if p >= 0.0027 else 0.0
            if x1 < x < x2 and y1 < y < y2:
                inside += math.log(max(p, 1e-14))
            else:
                outside += math.log1p(-min(p, 1 - 1e-14))
    expected = math.sqrt(math.exp((inside + outside) / 192) * 0.7)
    assert pdq_of_image(found, true([[x1, y1, x2, y2]]), (32, 32)).quality == pytest.approx(expected, rel=1e-5)


def test_images_without_anything():
    scores = BoxScores(2)
    scores.update([Boxes.none(2)], [torch.zeros(0, 6)], SIZE)
    assert scores.compute()["ap"].isnan()
    scores.update([boxes(GRID)], [torch.zeros(0, 6)], SIZE)  # all are false positives
    scores.update([Boxes.none(2)], [true(GRID)], SIZE)  # all are missed
    found = scores.compute()
    assert float(found["ap"]) == 0
    assert float(found["lrp"]) == 1
    assert float(found["pdq"]) == 0
    assert float(found["boxes_fp"]) == 9


def test_a_crowd_changes_no_score():
    one, two = BoxScores(2), BoxScores(2)
    found = boxes([*GRID, [80, 80, 98, 98]], 0.8)
    one.update([boxes(GRID, 0.8)], [true(GRID)], SIZE)
    two.update([found], [torch.cat([true(GRID), true([[78, 78, 100, 100]], ignored=1.0)])], SIZE)
    first, second = one.compute(), two.compute()
    for name in ("ap", "lrp", "laece0", "class_nll_tp", "boxes_fp"):
        assert float(first[name]) == pytest.approx(float(second[name])), name


def test_one_pass_equals_two_that_are_merged():
    """The states are lists and sums, so processes that share images give the same scores."""
    torch.manual_seed(0)
    parts = [boxes(torch.tensor(GRID) + torch.randn(9, 4), torch.rand(9)) for _ in range(4)]
    whole, halves = BoxScores(2), [BoxScores(2), BoxScores(2)]
    for number, each in enumerate(parts):
        whole.update([each], [true(GRID)], SIZE, [number])
        halves[number % 2].update([each], [true(GRID)], SIZE, [number])
    first, other = halves
    for name in ("found", "true", "rows"):
        getattr(first, name).extend(getattr(other, name))
    first.quality += other.quality
    first.images += other.images
    expected, merged = whole.compute(), first.compute()
    for name, value in expected.items():
        assert torch.allclose(value.double(), merged[name].double(), equal_nan=True), name


def test_wrong_input(monkeypatch):
    scores = BoxScores(2)
    with pytest.raises(DataError, match="true boxes of 0"):
        scores.update([boxes(GRID)], [], SIZE)
    with pytest.raises(DataError, match="class 5, expected 0 to 1"):
        scores.update([boxes(GRID)], [true(GRID, 5.0)], SIZE)
    with pytest.raises(DataError, match="shape"):
        scores.update([boxes(GRID)], [torch.zeros(1, 4)], SIZE)
    scores.update([boxes(GRID)], [true(GRID)], SIZE)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"sfumato\[detection\]"):
        scores.compute()
