"""Which region to inspect: the posterior against closed forms, gains by hand, and policies that learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sfumato.decisions import Look
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.exploration import LinearBandit, RegionBandit, inspection_gains, region_features
from sfumato.predictions import ClassPrediction, entropy


def look(probs, value):
    return Look(ClassPrediction(probs, entropy(probs), 4), value)


def random_look(seed):
    rng = torch.Generator().manual_seed(seed)
    probs = (3 * torch.rand(1, 3, 16, 16, generator=rng)).softmax(1)
    return look(probs, 0.1 * torch.rand(1, 4, 4, generator=rng).repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_the_expected_reward_is_that_of_ridge_regression():
    rng = np.random.default_rng(0)
    x, w = rng.random((60, 4)), np.array([0.1, -0.3, 0.5, 0.0])
    y = x @ w + 0.05 * rng.normal(size=60)
    bandit = LinearBandit(4, ridge=0.5)
    for features, reward in zip(x, y):
        bandit.learn(torch.from_numpy(features), reward)
    others = rng.random((5, 4))
    expected = Ridge(0.5, fit_intercept=False).fit(x, y).predict(others)
    assert np.allclose(bandit.mean(torch.from_numpy(others)), expected, atol=1e-10)


def test_draws_have_the_mean_and_the_deviation_of_the_posterior():
    bandit, rng = LinearBandit(2), torch.Generator().manual_seed(0)
    for _ in range(40):
        x = torch.rand(2, generator=rng)
        bandit.learn(x, float(x.sum() + 0.1 * torch.randn((), generator=rng)))
    x = torch.tensor([[0.3, 0.9]])
    drawn = torch.stack([bandit.sample(x, rng) for _ in range(4000)])
    assert drawn.mean().item() == pytest.approx(bandit.mean(x).item(), abs=0.002)
    assert drawn.std().item() == pytest.approx(bandit.std(x).item(), rel=0.06)


def test_gains_are_those_counted_by_hand():
    target = torch.tensor([[0, 0, 1, 1]]).repeat(4, 1)
    label = target.clone()
    label[0, 0] = 1  # one wrong pixel, in the first of four regions
    found = inspection_gains(label, target, torch.ones(4, 4, dtype=torch.bool), 3, 2)
    before = (7 / 8 + 8 / 9) / 2
    assert found.tolist() == pytest.approx([1 - before, 0, 0, 0])


def test_pixels_without_labels_gain_nothing():
    target, label = torch.zeros(4, 4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.int64)
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[:2, :2] = False
    found = inspection_gains(label, target, valid, 2, 2)
    assert found[0] == 0
    assert (found[1:] > 0).all()


def test_features_are_means_over_regions():
    found = region_features(random_look(0), 4)
    assert found.shape == (16, 6)
    assert (found[:, 0] == 1).all()
    assert torch.allclose(found[:, 3], random_look(0).value[0, ::4, ::4].flatten(), atol=1e-6)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("policy", ["thompson", "ucb"])
def test_policies_learn_which_regions_pay(policy):
    """The reward is the value of the region. So the learned choice becomes the best one; random stays at the mean."""
    gained = {}
    for name in (policy, "random", "evpi"):
        bandit, regrets = RegionBandit(name, seed=1), []
        for number in range(150):
            one = random_look(number)
            rewards = region_features(one, 4)[:, 3]
            region = bandit.choose(one)
            bandit.learn(one, region, rewards[region].item())
            regrets.append((rewards.max() - rewards[region]).item())
        gained[name] = np.mean(regrets[50:])
    assert gained["evpi"] == 0
    assert gained[policy] < 0.1 * gained["random"]


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="policy is 'best'"):
        RegionBandit("best")
    with pytest.raises(ConfigError, match="features is 0"):
        LinearBandit(0)
    with pytest.raises(NotFiniteError, match="the reward is nan"):
        LinearBandit(1).learn(torch.ones(1), float("nan"))
    with pytest.raises(DataError, match="at least 99 × 99"):
        RegionBandit("evpi", grid=99).choose(random_look(0))
