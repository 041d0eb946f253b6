"""Risk–coverage and sparsification against sorts, closed forms and a plain reading of Poggi's definition."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.metrics import histogram, ranking, sparsification


def curves(seed=0, n=20_000, rate=0.2):
    random = torch.Generator().manual_seed(seed)
    bad = torch.rand(n, generator=random) < rate
    uncertainty = torch.rand(n, generator=random) + 0.4 * bad * torch.rand(n, generator=random)
    return uncertainty, bad


def by_key(uncertainty, error):
    key = histogram.key(uncertainty)
    return torch.bincount(key, minlength=histogram.KEYS), torch.bincount(key, error.double(), histogram.KEYS)


def sorted_risks(uncertainty, error):
    lost = error.double()[uncertainty.argsort()].cumsum(0)
    return lost, lost / torch.arange(1, len(lost) + 1)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
def test_areas_are_those_of_a_full_sort(rate):
    uncertainty, bad = curves(1, rate=rate)
    lost, risk = sorted_risks(uncertainty, bad)
    _, best = sorted_risks(bad.float(), bad)
    histograms = by_key(uncertainty, bad)
    assert sparsification.aurc(*histograms).item() == pytest.approx(risk.mean().item(), abs=2e-4)
    assert sparsification.e_aurc(*histograms).item() == pytest.approx((risk - best).mean().item(), abs=2e-4)
    assert sparsification.augrc(*histograms).item() == pytest.approx((lost / len(bad)).mean().item(), abs=1e-4)
    assert sparsification.risk_at_coverage(*histograms, torch.tensor([0.8])).item() == pytest.approx(
        risk[15_999].item(), abs=1e-3
    )
    largest = (risk <= 0.05).nonzero()[:, 0].max().item() + 1 if (risk <= 0.05).any() else 0
    assert sparsification.coverage_at_risk(*histograms).item() == pytest.approx(largest / len(bad), abs=5e-3)


def test_augrc_is_the_closed_form_of_auroc():
    uncertainty, bad = curves(2)
    weight, error = by_key(uncertainty, bad)
    rate = bad.double().mean()
    auroc = ranking.auroc(weight - error, error)
    assert torch.isclose(sparsification.augrc(weight, error), (1 - auroc) * rate * (1 - rate) + rate**2 / 2)


@settings(deadline=None, max_examples=25)  # a busy machine is no failure
@given(st.integers(1, 99))
def test_a_perfect_ranking_has_no_excess(wrong):
    bad = torch.arange(100) >= 100 - wrong
    histograms = by_key(bad.float(), bad)
    assert sparsification.e_aurc(*histograms).item() == pytest.approx(0, abs=1e-12)


def test_a_constant_uncertainty_has_the_full_risk_at_every_coverage():
    bad = torch.arange(10) < 3
    histograms = by_key(torch.ones(10), bad)
    assert sparsification.aurc(*histograms).item() == pytest.approx(0.3)
    everywhere = sparsification.risk_at_coverage(*histograms, torch.linspace(0.01, 1, 100))
    assert torch.allclose(everywhere, torch.tensor(0.3, dtype=torch.float64))


def test_two_pixels_by_hand():
    histograms = by_key(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    # Nothing lost up to coverage 1/2, then j/(1 + j): ∫₀¹ = 1 − log 2, over two pixels.
    assert sparsification.aurc(*histograms).item() == pytest.approx((1 - np.log(2)) / 2)


def poggi_by_hand(uncertainty, per_pixel, ranking, metric):
    """The published definition, step by step, with NumPy's percentiles."""

    def areas(key):
        thresholds = [np.percentile(key, 100 - 2 * step) for step in range(50)]
        curve = [metric(per_pixel[key <= t]) for t in thresholds] + [0.0]
        return np.trapezoid(curve, dx=0.02)

    ause = areas(uncertainty) - areas(ranking)
    return ause, metric(per_pixel) - areas(uncertainty)


@pytest.mark.parametrize("n", [1, 7, 50, 999])
@pytest.mark.parametrize("ties", [False, True])
def test_poggi_is_its_published_definition(n, ties):
    random = np.random.default_rng(n)
    target = random.uniform(1, 5, n)
    mean = target * random.lognormal(0, 0.2, n)
    uncertainty = np.abs(mean - target) * random.lognormal(0, 1, n)
    uncertainty = np.round(uncertainty, 1) if ties else uncertainty
    square, relative, ratio = (
        (mean - target) ** 2,
        np.abs(mean - target) / target,
        np.maximum(mean / target, target / mean),
    )
    far = (ratio >= 1.25).astype(float)
    found = sparsification.poggi(*(torch.tensor(x) for x in (uncertainty, square, relative, ratio)))
    expected = [
        poggi_by_hand(uncertainty, square, square, lambda e: np.sqrt(e.mean())),
        poggi_by_hand(uncertainty, relative, relative, np.mean),
        poggi_by_hand(uncertainty, far, ratio, np.mean),
    ]
    assert found.numpy() == pytest.approx(np.array(expected).T.flatten(), abs=1e-9)


def exact_area(key, errors):
    """AUSE's area by RMSE, with percentiles as fractions: a key that equals the percentile is kept."""
    order, n = np.argsort(key, kind="stable"), len(key)
    ordered, curve = [Fraction(float(value)) for value in key[order]], []
    for step in range(50):
        place = Fraction((n - 1) * (50 - step), 50)
        low, high = ordered[int(place)], ordered[min(int(place) + 1, n - 1)]
        kept = [value <= low + (high - low) * (place - int(place)) for value in ordered]
        curve.append(np.sqrt(errors[order][kept].mean()))
    return np.trapezoid([*curve, 0.0], dx=0.02)


@pytest.mark.parametrize("n", [*range(2, 65, 7), 51, 64])
def test_poggi_is_exact_where_a_percentile_falls_on_a_pixel(n):
    random = np.random.default_rng(n)
    uncertainty, square = (random.exponential(size=n).astype(np.float32) for _ in range(2))
    found = sparsification.poggi(*(torch.tensor(x) for x in (uncertainty, square, square, square)))
    wide = square.astype(np.float64)
    assert found[0].item() == pytest.approx(exact_area(uncertainty, wide) - exact_area(square, wide), abs=1e-9)


def ranks(uncertainty, error):
    square = error.square()
    return torch.stack([x.double() for x in (*by_key(uncertainty, square), *by_key(error, square))])


def test_pooled_rmse_areas_are_those_of_a_full_sort():
    random = torch.Generator().manual_seed(5)
    spread = torch.rand(20_000, generator=random) + 0.1
    error = (spread * torch.randn(20_000, generator=random)).abs()
    by_uncertainty, oracle = (sorted_risks(key, error.square())[1].sqrt().mean() for key in (spread, error))
    rmse = error.square().mean().sqrt()
    ause, aurg = sparsification.rmse_areas(ranks(spread, error))
    assert ause.item() == pytest.approx((by_uncertainty - oracle).item(), rel=2e-3)
    assert aurg.item() == pytest.approx((rmse - by_uncertainty).item(), rel=2e-3)


def test_pooled_rmse_areas_of_the_best_and_of_no_ranking():
    error = torch.rand(1000, generator=torch.Generator().manual_seed(6))
    assert sparsification.rmse_areas(ranks(error, error))[0] == 0
    assert sparsification.rmse_areas(ranks(torch.ones(1000), error))[1].abs() < 1e-12
