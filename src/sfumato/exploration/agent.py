"""Bootstrapped DQN with randomized priors: an agent that explores where its members disagree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError, NotFiniteError
from sfumato.exploration.members import Members


@dataclass(frozen=True)
class AgentOptions:
    """How an agent learns. The defaults are those of the reference agent.

    Args:
        members: Number of networks. Default 20.
        prior: What the outputs of the frozen networks are multiplied by. 0 for no priors. Default 3.
        discount: Weight of the next reward, in (0, 1]. Default 0.99.
        learning_rate: Learning rate of Adam. Default 0.001.
        batch: Transitions per training step. Default 128.
        memory: Number of transitions that are kept. Default 10,000.
        mask: Probability that a member learns from a transition. Default 0.5.
        train_every: Steps between two training steps. Default 1.
        target_every: Training steps after which the targets follow. Default 4.

    Raises:
        ConfigError: If one of them is out of range.
    """

    members: int = 20
    prior: float = 3.0
    discount: float = 0.99
    learning_rate: float = 1e-3
    batch: int = 128
    memory: int = 10_000
    mask: float = 0.5
    train_every: int = 1
    target_every: int = 4

    def __post_init__(self) -> None:
        for name in ("members", "batch", "memory", "train_every", "target_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, largest in (("discount", 1.0), ("mask", 1.0), ("learning_rate", math.inf)):
            if not 0 < getattr(self, name) <= largest:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0 and at most {largest:g}")
        if not 0 <= self.prior < math.inf:
            raise ConfigError(f"prior is {self.prior}, expected 0 or more")


class BootstrappedDQN:
    """An ensemble of Q networks, of which one is followed in each episode: Thompson sampling.

    Member k is ``Q_k(s) + prior · P_k(s)``. The network ``P_k`` is drawn once and never trained. So the members agree
    where there are data and differ where there are none, and an episode follows a member that is curious about one
    such place. Each member learns from its own random part of the transitions, towards its own targets
    ``r + discount · max_a (Q_k' + prior · P_k)(s', a)``, where ``Q_k'`` are older weights.

    Args:
        network: Makes a network with fresh weights, from observations (B, …) to values (B, A) of the actions. It gets
            the observations as the environment gives them, pixels too.
        options: How it learns. Default: as the reference agent.
        seed: Seed of weights, of the members that are followed and of the batches. Default 0.

    Source: Osband et al. (2016), "Deep exploration via bootstrapped DQN"; Osband et al. (2018), "Randomized prior
    functions for deep reinforcement learning".
    Pitfall: Without priors (``prior=0``) all members start with nearly the same values and stop exploring.
    """

    def __init__(self, network: Callable[[], nn.Module], options: AgentOptions = AgentOptions(), seed: int = 0) -> None:
        self.options = options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.learned = Members(network, options.members)
            self._priors = Members(network, options.members)
        self._older = self.learned.copied()
        self._adam = torch.optim.Adam(self.learned.weights.values(), lr=options.learning_rate, fused=True)
        self._random = np.random.default_rng(seed)
        self._memory: _Memory | None = None
        self._steps = 0
        self._last_prior: tuple[np.ndarray, Tensor] | None = None
        self.member = 0

    def begin(self) -> int:
        """Draw the member that is followed in the next episode, and return its number."""
        self.member = int(self._random.integers(self.options.members))
        return self.member

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> int:
        """The best action for the member that is followed."""
        inputs = torch.as_tensor(observation)[None]
        return int((self.learned.one(self.member, inputs)[0] + self._prior(observation)[self.member]).argmax())

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> Tensor:
        """The values (M, B, A) of observations (B, …) for all members. Their spread is the epistemic uncertainty."""
        inputs = torch.as_tensor(observations)
        return self.learned(inputs) + self.options.prior * self._priors(inputs)

    def learn(self, observation: np.ndarray, action: int, reward: float, following: np.ndarray, *, ended: bool) -> None:
        """Remember a transition, and train once in ``train_every`` steps.

        Args:
            observation: Where the step began.
            action: What was done.
            reward: What it gave.
            following: Where it led.
            ended: Whether the episode has ended there, so that nothing follows. False where it was cut off.

        Raises:
            NotFiniteError: If the reward or a value is NaN or infinite.
        """
        if not math.isfinite(reward):
            raise NotFiniteError(f"the reward is {reward}, expected a finite number")
        # The priors never change, so their values are computed once for each observation, not in every batch.
        before, after = self._prior(observation), self._prior(following)
        if self._memory is None:
            self._memory = _Memory(self.options.memory, np.asarray(observation), before)
        mask = self._random.random(self.options.members) < self.options.mask
        self._memory.add(observation, action, reward, following, ended, before, after, mask)
        self._steps += 1
        if self._memory.count >= self.options.batch and self._steps % self.options.train_every == 0:
            self._train(self._memory)

    def _prior(self, observation: np.ndarray) -> Tensor:
        """The scaled values (M, A) of the priors. The last ones are kept, because each step begins where one ended."""
        if self._last_prior is None or not np.array_equal(self._last_prior[0], observation):
            with torch.no_grad():
                found = self.options.prior * self._priors(torch.as_tensor(observation)[None])[:, 0]
            self._last_prior = (np.array(observation), found)
        return self._last_prior[1]

    def _train(self, memory: _Memory) -> None:
        chosen = torch.from_numpy(self._random.integers(memory.count, size=self.options.batch))
        with torch.no_grad():
            later = self.learned(memory.following[chosen], self._older) + memory.after[chosen].transpose(0, 1)
            target = memory.reward[chosen] + self.options.discount * memory.goes_on[chosen] * later.amax(2)
        now = self.learned(memory.observation[chosen]) + memory.before[chosen].transpose(0, 1)
        value = now.gather(2, memory.action[chosen].expand(len(now), -1)[..., None])[..., 0]
        loss = ((value - target).square() * memory.mask[chosen].T).mean(1).sum()
        if not bool(loss.isfinite()):
            raise NotFiniteError("the values of the members are not finite: lower the learning rate or the rewards")
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        if self._steps // self.options.train_every % self.options.target_every == 0:
            self._older = self.learned.copied()


class _Memory:
    """The last transitions, with the values of the priors at both ends."""

    def __init__(self, size: int, observation: np.ndarray, prior: Tensor) -> None:
        like = torch.as_tensor(observation)
        self.size, self.count, self._next = size, 0, 0
        self.observation = torch.zeros(size, *like.shape, dtype=like.dtype)
        self.following = torch.zeros_like(self.observation)
        self.action = torch.zeros(size, dtype=torch.int64)
        self.reward, self.goes_on = torch.zeros(size), torch.zeros(size)
        self.before = torch.zeros(size, *prior.shape)
        self.after = torch.zeros_like(self.before)
        self.mask = torch.zeros(size, len(prior))

    def add(
        self, observation: np.ndarray, action: int, reward: float, following: np.ndarray, ended: bool, before: Tensor,
        after: Tensor, mask: np.ndarray,
    ) -> None:  # fmt: skip
        place = self._next
        self.observation[place] = torch.as_tensor(observation)
        self.following[place] = torch.as_tensor(following)
        self.action[place], self.reward[place], self.goes_on[place] = action, reward, float(not ended)
        self.before[place], self.after[place] = before, after
        self.mask[place] = torch.from_numpy(mask)
        self._next = (place + 1) % self.size
        self.count = min(self.count + 1, self.size)
