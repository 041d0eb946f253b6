"""The share of images that are flagged, on many random sets of held-out images; p-values and their multiple testing."""

import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import beta, binom, false_discovery_control

from sfumato.decisions import OutlierFlag, benjamini_hochberg, exceedances, image_scores, local_means
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.predictions import ClassPrediction


@pytest.mark.parametrize(("n", "rate", "delta"), [(101, 0.05, 0.1), (30, 0.2, 0.2)])
def test_the_share_of_flagged_images_is_kept_with_the_stated_probability(n, rate, delta):
    """Scores are uniform, so the share above the threshold is known. It exceeds the rate in at most a share δ."""
    torch.manual_seed(0)
    shares = torch.tensor([1 - OutlierFlag.fit(torch.rand(n), rate, delta).threshold for _ in range(1000)])
    failed = int((shares > rate).sum())
    assert binom.ppf(0.001, 1000, delta) / 3 < failed <= binom.ppf(0.999, 1000, delta)
    m = exceedances(n, rate, delta)
    assert float(shares.mean()) == pytest.approx(float(beta(m + 1, n - m).mean()), abs=0.003)


def test_allowed_exceedances_are_those_of_the_beta_distribution():
    for n in (22, 50, 101, 500):
        for rate, delta in ((0.1, 0.1), (0.05, 0.1), (0.2, 0.01)):
            fine = [m for m in range(n) if beta(m + 1, n - m).sf(rate) <= delta]
            assert exceedances(n, rate, delta) == (fine[-1] if fine else None)


def test_too_few_images_are_counted():
    with pytest.raises(DataError, match=r"44 held-out images are too few .* at least 45"):
        OutlierFlag.fit(torch.rand(44), 0.05, 0.1)
    assert exceedances(45, 0.05, 0.1) == 0


def test_p_values_are_ranks_among_the_held_out_scores():
    flag = OutlierFlag.fit(torch.tensor([3.0, 1.0, 2.0, 2.0]), 0.5, 0.2)
    assert flag.p_values(torch.tensor([0.0, 2.0, 2.5, 9.0])).tolist() == [1.0, 0.8, 0.4, 0.2]
    assert flag(torch.tensor([0.0, 9.0])).tolist() == [False, True]


def test_benjamini_hochberg_is_that_of_scipy():
    p = torch.rand(200, generator=torch.Generator().manual_seed(0)).double() ** 3
    assert benjamini_hochberg(p, 0.1).tolist() == (false_discovery_control(p.numpy()) <= 0.1).tolist()
    assert not benjamini_hochberg([0.9, 0.8], 0.1).any()
    assert benjamini_hochberg([], 0.1).tolist() == []
    with pytest.raises(ConfigError, match="rate is 1"):
        benjamini_hochberg(p, 1)


def test_few_of_the_flagged_images_of_a_mixture_are_like_the_held_out_ones():
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        flag = OutlierFlag.fit(torch.randn(300), 0.1, 0.1)
        new = torch.cat([torch.randn(80), 3 + torch.randn(20)])
        rejected = benjamini_hochberg(flag.p_values(new), 0.1)
        shares.append(float(rejected[:80].sum() / rejected.sum().clamp_min(1)))
    mean = sum(shares) / 200
    assert 0.03 < mean <= 0.1 + 0.015


def prediction(confidence):
    probs = torch.stack([confidence, 1 - confidence], 1)
    return ClassPrediction(probs, 0 * confidence, 2)


def test_a_side_finds_a_small_object_and_says_where():
    generator = torch.Generator().manual_seed(0)
    noise = lambda: 0.9 + 0.09 * torch.rand(1, 24, 32, generator=generator)
    held = [prediction(noise()) for _ in range(40)]
    flag = OutlierFlag.fit(torch.cat([image_scores(p, "epistemic", 5) for p in held]), 0.1, 0.1, side=5)
    whole = OutlierFlag.fit(torch.cat([image_scores(p) for p in held]), 0.1, 0.1)
    strange = noise()
    strange[:, 8:13, 20:25] = 0.6
    strange[:, :, :8] = 0.99
    found = prediction(strange)
    assert bool(flag(flag.score(found)))
    assert not bool(whole(whole.score(found)))
    pixels = flag.flagged_pixels(found)[0]
    assert bool(pixels[10, 22])
    assert not bool(pixels[:, :16].any())
    assert bool((flag.p_values(flag.map(found))[0][pixels] <= 0.1).all())
    assert not bool(flag.flagged_pixels(held[0]).any()) or bool(flag(flag.score(held[0])))
    with pytest.raises(ConfigError, match="whole images"):
        whole.flagged_pixels(found)


def test_local_means_are_those_of_scipy():
    maps = torch.rand(1, 12, 14, generator=torch.Generator().manual_seed(0)).double()
    inside = uniform_filter(maps[0].numpy(), 5)[2:-2, 2:-2]
    assert local_means(maps, 5)[0, 2:-2, 2:-2].flatten().tolist() == pytest.approx(inside.flatten().tolist())
    assert float(local_means(maps, 3)[0, 0, 0]) == pytest.approx(float(maps[0, :2, :2].mean()))


def test_bad_requests():
    with pytest.raises(ConfigError, match="rate is 0"):
        OutlierFlag.fit(torch.rand(50), 0)
    with pytest.raises(ConfigError, match="side is 4"):
        OutlierFlag.fit(torch.rand(50), 0.1, side=4)
    with pytest.raises(NotFiniteError, match="scores of the OutlierFlag"):
        OutlierFlag.fit(torch.tensor([torch.nan] * 50), 0.1)
    found = prediction(torch.full((1, 6, 8), 0.9))
    with pytest.raises(ConfigError, match="gives no novelty"):
        image_scores(found, "novelty")
    with pytest.raises(ConfigError, match="measure is 'entropy'"):
        image_scores(found, "entropy")
    with pytest.raises(NotFiniteError, match="NaN"):
        image_scores(found.with_novelty(torch.full((1, 6, 8), torch.nan)), "novelty")
    with pytest.raises(ConfigError, match="one value for each image"):
        image_scores(prediction(torch.full((3,), 0.9)), side=3)


def test_kept_in_files(tmp_path):
    flag = OutlierFlag.fit(torch.rand(50), 0.1, 0.1, measure="total", side=3)
    flag.save(tmp_path / "file")
    again = OutlierFlag.load(tmp_path / "file")
    assert again.threshold == flag.threshold
    assert (again.measure, again.side) == ("total", 3)
