"""The limits on risk, checked on many random sets of images, and their arithmetic, checked by brute force."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import binom

from sfumato.calibration import ConformalIntervals, ConformalSets, conformal_for, images_needed
from sfumato.calibration.conformal import (
    MULTIPLES,
    THRESHOLDS,
    _above,
    _below,
)
from sfumato.calibration.risk import controlled, p_values
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError
from sfumato.predictions import ClassPrediction, PredictionInterval, PredictionSet, ValuePrediction

K, SIZE = 5, (12, 16)


def images(count, seed):
    """Images that differ in how badly they are predicted; pixels of one are not independent of each other."""
    generator = torch.Generator().manual_seed(seed)
    held = []
    for _ in range(count):
        truth = torch.randint(K, (1, *SIZE), generator=generator)
        skill = 3 * torch.rand((), generator=generator)
        logits = skill * torch.nn.functional.one_hot(truth, K).movedim(-1, 1)
        probs = torch.softmax(logits + torch.randn(1, K, *SIZE, generator=generator), 1)
        valid = torch.rand(1, *SIZE, generator=generator) > 0.1
        held.append((ClassPrediction(probs, torch.zeros(1, *SIZE)), truth.where(valid, 99), valid))
    return held


def depths(count, seed):
    generator = torch.Generator().manual_seed(seed)
    held = []
    for _ in range(count):
        mean = 5 + torch.rand(1, 1, *SIZE, generator=generator)
        scale = (torch.randn((), generator=generator)).exp()
        target = mean + scale * torch.randn(1, 1, *SIZE, generator=generator)
        held.append((ValuePrediction(mean, torch.ones(1, 1, *SIZE), torch.zeros(1, 1, *SIZE)), target,
                     torch.ones(1, *SIZE) > 0))  # fmt: skip
    return held


def risk(conformal, held, of=None):
    """Mean over images of the share of pixels missed."""
    rows = []
    for prediction, target, valid in held:
        counted = valid if of is None else valid & (target == of)
        missed = conformal(prediction).missed(target.where(valid, 0) if target.dtype == torch.int64 else target)
        rows.append(missed[counted].double().mean())
    return torch.stack(rows).nanmean().item()


@pytest.mark.parametrize(("make", "kind"), [(images, ConformalSets), (depths, ConformalIntervals)])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_expected_risk_stays_below_the_level(make, kind, level):
    """Over 60 draws of 30 held-out images; the mean risk may exceed 1 − level by chance only."""
    other = make(200, 10_000)
    risks = torch.tensor([risk(kind.fit(make(30, seed), level), other) for seed in range(60)])
    error = risks.std() / math.sqrt(60)
    assert risks.mean() <= 1 - level + 3 * error
    assert risks.mean() >= 1 - level - 1.5 / 31 - 3 * error  # and is not kept by sets of everything


@pytest.mark.parametrize(("make", "kind"), [(images, ConformalSets), (depths, ConformalIntervals)])
def test_risk_stays_below_the_level_with_the_stated_probability(make, kind):
    """The share of 40 draws whose risk exceeds 0.2 is at most δ = 0.2, within a binomial's bounds."""
    other = make(100, 20_000)
    failed = sum(risk(kind.fit(make(40, seed), 0.8, 0.2), other) > 0.2 for seed in range(40))
    assert failed <= binom.ppf(0.999, 40, 0.2)


def scenes(count):
    """Scenes as a network might see them: their true distribution, blurred more in some scenes than in others."""
    data, generator = Scenes(count, size=(24, 32), seed=7), torch.Generator().manual_seed(0)
    held = []
    for sample in (data[index] for index in range(count)):
        noise = torch.rand((), generator=generator) * torch.randn(sample["class_probs"].shape, generator=generator)
        probs = torch.softmax(sample["class_probs"].clamp_min(0.01).log() + 2 * noise, 0)[None]
        prediction = ClassPrediction(probs, torch.zeros(1, 24, 32))
        held.append((prediction, sample["classes"][None], sample["classes_valid"][None]))
    return held


@pytest.mark.parametrize("delta", [0.0, 0.2])
def test_risk_on_scenes_over_random_splits(delta):
    """Every split of 120 scenes fits on 40 and is scored on 80: the mean risk, or how often it is too large."""
    held, risks = scenes(120), []
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        order = torch.randperm(120, generator=generator).tolist()
        fitted = ConformalSets.fit([held[i] for i in order[:40]], 0.95, delta)
        risks.append(risk(fitted, [held[i] for i in order[40:]]))
    risks = torch.tensor(risks)
    if delta:
        assert int((risks > 0.05).sum()) <= binom.ppf(0.999, 30, delta)
    else:
        assert risks.mean() <= 0.05 + 3 * risks.std() / math.sqrt(30)
        assert risks.mean() >= 0.02


def test_false_negatives_of_one_class_stay_below_the_level():
    other = images(200, 30_000)
    fitted = [ConformalSets.fit(images(30, seed), 0.9, class_index=2) for seed in range(40)]
    risks = torch.tensor([risk(g, other, of=2) for g in fitted])
    assert risks.mean() <= 0.1 + 3 * risks.std() / math.sqrt(40)
    members = fitted[0](other[0][0]).members
    best = torch.nn.functional.one_hot(other[0][0].label, K).movedim(-1, 1).bool()
    keep = [0, 1, 3, 4]
    assert torch.equal(members[:, keep], best[:, keep])  # of the other classes, only the most probable


def test_losses_are_what_counting_gives():
    own = torch.tensor([1.0, 0.3, 0.3, 1e-3, 0.0])
    brute = torch.tensor([float((own < t).float().mean()) for t in THRESHOLDS])
    assert torch.allclose(_below(own), brute)
    error = torch.tensor([0.0, 0.5, 2.0, 1e9])
    brute = torch.tensor([float((error > m).float().mean()) for m in MULTIPLES])
    assert torch.allclose(_above(error), brute)
    assert _below(own)[-1] == _above(error)[-1] == 0


def test_the_choice_is_the_smallest_that_keeps_the_risk():
    losses = torch.linspace(1, 0, 11).expand(20, -1)
    place = controlled(losses, 0.3, 0)
    assert (20 * losses[0, place] + 1) / 21 <= 0.3 < (20 * losses[0, place - 1] + 1) / 21


def test_the_walk_ends_at_the_first_failure():
    """A choice that would pass behind one that fails is not taken, whatever the place of both among the chunks."""
    for choices, bad in ((11, 4), (300, 200), (300, 0), (64, 63)):
        losses = torch.zeros(60, choices)
        losses[:, bad] = 0.5
        assert controlled(losses, 0.1, 0.1) == (bad + 1 if bad + 1 < choices else choices - 1)
    assert controlled(torch.zeros(60, 300), 0.1, 0.1) == 0


def by_hand(losses, risk, delta):
    """The capital of the gambler, one image after another."""
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(0)).tolist()
    capital, most, total, spread = 1.0, 0.0, 0.5, 0.25
    for t, loss in enumerate((float(losses[i]) for i in order), start=1):
        variance = spread / t
        capital *= 1 - min(1, math.sqrt(2 * math.log(1 / delta) / (len(losses) * variance))) * (loss - risk)
        total += loss
        spread += (loss - total / (t + 1)) ** 2
        most = max(most, capital)
    return min(1.0, 1 / most)


def test_the_p_value_is_one_over_the_largest_capital():
    losses = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([0.2, 0.1, 0.9])
    found = p_values(losses, 0.15, 0.1)
    assert found.tolist() == pytest.approx([by_hand(column, 0.15, 0.1) for column in losses.T])
    assert float(found[1]) < 0.1 < float(found[2])


@pytest.mark.parametrize("shape", [None, (0.5, 4.5), (3, 27), (1, 9)])
def test_the_p_value_is_small_by_chance_only(shape):
    """Losses whose mean is the tested one: p ≤ 0.1 in at most a tenth of 2000 draws, within a binomial's bounds."""
    torch.manual_seed(3)
    risk = 0.1
    if shape is None:
        losses = (torch.rand(80, 2000) < risk).double()
    else:
        losses = torch.distributions.Beta(*(torch.tensor(float(v)) for v in shape)).sample((80, 2000))
    small = int((p_values(losses, risk, 0.1) <= 0.1).sum())
    assert small <= binom.ppf(0.999, 2000, 0.1)
    assert int((p_values(losses * 0.5, risk, 0.1) <= 0.1).sum()) > 400  # and it finds means that are smaller


def hoeffding_bentkus(mean, risk, images):
    """The bound that knows the mean only: Angelopoulos et al. (2022), proposition 1."""
    if mean >= risk:
        return 1.0
    entropy = (mean * math.log(mean / risk) if mean else 0) + (1 - mean) * math.log((1 - mean) / (1 - risk))
    return min(math.exp(-images * entropy), math.e * binom.cdf(math.ceil(images * mean - 1e-9), images, risk))


def test_shares_of_pixels_are_certified_at_a_lower_risk_than_by_their_mean_alone():
    """The smallest risk that is certified, mean over 20 draws: at most three quarters of that of Hoeffding-Bentkus."""
    torch.manual_seed(0)
    losses, risks = torch.distributions.Beta(0.4, 19.6).sample((101, 20)).double(), [r / 1000 for r in range(20, 120)]
    ours = torch.stack([p_values(losses, r, 0.1) <= 0.1 for r in risks]).int().argmax(0)
    theirs = [next(i for i, r in enumerate(risks) if hoeffding_bentkus(m, r, 101) <= 0.1) for m in losses.mean(0)]
    mean = [sum(risks[int(i)] for i in places) / 20 for places in (ours, theirs)]
    assert mean[0] <= 0.75 * mean[1]


@pytest.mark.parametrize(("level", "delta"), [(0.9, 0), (0.95, 0), (0.9, 0.1), (0.5, 0.01)])
def test_too_few_images_are_counted(level, delta):
    needed = images_needed(1 - level, delta)
    perfect = torch.zeros(needed, 4)
    controlled(perfect, 1 - level, delta)
    with pytest.raises(ValueError, match=f"at least {needed}"):
        controlled(perfect[1:], 1 - level, delta)


def test_sets_hold_the_label_and_intervals_the_mean():
    held = images(20, 0)
    sets = ConformalSets.fit(held, 0.5)(held[0][0])
    assert sets.members.gather(1, held[0][0].label[:, None]).all()
    assert int(sets.size.min()) >= 1
    values = depths(20, 0)
    interval = ConformalIntervals.fit(values, 0.5)(values[0][0])
    assert bool((interval.lower <= values[0][0].mean).all() & (interval.upper >= values[0][0].mean).all())


def test_higher_levels_never_shrink():
    held, prediction = images(40, 0), images(1, 7)[0][0]
    sizes = [ConformalSets.fit(held, level)(prediction).size for level in (0.6, 0.8, 0.9, 0.95)]
    assert all(bool((b >= a).all()) for a, b in pairwise(sizes))


def test_an_image_without_the_class_does_not_count():
    held = images(20, 0)
    blank = [(p, torch.zeros_like(t), v) for p, t, v in images(5, 1)]
    assert (
        ConformalSets.fit(held + blank, 0.9, class_index=2).images
        == ConformalSets.fit(held, 0.9, class_index=2).images
        == 20
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 1.0}, "level is 1.0"),
        ({"delta": -0.1}, "delta is -0.1"),
        ({"class_index": 7}, "no class 7"),
        ({"level": 0.99}, "at least 99"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConformalSets.fit(images(20, 0), **arguments)


def test_a_hopeless_sigma_is_named():
    held = [(ValuePrediction(p.mean, 0 * p.mean, 0 * p.mean), t, v) for p, t, v in depths(20, 0)]
    with pytest.raises(ValueError, match="calibrate with"):
        ConformalIntervals.fit(held)


def test_kept_in_files(tmp_path):
    held = images(20, 0)
    sets = ConformalSets.fit(held)(held[0][0])
    sets.save(tmp_path / "sets")
    assert torch.equal(PredictionSet.load(tmp_path / "sets").members, sets.members)
    values = depths(20, 0)
    interval = ConformalIntervals.fit(values)(values[0][0])
    interval.save(tmp_path / "interval")
    again = PredictionInterval.load(tmp_path / "interval")
    assert torch.equal(again.upper, interval.upper)
    assert again.level == 0.9
    assert "<img" in interval._repr_html_()
    assert "<img" in sets._repr_html_()


@pytest.mark.parametrize("kind", ["class", "value"])
def test_one_prediction_per_image_has_the_numbers_of_a_map_of_one_pixel(kind):
    generator = torch.Generator().manual_seed(0)
    maps = []
    for _ in range(60):
        x, noise = torch.randn(2, 1, K, 1, 1, generator=generator)
        if kind == "class":
            p, t = ClassPrediction((2 * x).softmax(1), torch.zeros(1, 1, 1)), (x + noise).argmax(1)
        else:
            p, t = ValuePrediction(x, torch.ones_like(x), torch.zeros_like(x)), x + noise
        maps.append((p, t, torch.ones(1, 1, 1) > 0))
    single = [
        (type(p)(*(v[..., 0, 0] for v in vars(p).values() if isinstance(v, torch.Tensor))), t[..., 0, 0], v[..., 0, 0])
        for p, t, v in maps
    ]
    method = conformal_for(kind)
    first, second = method.fit(single, 0.8), method.fit(maps, 0.8)
    assert first.images == second.images == 60
    assert torch.equal(first(single[0][0]).size, second(maps[0][0]).size[..., 0, 0])
    assert method.target == kind


def test_there_is_no_conformal_method_for_other_kinds():
    with pytest.raises(ValueError, match="no conformal method for 'pose'"):
        conformal_for("pose")


@pytest.mark.parametrize(("make", "kind"), [(images, ConformalSets), (depths, ConformalIntervals)])
@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_repeated_frames_of_a_sequence_count_once(make, kind, delta):
    held = make(60, seed=5)
    names = [str(number) for number in range(60) for _ in range(3)]
    frames = [each for each in held for _ in range(3)]
    single, video = kind.fit(held, 0.7, delta), kind.fit(frames, 0.7, delta, sequences=names)
    found = "thresholds" if kind is ConformalSets else "multiple"
    assert torch.equal(getattr(single, found), getattr(video, found))
    assert (video.images, video.unit, single.unit) == (60, "sequence", "image")
    assert video.risk_text().endswith("mean over sequences")
    if delta:  # as images they would count as three times as many, and promise too much
        certain = kind.fit(frames, 0.7, delta)
        assert certain.images == 180
        assert not torch.equal(getattr(certain, found), getattr(single, found))


def test_too_few_sequences():
    with pytest.raises(DataError, match=r"2 held-out sequences are too few for level 0.9: it needs at least 9"):
        ConformalSets.fit(images(40, seed=1), 0.9, sequences=["a"] * 30 + ["b"] * 10)
    with pytest.raises(ConfigError, match="sequences names 3 images, but 40 are held out"):
        ConformalSets.fit(images(40, seed=1), 0.9, sequences=["a"] * 3)
