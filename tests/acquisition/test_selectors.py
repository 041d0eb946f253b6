"""Scores by hand, noise against its closed form, the cover against a search of all, and the limits."""

import math
from itertools import islice

import pytest
import torch

from sfumato.acquisition import Candidates, grid, k_center, noisy, ranking, score_map, select, stratified, unit_numbers
from sfumato.decisions import Costs, Looking, LookMoments
from sfumato.errors import ConfigError
from sfumato.likelihoods import Categorical
from sfumato.predictions import ClassMoments


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def candidates(scores, images=None, by_class=None, features=None):
    count = len(scores)
    scores = torch.tensor(scores, dtype=torch.float32)
    classes = scores[:, None] if by_class is None else torch.tensor(by_class, dtype=torch.float32)
    shares = (classes > 0).float()
    pooled = torch.zeros(count, 0) if features is None else features
    images = torch.zeros(count, dtype=torch.int64) if images is None else torch.tensor(images)
    return Candidates(images, torch.arange(count), torch.ones(count), scores, classes, shares, pooled)


def look(probs, loss=None):
    costs = loss or Costs(("a", "b"), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    found = None
    for p in torch.tensor(probs):
        one = LookMoments.of(ClassMoments.of(p[None, :, None, None].clone()), costs)
        found = one if found is None else found.merge(one)
    return found.prediction()


def test_scores_by_hand():
    draws = [[0.8, 0.2, 0.0], [0.2, 0.2, 0.6]]  # the mean is .5, .2, .3
    found = {name: float(score_map(look(draws), name)) for name in
             ("entropy", "mutual-information", "margin", "variation-ratio", "evpi")}  # fmt: skip
    total = -sum(p * math.log(p) for p in (0.5, 0.2, 0.3))
    mean = sum(-p * math.log(p) for draw in draws for p in draw if p) / 2
    assert found["entropy"] == pytest.approx(total, rel=1e-5)
    assert found["mutual-information"] == pytest.approx(total - mean, rel=1e-5)
    assert found["margin"] == pytest.approx(0.8)  # 1 − (.5 − .3)
    assert found["variation-ratio"] == pytest.approx(0.5)
    # Action a costs .5 for the mean; the draws alone would cost .2 (a) and .2 (b).
    assert found["evpi"] == pytest.approx(0.5 - 0.2, rel=1e-5)


def test_scores_of_a_method_with_one_draw_have_no_mutual_information():
    output = torch.randn(2, 3, 4, 5)
    costs = Costs(("a", "b"), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    found = Looking(Categorical(3), costs).moments(output).prediction()
    assert float(score_map(found, "mutual-information").max()) == pytest.approx(0, abs=1e-6)
    assert float(score_map(found, "evpi").max()) == pytest.approx(0, abs=1e-6)


def test_a_unit_has_the_mean_of_its_pixels_and_the_parts_of_its_classes():
    numbers = grid(3, 4, 2)
    assert numbers.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]
    score = torch.rand(3, 4, generator=generator())
    label = torch.randint(3, (3, 4), generator=generator(1))
    features = torch.rand(5, 3, 4, generator=generator(2))
    found = Candidates.of_image(7, numbers, score, label, 3, features)
    for unit in range(4):
        inside = numbers == unit
        assert int(found.size[unit]) == int(inside.sum())
        assert float(found.score[unit]) == pytest.approx(float(score[inside].mean()))
        assert torch.allclose(found.features[unit], features[:, inside].mean(1))
        for k in range(3):
            own = score[inside & (label == k)].sum() / inside.sum()
            assert float(found.by_class[unit, k]) == pytest.approx(float(own), abs=1e-6)
            assert float(found.shares[unit, k]) == pytest.approx(float((label[inside] == k).float().mean()), abs=1e-6)


def test_superpixels_follow_colors_and_have_about_the_size():
    pytest.importorskip("skimage")
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, :, 33:] = 200
    numbers = unit_numbers("superpixel", image, 10, torch.zeros(40, 60, dtype=torch.bool), generator())
    counts = torch.bincount(numbers.flatten())
    assert counts.min() > 0
    assert 12 <= len(counts) <= 40
    for unit in range(len(counts)):
        assert len(image[0][numbers == unit].unique()) == 1  # none crosses the edge


def test_pixels_are_drawn_apart_from_those_that_were_asked_for():
    asked = torch.zeros(20, 30, dtype=torch.bool)
    asked[:2] = True
    numbers = unit_numbers("pixel", torch.zeros(3, 20, 30), 2, asked, generator(), most=50)
    assert int((numbers >= 0).sum()) == 100
    assert int((numbers[asked] >= 0).sum()) == 50
    inside = numbers >= 0
    assert torch.equal(numbers[inside], torch.arange(600).view(20, 30)[inside])


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_noise_draws_proportionally_to_a_power_of_the_score(beta):
    scores = torch.tensor([1.0, 2.0, 4.0])
    first = torch.stack([noisy(scores, beta, generator(seed))[0] for seed in range(6000)])
    expected = scores**beta / (scores**beta).sum()
    found = torch.bincount(first, minlength=3) / 6000
    assert torch.allclose(found, expected, atol=0.025)


def test_a_large_beta_is_the_order_of_the_scores():
    scores = torch.tensor([0.2, 0.9, 0.0, 0.5])
    assert noisy(scores, 1e9, generator()).tolist() == [1, 3, 0, 2]
    assert noisy(scores, 1e9, generator(), zeros=False).tolist() == [1, 3, 0]


def test_two_of_three_choices_go_through_the_classes():
    by_class = [[9, 0, 0], [8, 0, 0], [7, 0, 0], [6, 0, 0], [0, 2, 0], [0, 0, 1], [0, 1, 0]]
    pool = candidates([9, 8, 7, 6, 2, 1, 1], by_class=by_class)
    order = list(ranking("class-stratified", pool, generator(), beta=1e9))
    assert order == [0, 4, 1, 5, 2, 3, 6]  # classes 0 and 1, free, classes 2 and 0, free, class 1
    assert sorted(order) == list(range(7))


def test_classes_without_a_unit_are_passed_over():
    empty = torch.zeros(0, dtype=torch.int64)
    assert list(stratified([empty, torch.tensor([1])], torch.tensor([0, 1, 2]))) == [1, 0, 2]


def test_a_random_choice_by_class_reaches_a_rare_class():
    shares = [[1.0, 0.0]] * 99 + [[0.0, 1.0]]
    pool = candidates([1.0] * 100, by_class=shares)
    hits = sum(99 in islice(ranking("class-stratified-random", pool, generator(seed)), 2) for seed in range(20))
    plain = sum(99 in islice(ranking("random", pool, generator(seed)), 2) for seed in range(20))
    assert hits == 20
    assert plain < 5


def test_the_cover_is_the_greedy_one():
    features, centers = torch.rand(30, 4, generator=generator()), torch.rand(3, 4, generator=generator(1))
    known, expected = list(centers), []
    for _ in range(8):
        nearest = [min(float((f - c).norm()) for c in known) if i not in expected else -1.0
                   for i, f in enumerate(features)]  # fmt: skip
        expected.append(nearest.index(max(nearest)))
        known.append(features[expected[-1]])
    assert list(islice(k_center(features, centers), 8)) == expected
    assert sorted(k_center(features, centers)) == list(range(30))


def test_limits_of_an_image_and_near_duplicates():
    pool = candidates([5, 4, 3, 2, 1], images=[0, 0, 0, 1, 1])
    assert select(ranking("top-k", pool, generator()), pool, 3, per_image=2) == [0, 1, 3]
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    pool = candidates([5, 4, 3, 2, 1], features=features)
    assert select(ranking("top-k", pool, generator()), pool, 3, similarity=0.99) == [0, 2, 3]
    twins = candidates([3, 2, 1], features=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert select(ranking("top-k", twins, generator()), twins, 3, similarity=0.99) == [0, 2]  # fewer than three


def test_a_budget_larger_than_the_pool():
    pool = candidates([5, 4, 3], images=[0, 0, 1])
    with pytest.raises(ConfigError, match="budget is 4, but the pool has 3 units"):
        select(iter([0, 1, 2]), pool, 4)
    with pytest.raises(ConfigError, match=r"budget is 3, but the pool has 2 units .* at most 1 of an image"):
        select(iter([0, 1, 2]), pool, 3, per_image=1)
    with pytest.raises(ConfigError, match="budget is 0"):
        select(iter([0, 1, 2]), pool, 0)
