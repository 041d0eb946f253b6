"""Deep sea: an environment that cannot be solved by random steps."""

from __future__ import annotations

from typing import Any, SupportsFloat

import numpy as np

from sfumato.errors import ConfigError, MissingDependencyError

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise MissingDependencyError("the deep sea needs Gymnasium: pip install 'sfumato[exploration]'") from error

CELL = 4  # pixels of a side of a cell in a picture
WATER, DIVER, TREASURE = (24, 56, 120), (255, 255, 255), (240, 190, 40)


class DeepSea(gymnasium.Env[np.ndarray, int]):
    """A diver starts at the top left of N × N cells and sinks one row a step. The treasure is at the bottom right.

    Each step goes to the left or to the right; which of the two actions means right is drawn for each cell. A step to
    the right costs ``0.01 / N``, and the treasure is worth 1. Only one of ``2^N`` sequences of actions reaches it, and
    every reward on the way there is negative. So random actions need about ``2^N`` episodes.

    The observation is a map (N, N) of float32 that is 1 at the diver and 0 elsewhere, all 0 at the end. With
    ``render_mode="rgb_array"`` pictures (4 N, 4 N, 3) can be observed instead, by gymnasium's ``AddRenderObservation``.

    Args:
        size: N, at least 2.
        mapping_seed: Seed of what the actions mean. Default 42.
        render_mode: None, or ``"rgb_array"`` for pictures. Default None.

    Raises:
        ConfigError: If the size is below 2, or the mode is unknown.

    Source: Osband et al. (2020), "Behaviour suite for reinforcement learning" (deep_sea). The rules and the mapping are
    the same.

    >>> env = DeepSea(2)
    >>> _, info = env.reset()
    >>> env.step(env.right())[1:3]  # to the right: −0.01 / 2
    (-0.005, False)
    >>> env.step(env.right())[1:3]  # the treasure
    (0.995, True)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 as Gymnasium declares it

    def __init__(self, size: int = 10, mapping_seed: int = 42, render_mode: str | None = None) -> None:
        if size < 2:
            raise ConfigError(f"size is {size}, expected at least 2")
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}, expected None or 'rgb_array'")
        self.size, self.render_mode = size, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (size, size), np.float32)
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]
        self._right = np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size))
        self._row = self._column = 0
        self._missed = False

    def right(self) -> int:
        """The action that goes to the right from here."""
        return int(self._right[self._row, self._column])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start at the top left. The environment draws no random numbers after it was made."""
        super().reset(seed=seed)
        self._row = self._column = 0
        self._missed = False
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One row down. ``info["missed"]`` says whether the treasure can no longer be reached.

        Raises:
            ConfigError: If the episode is over.
        """
        if self._row == self.size:
            raise ConfigError("the episode is over: call reset()")
        reward, last = 0.0, self.size - 1
        if action == self.right():
            reward = (self._column == last) - 0.01 / self.size
            self._column = min(self._column + 1, last)
        else:
            self._missed |= self._row == self._column
            self._column = max(self._column - 1, 0)
        self._row += 1
        return self._observation(), reward, self._row == self.size, False, {"missed": self._missed}

    def render(self) -> Any:
        """The picture (4 N, 4 N, 3) uint8 of the sea. None without ``render_mode``."""
        if self.render_mode is None:
            return None
        picture = np.full((self.size, self.size, 3), WATER, np.uint8)
        picture[-1, -1] = TREASURE
        if self._row < self.size:
            picture[self._row, self._column] = DIVER
        return picture.repeat(CELL, 0).repeat(CELL, 1)

    def _observation(self) -> np.ndarray:
        found = np.zeros((self.size, self.size), np.float32)
        if self._row < self.size:
            found[self._row, self._column] = 1
        return found
