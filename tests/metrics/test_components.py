"""Scores of regions, by hand and by a loop over sets of pixels."""

import math

import pytest
import torch
from scipy.ndimage import label

from sfumato.errors import ConfigError, DataError
from sfumato.metrics import ComponentScores
from sfumato.metrics.components import OVERLAPS


def by_sets(found, true):
    """The definitions, with sets of pixels."""
    regions = []
    for mask in (found, true):
        numbers, count = label(mask.numpy(), [[1] * 3] * 3)
        regions.append(
            [set(map(tuple, (torch.from_numpy(numbers) == n).nonzero().tolist())) for n in range(1, count + 1)]
        )
    siou, ppv = [], []
    for k in regions[1]:
        p = set().union(*(f for f in regions[0] if f & k))
        others = set().union(*(other for other in regions[1] if other is not k))
        siou.append(len(k & p) / len((k | p) - others))
    every = set().union(*regions[1])
    ppv = [len(f & every) / len(f) for f in regions[0]]
    f1 = []
    for t in OVERLAPS:
        tp, fp = sum(s > t for s in siou), sum(p <= t for p in ppv)
        f1.append(2 * tp / (2 * tp + len(siou) - tp + fp))
    return sum(siou) / len(siou), sum(ppv) / len(ppv), sum(f1) / len(f1)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_sets_of_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    found, true = (torch.rand(12, 14, generator=generator) < share for share in (0.35, 0.3))
    scores = ComponentScores()
    scores.update(found[None], true[None])
    got = scores.compute()
    assert [float(got[f"component_{n}"]) for n in ("siou", "ppv", "f1")] == pytest.approx(by_sets(found, true))


def test_by_hand():
    """One found region covers half of a true one and two pixels beside it; another true one is missed."""
    true = torch.zeros(1, 3, 8, dtype=torch.bool)
    true[0, 0, :4] = True
    true[0, 2, 6:] = True
    found = torch.zeros_like(true)
    found[0, 0, 2:6] = True
    scores = ComponentScores()
    scores.update(found, true)
    got = {name: float(value) for name, value in scores.compute().items()}
    assert got["component_siou"] == pytest.approx((2 / 6 + 0) / 2)
    assert got["component_ppv"] == 0.5
    # Overlaps 0.25 and 0.30: TP 1, FN 1, FP 0. From 0.35 on there is no TP.
    assert got["component_f1"] == pytest.approx(2 * (2 / 3) / 11)
    assert (got["true_components"], got["found_components"]) == (2, 1)


def test_pixels_that_are_not_valid_do_not_count_and_images_add_up():
    true = torch.zeros(2, 4, 4, dtype=torch.bool)
    true[:, :2, :2] = True
    found = true.clone()
    found[1, 3] = True
    valid = torch.ones_like(true)
    valid[:, 3] = False
    scores = ComponentScores()
    for one in range(2):
        scores.update(found[one : one + 1], true[one : one + 1], valid[one : one + 1])
    assert [float(v) for v in scores.compute().values()] == [1, 1, 1, 2, 2]
    scores.update(torch.ones(1, 2, 2) > 0, torch.ones(1, 2, 2) > 0)
    assert float(scores.compute()["true_components"]) == 3


def test_small_regions_are_left_out():
    """Found: 4 pixels on a true region of 4, 1 pixel beside it. True: also one of 1 pixel, on which 2 are found."""
    true = torch.zeros(1, 6, 8, dtype=torch.bool)
    true[0, 0, :4] = True
    true[0, 4, 6] = True
    found = torch.zeros_like(true)
    found[0, 0, :4] = True
    found[0, 2, 7] = True
    found[0, 4, 6:] = True
    every, large = ComponentScores(), ComponentScores(2, 2)
    for scores in (every, large):
        scores.update(found, true)
    got = every.compute()
    assert [float(got[f"component_{n}"]) for n in ("siou", "ppv")] == pytest.approx(
        [(1 + 1 / 2) / 2, (1 + 0 + 1 / 2) / 3]
    )
    got = large.compute()  # the true pixel does not count, so one wrong pixel is left of the region on it
    assert [float(got[f"component_{n}"]) for n in ("siou", "ppv")] == pytest.approx([1, 1 / 2])
    assert (got["true_components"], got["found_components"]) == (1, 2)
    assert float(got["component_f1"]) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="expected 0 or more"):
        ComponentScores(-1)


def test_corners_connect():
    mask = torch.eye(3, dtype=torch.bool)[None]
    scores = ComponentScores()
    scores.update(mask, mask)
    assert float(scores.compute()["true_components"]) == 1


def test_nothing_to_count():
    scores = ComponentScores()
    scores.update(torch.zeros(1, 3, 3) > 0, torch.zeros(1, 3, 3) > 0)
    assert all(math.isnan(float(scores.compute()[f"component_{n}"])) for n in ("siou", "ppv", "f1"))
    with pytest.raises(DataError, match="found pixels"):
        scores.update(torch.zeros(1, 3, 3) > 0, torch.zeros(1, 3, 4) > 0)
