"""Rankings against full sorts: what a histogram loses is what its bound says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from sfumato.metrics import histogram, ranking


def histograms(uncertainty, bad):
    both = torch.bincount(histogram.key(uncertainty) + bad.int() * histogram.KEYS, minlength=2 * histogram.KEYS)
    return both.view(2, -1)


def pixels(seed, law, n=20_000):
    random = torch.Generator().manual_seed(seed)
    bad = torch.rand(n, generator=random) < 0.2
    noise = torch.rand(n, generator=random)
    shift = 0.3 * bad * torch.rand(n, generator=random)
    return {
        "uniform": noise + shift,
        "tiny": (noise + shift) ** 8 * 1e-6,
        "many equal": ((noise + shift) * 10).floor() / 10,
        "mostly zero": (noise + shift - 0.7).clamp_min(0),
    }[law], bad


LAWS = pytest.mark.parametrize("law", ["uniform", "tiny", "many equal", "mostly zero"])


@LAWS
def test_auroc_is_that_of_a_full_sort_within_its_bound(law):
    uncertainty, bad = pixels(0, law)
    exact = roc_auc_score(bad.numpy(), uncertainty.numpy())
    good, wrong = histograms(uncertainty, bad)
    off, bound = abs(ranking.auroc(good, wrong).item() - exact), ranking.auroc_bound(good, wrong).item()
    assert off < 2e-5
    assert off <= bound


@LAWS
def test_average_precision_is_that_of_a_full_sort(law):
    uncertainty, bad = pixels(1, law)
    exact = average_precision_score(bad.numpy(), uncertainty.numpy())
    assert ranking.aupr(*histograms(uncertainty, bad)).item() == pytest.approx(exact, abs=1e-3)


@LAWS
def test_fpr95_is_that_of_a_full_sort(law):
    uncertainty, bad = pixels(2, law)
    false, true, _ = roc_curve(bad.numpy(), uncertainty.numpy(), drop_intermediate=False)
    exact = false[(true >= 0.95).argmax()]
    assert ranking.fpr95(*histograms(uncertainty, bad)).item() == pytest.approx(exact, abs=5e-3)


def test_scores_are_exact_where_equal_keys_are_equal_values():
    values = torch.tensor([0.5, 0.25, 1.0, 2.0, 0.25, 1.0, 4.0])
    bad = torch.tensor([0, 0, 1, 0, 1, 0, 1]).bool()
    good, wrong = histograms(values, bad)
    assert ranking.auroc(good, wrong).item() == pytest.approx(roc_auc_score(bad, values), abs=1e-12)
    assert ranking.aupr(good, wrong).item() == pytest.approx(average_precision_score(bad, values), abs=1e-12)


@settings(deadline=None, max_examples=25)  # a busy machine is no failure
@given(st.floats(0, 2.0**100, width=32))
def test_a_constant_uncertainty_ranks_nothing(constant):
    uncertainty, bad = torch.full((10,), constant), torch.arange(10) < 3
    assert ranking.auroc(*histograms(uncertainty, bad)).item() == 0.5
    assert ranking.aupr(*histograms(uncertainty, bad)).item() == pytest.approx(0.3)
    assert ranking.fpr95(*histograms(uncertainty, bad)).item() == 1


def test_a_perfect_ranking_is_perfect_and_its_mirror_is_the_worst():
    uncertainty, bad = torch.arange(1.0, 101.0), torch.arange(100) >= 70
    assert ranking.auroc(*histograms(uncertainty, bad)).item() == 1
    assert ranking.aupr(*histograms(uncertainty, bad)).item() == 1
    assert ranking.fpr95(*histograms(uncertainty, bad)).item() == 0
    assert ranking.auroc(*histograms(uncertainty, ~bad)).item() == 0


@pytest.mark.parametrize("bad", [torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)])
def test_one_kind_of_pixel_only_has_no_ranking(bad):
    good, wrong = histograms(torch.rand(5), bad)
    assert ranking.auroc(good, wrong).isnan()
    assert ranking.fpr95(good, wrong).isnan()


@settings(deadline=None, max_examples=25)
@given(st.floats(2.0**-120, 2.0**120, width=32), st.floats(0, 2.0**-6, width=32))
def test_keys_keep_the_order_and_join_only_near_values(low, step):
    values = torch.tensor([low, low * (1 + step)])
    first, second = histogram.key(values).tolist()
    assert first <= second
    assert first < second or values[1] < values[0] * (1 + 2**-8)


def test_keys_of_zero_of_either_sign_and_of_rounding_below_it():
    assert histogram.key(torch.tensor([0.0, -0.0, -1e-7])).tolist() == [0, 0, 0]


def test_coarse_histograms_lose_no_pixel():
    values = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e10, torch.inf])
    fine = torch.bincount(histogram.key(values), minlength=histogram.KEYS)
    coarse = histogram.coarsen(fine)
    assert coarse.shape == (histogram.COARSE,)
    assert coarse.sum() == 6
    assert coarse[0] == 2
    assert coarse[-1] == 2


def test_roc_runs_from_corner_to_corner_and_encloses_its_area():
    uncertainty, bad = pixels(3, "uniform")
    good, wrong = histograms(uncertainty, bad)
    false, true = ranking.roc(good, wrong)
    assert (false[0], false[-1], true[-1]) == (0, 1, 1)
    assert torch.trapezoid(true, false).item() == pytest.approx(ranking.auroc(good, wrong).item(), abs=1e-3)


def test_pavpu_of_sixteen_patches_by_hand():
    # Certain: 9 accurate, 1 wrong. Uncertain: 2 accurate, 4 wrong.
    uncertainty = torch.tensor([1.0] * 10 + [2.0] * 6)
    bad = torch.tensor([0] * 9 + [1] + [0] * 2 + [1] * 4).bool()
    found = ranking.pavpu(*histograms(uncertainty, bad), torch.tensor([10 / 16], dtype=torch.float64))
    assert found["accurate_if_certain"].item() == pytest.approx(9 / 10)
    assert found["uncertain_if_wrong"].item() == pytest.approx(4 / 5)
    assert found["pavpu"].item() == pytest.approx(13 / 16)


def test_roc_of_a_perfect_ranking_stands_upright():
    uncertainty, bad = torch.arange(1.0, 101.0), torch.arange(100) >= 70
    assert (ranking.roc(*histograms(uncertainty, bad))[1] == 1).all()
