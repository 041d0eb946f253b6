"""A contextual bandit: which region of an image to inspect, so that the labels of it help most."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sfumato.decisions import Look
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.metrics import confusion
from sfumato.predictions import check_mask, entropy

Policy = Literal["evpi", "thompson", "ucb", "random"]
FEATURES = ("one", "total", "epistemic", "value", "doubt", "edge")


class LinearBandit:
    """Rewards that are linear in features, with a posterior over the weights and the noise.

    ``r ~ N(x·w, σ²)``, ``w ~ N(0, σ² I / ridge)``, ``σ² ~ InvGamma(1, 1e-4)``: all in closed form.

    Args:
        features: F, the number of features, ≥ 1.
        ridge: Precision of the weights a priori, > 0. Default 1e-3, for features of at most 1 and smaller rewards.

    Raises:
        ConfigError: If a number is out of range.

    Source: Riquelme, Tucker and Snoek (2018), "Deep Bayesian bandits showdown" (the linear posterior).

    >>> bandit = LinearBandit(1)
    >>> for _ in range(100):
    ...     bandit.learn(torch.ones(1), 0.5)
    >>> round(bandit.mean(torch.ones(1, 1)).item(), 3)
    0.5
    """

    def __init__(self, features: int, ridge: float = 1e-3) -> None:
        if features < 1 or not 0 < ridge < float("inf"):
            raise ConfigError(f"features is {features} and ridge {ridge}, expected at least 1 and above 0")
        self._precision = ridge * torch.eye(features, dtype=torch.float64)
        self._moment = torch.zeros(features, dtype=torch.float64)
        self._shape, self._rate, self._square = 1.0, 1e-4, 0.0

    def learn(self, features: Tensor, reward: float) -> None:
        """Add a reward for features (F,).

        Raises:
            NotFiniteError: If a number is NaN or infinite.
        """
        x = features.double()
        if not bool(x.isfinite().all()) or not abs(reward) < float("inf"):
            raise NotFiniteError(f"features are {features.tolist()} and the reward is {reward}: expected finite ones")
        self._precision += x[:, None] * x
        self._moment += reward * x
        self._square += reward**2
        self._shape += 0.5

    def mean(self, features: Tensor) -> Tensor:
        """The expected rewards (K,) of features (K, F)."""
        return features.double() @ self._weights()

    def std(self, features: Tensor) -> Tensor:
        """How uncertain the expected rewards (K,) are: the epistemic standard deviation."""
        x = features.double()
        return (self._noise() * (x @ torch.linalg.inv(self._precision) * x).sum(1)).sqrt()

    def sample(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The rewards (K,) that plausible weights give: one draw of the weights for all features (K, F)."""
        # Twice the shape is a whole number, so half a χ² variable with as many degrees of freedom is a gamma variable.
        squares = torch.randn(round(2 * self._shape), dtype=torch.float64, generator=generator).square()
        noise = self._remaining() / (squares.sum() / 2)
        root = torch.linalg.cholesky(torch.linalg.inv(self._precision))
        normal = torch.randn(len(root), dtype=torch.float64, generator=generator)
        return features.double() @ (self._weights() + noise.sqrt() * (root @ normal))

    def _weights(self) -> Tensor:
        return torch.linalg.solve(self._precision, self._moment)

    def _remaining(self) -> Tensor:
        explained = self._moment @ self._weights()
        return self._rate + (self._square - explained).clamp_min(0) / 2

    def _noise(self) -> Tensor:
        return self._remaining() / self._shape


class RegionBandit:
    """Chooses one of the G × G regions of an image, and learns from what its labels changed.

    - ``evpi``: where looking again is worth most, by the draws of the network. It learns nothing.
    - ``thompson``: the best region for one draw of the weights of a :class:`LinearBandit`.
    - ``ucb``: the best upper limit, ``mean + 2 std``.
    - ``random``: any region.

    Args:
        policy: One of these.
        grid: G, ≥ 1. Default 4.
        seed: Seed of its random numbers. Default 0.

    Raises:
        ConfigError: If the policy is unknown or the grid below 1.
    """

    def __init__(self, policy: Policy, grid: int = 4, seed: int = 0) -> None:
        if policy not in get_args(Policy) or grid < 1:
            raise ConfigError(
                f"policy is {policy!r} and grid {grid}, expected one of {', '.join(get_args(Policy))} and at least 1"
            )
        self.policy, self.grid = policy, grid
        self.rewards = LinearBandit(len(FEATURES))
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, look: Look) -> int:
        """The number of the region, row by row, given the prediction of one image (1, K, H, W).

        Raises:
            DataError: If the image is smaller than the grid, or there are several images.
        """
        features = region_features(look, self.grid)
        if self.policy == "random":
            return int(torch.randint(len(features), (), generator=self._generator))
        if self.policy == "evpi":
            return int(features[:, FEATURES.index("value")].argmax())
        if self.policy == "thompson":
            return int(self.rewards.sample(features, self._generator).argmax())
        return int((self.rewards.mean(features) + 2 * self.rewards.std(features)).argmax())

    def learn(self, look: Look, region: int, reward: float) -> None:
        """Learn what inspecting a region of an image was worth."""
        self.rewards.learn(region_features(look, self.grid)[region], reward)


def region_features(look: Look, grid: int) -> Tensor:
    """What is known of each of the G × G regions (G², 6), before its labels are.

    A constant 1; the mean total and epistemic uncertainty as shares of log K; the mean value of looking again; the mean
    of 1 minus the confidence; the share of pixels at an edge between two predicted classes.

    Args:
        look: The prediction of one image (1, K, H, W).
        grid: G.

    Raises:
        DataError: If the image is smaller than the grid, or there are several images.
    """
    found = look.prediction
    if found.probs.shape[0] != 1 or not found.is_map or min(found.event) < grid:
        raise DataError(f"the prediction is {found}, expected one image of at least {grid} × {grid} pixels")
    most = entropy(torch.full((1, found.probs.shape[1]), 1 / found.probs.shape[1])).item()
    label = found.label
    edge = torch.zeros_like(found.total)
    edge[:, :, 1:] += label.diff(dim=2) != 0
    edge[:, 1:] += label.diff(dim=1) != 0
    maps = [torch.ones_like(edge), found.total / most, found.epistemic / most, look.value, 1 - found.confidence,
            edge.clamp_max(1)]  # fmt: skip
    return adaptive_avg_pool2d(torch.stack(maps, 1), grid)[0].flatten(1).T


def inspection_gains(label: Tensor, target: Tensor, valid: Tensor, classes: int, grid: int) -> Tensor:
    """By how much the mean IoU of an image grows when the labels of one region are known, for each region (G²,).

    Args:
        label: Predicted classes (H, W).
        target: True classes (H, W).
        valid: Where they are known (H, W) bool.
        classes: K, their number.
        grid: G.

    Returns:
        Gains in [0, 1], of the mean over the classes that are predicted or true somewhere.
    """
    check_mask(valid, label.shape, "labels")
    before, gains = _mean_iou(label, target, valid, classes), []
    height, width = label.shape
    for number in range(grid**2):
        row, column = divmod(number, grid)
        rows = slice(row * height // grid, -(-(row + 1) * height // grid))  # as adaptive pooling divides an image
        columns = slice(column * width // grid, -(-(column + 1) * width // grid))
        known = label.clone()
        known[rows, columns] = target[rows, columns].where(valid[rows, columns], known[rows, columns])
        gains.append(_mean_iou(known, target, valid, classes) - before)
    return torch.stack(gains)


def _mean_iou(label: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    return confusion.iou(confusion.overlap(confusion.confusion(label[valid], target[valid], classes))).nanmean()
