"""Deep sea by its rules, and an agent that solves it where the same agent without priors does not."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import AddRenderObservation

from sfumato.errors import ConfigError, NotFiniteError
from sfumato.exploration import AgentOptions, BootstrappedDQN, DeepSea, QNetwork, episodes


def total(env, actions):
    env.reset()
    found = [env.step(action) for action in actions]
    assert [each[2] for each in found] == [False] * (env.size - 1) + [True]
    return sum(each[1] for each in found), found[-1][4]["missed"]


def test_it_is_an_environment_of_gymnasium():
    check_env(DeepSea(4), skip_render_check=True)


def test_one_sequence_of_actions_reaches_the_treasure_and_all_others_lose():
    env = DeepSea(5)
    rewards = {actions: total(env, actions) for actions in itertools.product((0, 1), repeat=5)}
    won = [reward for reward, missed in rewards.values() if not missed]
    assert won == [pytest.approx(1 - 0.01)]
    assert all(-0.01 < reward <= 0 for reward, missed in rewards.values() if missed)


def test_the_meaning_of_actions_is_that_of_bsuite():
    mapping = np.random.RandomState(42).binomial(1, 0.5, (10, 10))
    env = DeepSea(10)
    env.reset()
    for row in range(10):
        assert env.right() == mapping[row, row]
        env.step(env.right())


def test_observations_show_the_diver():
    env = DeepSea(3)
    observation, _ = env.reset()
    assert observation.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    observation = env.step(env.right())[0]
    assert observation.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    env.step(1 - env.right())
    assert env.step(0)[0].sum() == 0
    with pytest.raises(ConfigError, match="the episode is over"):
        env.step(0)


def episodes_until_treasure(agent, env, limit):
    for episode in episodes(env, agent):
        if not episode.info["missed"] or episode.number == limit:
            return episode.number
    raise AssertionError


def test_it_finds_the_treasure_long_before_random_actions_do():
    agent = BootstrappedDQN(lambda: QNetwork((7, 7), 2), AgentOptions(members=10, batch=32))
    assert episodes_until_treasure(agent, DeepSea(7), 120) < 90  # random actions: 128 on average


def test_it_learns_from_pictures():
    env = AddRenderObservation(DeepSea(3, render_mode="rgb_array"))
    agent = BootstrappedDQN(lambda: QNetwork((12, 12, 3), 2), AgentOptions(members=5, batch=16))
    missed = [episode.info["missed"] for episode in itertools.islice(episodes(env, agent), 80)]
    assert sum(missed[-20:]) < 5  # random actions miss 7 of 8


def test_priors_make_members_differ_where_there_are_no_data():
    seen, never = np.zeros((2, 4, 4), np.float32)
    seen[0, 0] = never[3, 3] = 1
    spreads = {}
    for prior in (0.0, 3.0):
        agent = BootstrappedDQN(lambda: QNetwork((4, 4), 2), AgentOptions(members=8, batch=16, prior=prior))
        for _ in range(300):
            agent.learn(seen, 0, 0.5, np.zeros((4, 4), np.float32), ended=True)
        known = agent.values(seen[None])[:, 0, 0]
        spreads[prior] = agent.values(never[None])[:, 0, 0].std()
        assert known.mean().item() == pytest.approx(0.5, abs=0.05)
        assert known.std() < 0.05
    assert spreads[3.0] > 2 * spreads[0.0]


def test_the_same_seed_plays_the_same_episodes():
    played = []
    for seed in (0, 0, 1):
        agent = BootstrappedDQN(lambda: QNetwork((3, 3), 2), AgentOptions(members=4, batch=8), seed)
        played.append([(e.member, round(e.total, 9)) for e in itertools.islice(episodes(DeepSea(3), agent), 8)])
    assert played[0] == played[1] != played[2]


def test_members_together_are_the_members_one_by_one():
    agent = BootstrappedDQN(lambda: QNetwork((4, 4), 3), AgentOptions(members=5))
    inputs = torch.rand(7, 4, 4)
    together = agent.learned(inputs)
    assert together.shape == (5, 7, 3)
    for member in range(5):
        assert torch.allclose(agent.learned.one(member, inputs), together[member], atol=1e-6)


def test_bad_choices_are_refused():
    for choices, message in (({"members": 0}, "members is 0"), ({"prior": -1.0}, "prior is -1"),
                             ({"mask": 0.0}, "mask is 0"), ({"discount": 1.5}, "discount is 1.5")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            AgentOptions(**choices)
    with pytest.raises(ConfigError, match="size is 1"):
        DeepSea(1)
    with pytest.raises(ConfigError, match="render_mode is 'human'"):
        DeepSea(4, render_mode="human")
    with pytest.raises(ConfigError, match="1 actions"):
        QNetwork((3,), 1)
    agent = BootstrappedDQN(lambda: QNetwork((3,), 2), AgentOptions(members=2))
    with pytest.raises(NotFiniteError, match="the reward is nan"):
        agent.learn(np.zeros(3, np.float32), 0, float("nan"), np.zeros(3, np.float32), ended=False)
