"""Episodes of an agent in an environment of Gymnasium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sfumato.errors import ConfigError


class Agent(Protocol):
    """What plays episodes and learns from them."""

    def begin(self) -> int:
        """Prepare an episode. Returns what it follows."""
        ...

    def act(self, observation: np.ndarray) -> int:
        """The action."""
        ...

    def learn(self, observation: np.ndarray, action: int, reward: float, following: np.ndarray, *, ended: bool) -> None:
        """Learn from a step."""
        ...


@dataclass(frozen=True)
class Episode:
    """One episode.

    Args:
        number: It counts from 1.
        member: The member that was followed.
        total: Sum of the rewards.
        steps: Number of steps.
        info: What the environment said at the last step.
    """

    number: int
    member: int
    total: float
    steps: int
    info: dict[str, Any]


def episodes(env: Any, agent: Agent, seed: int = 0) -> Iterator[Episode]:
    """Play and learn without end. Stop to ask for more when it is enough.

    Args:
        env: An environment of Gymnasium with discrete actions.
        agent: Who plays.
        seed: Seed of the first reset. Default 0.

    Raises:
        ConfigError: If the actions of the environment are not discrete.

    >>> from sfumato.exploration import AgentOptions, BootstrappedDQN, DeepSea, QNetwork
    >>> env = DeepSea(3)
    >>> agent = BootstrappedDQN(lambda: QNetwork((3, 3), 2), AgentOptions(members=5))
    >>> next(episodes(env, agent)).steps
    3
    """
    if not hasattr(env.action_space, "n"):
        raise ConfigError(f"the actions are {env.action_space}, expected a discrete number of them")
    number = 0
    while True:
        number += 1
        member = agent.begin()
        observation, info = env.reset(seed=seed if number == 1 else None)
        total, steps, over = 0.0, 0, False
        while not over:
            action = agent.act(observation)
            following, reward, ended, cut, info = env.step(action)
            agent.learn(observation, action, float(reward), following, ended=bool(ended))
            observation, over, total, steps = following, bool(ended or cut), total + float(reward), steps + 1
        yield Episode(number, member, total, steps, info)
