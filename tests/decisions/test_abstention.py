"""Abstention keeps its budget, on many random sets of images; and accepts much where uncertainty tells errors."""

import math
from contextlib import suppress

import pytest
import torch
from scipy.stats import binom

from sfumato.calibration import images_needed
from sfumato.decisions import Abstention, Costs, boxes, label_regions
from sfumato.decisions.thresholds import Row, chosen
from sfumato.errors import ConfigError, DataError
from sfumato.predictions import ClassPrediction, ValuePrediction

K, SIZE = 4, (8, 10)


def images(count, seed, informative=True):
    """Images of different difficulty, which their uncertainty shows, or does not show."""
    generator = torch.Generator().manual_seed(seed)
    held = []
    for _ in range(count):
        difficulty = torch.rand((), generator=generator)
        wrong = torch.rand(1, *SIZE, generator=generator) < 0.3 * difficulty**3
        label = torch.randint(K, (1, *SIZE), generator=generator)
        other = (label + 1 + torch.randint(K - 1, (1, *SIZE), generator=generator)) % K
        shown = difficulty if informative else torch.rand((), generator=generator)
        confidence = (1 - 0.6 * shown - 0.05 * torch.rand(1, *SIZE, generator=generator)).clamp(0.3, 0.999)
        probs = torch.full((1, K, *SIZE), 1.0) * ((1 - confidence) / (K - 1))[:, None]
        probs = probs.scatter(1, label[:, None], confidence[:, None])
        valid = torch.rand(1, *SIZE, generator=generator) > 0.1
        target = other.where(wrong, label).where(valid, 99)
        held.append((ClassPrediction(probs, torch.zeros(1, *SIZE)), target, valid))
    return held


def realized(abstain, held):
    """Mean share of the accepted pixels that are wrong, over images with any; mean share that is accepted."""
    risks, shares = [], []
    for prediction, target, valid in held:
        counted = abstain.counted(target, valid)
        if bool(counted.any()):
            accepted = abstain(prediction) & counted
            shares.append(float(accepted.sum() / counted.sum()))
            if bool(accepted.any()):
                risks.append(float((prediction.label != target)[accepted].double().mean()))
    return sum(risks) / max(1, len(risks)), sum(shares) / len(shares)


@pytest.mark.parametrize("unit", ["pixel", "image"])
@pytest.mark.parametrize("class_index", [None, 2])
def test_the_budget_is_kept_with_the_stated_probability(unit, class_index):
    """The share of 40 draws whose risk exceeds the budget is at most δ = 0.2, within a binomial's bounds."""
    other, found = images(400, 9_000), []
    for seed in range(40):
        with suppress(DataError):  # some draws promise nothing
            fitted = Abstention.fit(images(120, seed), 0.05, 0.2, unit=unit, class_index=class_index)
            found.append(realized(fitted, other))
    assert sum(risk > 0.05 for risk, _ in found) <= binom.ppf(0.999, 40, 0.2)
    coverage = sum(share for _, share in found) / 40
    assert 0.4 < coverage < 0.95  # all pixels would have a risk of 0.075


COSTS = Costs(("act", "wait"), torch.tensor([[0.0, 8.0, 2.0, 2.0], [1.0, 0.0, 1.0, 1.0]]))


def cost_of(abstain, held):
    """Mean cost of the accepted pixels, by hand: the action is the one with the least expected cost."""
    found = []
    for prediction, target, valid in held:
        accepted = abstain(prediction) & valid
        if bool(accepted.any()):
            expected = torch.einsum("ak,bkhw->bahw", COSTS.matrix, prediction.probs)
            found.append(float(COSTS.matrix[expected.argmin(1)[accepted], target[accepted]].double().mean()))
    return sum(found) / max(1, len(found))


def test_a_budget_of_cost_is_kept_with_the_stated_probability():
    other, found, shares = images(400, 9_000), [], []
    everything = Abstention(torch.tensor([torch.finfo(torch.float32).max]), 0.5, 0.2)
    assert cost_of(everything, other) > 0.5
    for seed in range(30):
        with suppress(DataError):
            fitted = Abstention.fit(images(150, seed), 0.45, 0.2, costs=COSTS, measure="cost")
            found.append(cost_of(fitted, other))
            shares.append(fitted.coverage)
    assert sum(cost > 0.45 for cost in found) <= binom.ppf(0.999, 30, 0.2)
    assert len(found) >= 20
    assert 0.2 < sum(shares) / len(shares) < 1


def test_costs_of_errors_alone_are_the_share_of_errors():
    """With a cost of 1 for each error, the mean cost is the share of wrong pixels."""
    held = images(200, 5)
    ones = Costs(tuple("abcd"), 1 - torch.eye(K))
    by_cost = Abstention.fit(held, 0.05, 0.2, costs=ones, measure="total")
    by_error = Abstention.fit(held, 0.05, 0.2)
    assert torch.equal(by_cost.threshold, by_error.threshold)
    shifted = Costs(tuple("abcd"), 10 * (1 - torch.eye(K)) - 3)  # −3 + 10 × share
    by_shift = Abstention.fit(held, 0.05 * 10 - 3, 0.2, costs=shifted, measure="total")
    assert torch.equal(by_shift.threshold, by_error.threshold)


def test_a_stored_budget_of_cost_is_read_back(tmp_path):
    fitted = Abstention.fit(images(150, 0), 0.6, 0.2, costs=COSTS, measure="cost")
    fitted.save(tmp_path / "a.safetensors")
    again, (prediction, _, _) = Abstention.load(tmp_path / "a.safetensors"), images(1, 7)[0]
    assert torch.equal(again.costs, COSTS.matrix)
    assert torch.equal(again(prediction), fitted(prediction))
    assert "mean cost of an image's accepted pixels" in again.text()


def test_the_limit_is_the_end_of_the_key():
    rule = Abstention(torch.tensor([0.7]), 0.1, 0.1)
    values = torch.linspace(0.69, 0.71, 999)
    from sfumato.metrics import histogram

    by_key = histogram.key(values) <= int(histogram.key(rule.threshold)[0])
    assert torch.equal(values < rule.limit, by_key)
    assert math.isinf(Abstention(torch.tensor([torch.finfo(torch.float32).max]), 0.1, 0.1).limit)


def test_the_accepted_share_is_what_the_held_out_images_said():
    fitted = Abstention.fit(images(400, 1), 0.05, 0.1)
    assert realized(fitted, images(400, 2))[1] == pytest.approx(fitted.coverage, abs=0.1)
    assert fitted.images == 400


def test_a_larger_budget_accepts_more():
    held = images(400, 3)
    shares = [Abstention.fit(held, risk, 0.1).coverage for risk in (0.03, 0.06, 0.2)]
    assert shares[0] < shares[1] < shares[2] == 1.0


def test_without_information_nothing_is_promised():
    with pytest.raises(DataError, match=r"no threshold keeps a risk of 0.05 .* risk 0.0.* on .* Allow a larger risk"):
        Abstention.fit(images(200, 0, informative=False), 0.05, 0.1, unit="image")


@pytest.mark.parametrize(("risk", "delta"), [(0.1, 0.1), (0.05, 0.2)])
def test_too_few_images_are_counted(risk, delta):
    with pytest.raises(DataError, match="needs at least") as error:
        Abstention.fit(images(12, 0), risk, delta)
    enough = int(str(error.value).rpartition(" ")[2])
    assert enough - enough // 5 >= images_needed(risk, delta)
    sure = [Row.of(torch.rand(20), torch.zeros(20)) for _ in range(enough)]
    assert chosen(sure, risk, delta)[1] == 1.0
    with pytest.raises(DataError, match=f"at least {enough}"):
        chosen(sure[1:], risk, delta)


def test_a_unit_has_the_mean_of_its_pixels():
    label = torch.tensor([[0, 0, 1], [1, 0, 1]])
    probs = torch.nn.functional.one_hot(label, 2).movedim(-1, 0)[None] * torch.tensor(
        [[0.9, 0.8, 0.7], [0.6, 0.7, 0.9]]
    )
    probs = probs + (1 - probs.sum(1, keepdim=True)) * (probs == 0)
    prediction = ClassPrediction(probs, torch.zeros(1, 2, 3))
    maps = {
        unit: Abstention(torch.ones(1), 0.1, 0.1, unit).uncertainty(prediction)[0]
        for unit in ("pixel", "region", "image")
    }
    u = prediction.total[0]
    assert torch.equal(maps["pixel"], u)
    assert torch.allclose(maps["image"], u.mean().expand(2, 3))
    zeros, right = (u[0, 0] + u[0, 1] + u[1, 1]) / 3, (u[0, 2] + u[1, 2]) / 2
    expected = torch.stack([torch.stack([zeros, zeros, right]), torch.stack([u[1, 0], zeros, right])])
    assert torch.allclose(maps["region"], expected)


def test_rows_count_pixels_by_hand():
    row = Row.of(torch.tensor([0.5, 0.1, 0.5, 2.0]), torch.tensor([True, False, False, True]))
    shares, losses = row.up_to(torch.cat([row.keys - 1, row.keys]))
    assert shares.tolist() == [0, 0.25, 0.75, 0.25, 0.75, 1]
    assert math.isnan(float(losses[0]))
    assert losses[1:].tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 0.5])


def test_values_have_a_tolerance():
    generator = torch.Generator().manual_seed(0)
    held = []
    for _ in range(120):
        sigma = 0.1 + torch.rand(1, 1, *SIZE, generator=generator)
        error = sigma * torch.randn(1, 1, *SIZE, generator=generator)
        held.append((ValuePrediction(5 + 0 * sigma, sigma**2, 0 * sigma), 5 + error, torch.ones(1, *SIZE) > 0))
    fitted = Abstention.fit(held, 0.1, 0.1, tolerance=1.0)
    assert float(fitted.threshold) < 1  # variance: only where σ is below 1 are errors above 1 rare enough
    accepted = torch.cat([fitted(p) for p, _, _ in held])
    wrong = torch.cat([fitted.loss(p, t) for p, t, _ in held])
    assert 0.5 < float(accepted.double().mean()) < 1
    assert float(wrong[accepted].double().mean()) <= 0.1 < float(wrong[~accepted].double().mean())
    with pytest.raises(ConfigError, match="tolerance is 0"):
        Abstention.fit(held, 0.1, 0.1)
    with pytest.raises(ConfigError, match="unit pixel or image for values"):
        Abstention.fit(held, 0.1, 0.1, unit="region", tolerance=1.0)
    with pytest.raises(ConfigError, match="a class is named"):
        Abstention.fit(held, 0.1, 0.1, class_index=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"risk": 0}, "risk is 0"),
        ({"delta": 1.5}, "delta is 1.5"),
        ({"unit": "frame"}, "unit is 'frame', expected one of pixel, region, image"),
        ({"measure": "novelty"}, "measure is 'novelty'"),
        ({"class_index": 4}, "no class 4"),
        ({"tolerance": 0.1}, "tolerance is for values"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Abstention.fit(images(40, 0), **arguments)


def test_kept_in_files(tmp_path):
    held = images(80, 0)
    fitted = Abstention.fit(held, 0.1, 0.1, unit="region")
    fitted.save(tmp_path / "file")
    again = Abstention.load(tmp_path / "file")
    assert torch.equal(again(held[0][0]), fitted(held[0][0]))
    assert again.text() == (
        "share of an image's accepted pixels that are wrong, mean over images with any: at most 0.1 with probability "
        "0.9"
    )
    assert "accepted car pixels that are missed" in Abstention(torch.ones(1), 0.1, 0.1, class_index=1).text(
        ("road", "car")
    )


def test_boxes_of_regions():
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]]) > 0
    assert boxes(mask) == [(0, 0, 2, 2, 3), (1, 3, 3, 4, 2)]
    assert boxes(mask & False) == []
    assert label_regions(torch.zeros(3, 3, dtype=torch.int64)).unique().tolist() == [0]
