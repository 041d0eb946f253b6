"""How the losses of several tasks are added up to the one that is minimized."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.likelihoods.joint import Joint

Losses = dict[str, Tensor]


class Weighting(nn.Module):
    """The negative log likelihood of all tasks, whose noise is learned with the network (``uncertainty``).

    Each task counts by the mean over its own valid pixels. A task without a valid pixel in a batch takes no part in it:
    neither its noise nor its weight changes. Subclasses weight the losses in other ways. Even then the noise of the
    homoscedastic tasks of a :class:`Joint` is fitted, without influence on the weights, so that predictions have an
    aleatoric part.

    Args:
        joint: The likelihood of all tasks.

    Raises:
        ConfigError: If the weighting needs losses of at least 0 and a likelihood of ``joint`` may be below.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses".
    """

    positive: ClassVar[bool] = False  # whether it needs losses of at least 0

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint
        own = [name for name in joint.parts if name not in joint.homoscedastic_tasks]
        if self.positive and own:
            kind = type(joint.parts[own[0]]).__name__
            raise ConfigError(
                f"this weighting takes losses of at least 0, but the {kind} of {own[0]} has a noise of its own and a "
                "loss that may be below 0: use l1 (or categorical), or the weighting uncertainty, equal or fixed"
            )

    def forward(
        self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]
    ) -> tuple[Tensor, Losses]:
        """The loss, and the weight (without gradient) of each task that has a valid pixel.

        Args:
            output: Output of the network (B, C, *event), in the order of ``joint``.
            targets: The target of each task.
            valids: The mask (B, *event) of each task.
        """
        total, weights, _ = self.detailed(output, targets, valids)
        return total, weights

    def detailed(
        self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]
    ) -> tuple[Tensor, Losses, Losses]:
        """The loss, and weight and mean loss (both without gradient) of each task that has a valid pixel."""
        known = {name: valid for name, valid in valids.items() if bool(valid.any())}
        if not known:
            return output.sum() * 0, {}, {}
        present = {name: targets[name] for name in known}
        losses = _means(self.joint.losses(output, present, known), known)
        terms = _means(self.joint.terms(output, present, known), known)
        total, weights = self.combine(losses, terms, self._log_variances(output, known))
        return total, _detached(weights), _detached(losses)

    def _log_variances(self, output: Tensor, known: Mapping[str, Tensor]) -> Losses:
        """The log variance s of each homoscedastic task, as one number."""
        return {name: s.mean() for name, s in self.joint.log_variances(output).items() if name in known}

    def combine(self, losses: Losses, terms: Losses, log_variances: Losses) -> tuple[Tensor, Losses]:
        """The loss and the weights, from the mean losses, the mean terms and the log variance of each task."""
        one = {name: torch.ones(()) for name in losses}
        return _sum(terms), one | {name: (-s).exp() for name, s in log_variances.items()}

    def end_epoch(self) -> None:
        """Called after each pass over the data."""


class EqualWeights(Weighting):
    """``Σ w_k L_k`` with weights that take no gradient: all 1 (``equal``). Subclasses choose other weights."""

    def weights(self, losses: Losses) -> Losses:
        """The weight of each task, from the mean losses without gradient."""
        return {name: torch.ones_like(loss) for name, loss in losses.items()}

    def combine(self, losses: Losses, terms: Losses, log_variances: Losses) -> tuple[Tensor, Losses]:
        """``Σ w_k L_k``, and for the homoscedastic tasks ``Σ e^{−s_k} L_k + s_k/2`` in which L_k takes no gradient."""
        del terms
        weights = self.weights({name: loss.detach() for name, loss in losses.items()})
        total = _sum({name: weights[name] * loss for name, loss in losses.items()})
        return total + _noise_fit(losses, log_variances), weights


class FixedWeights(EqualWeights):
    """Weights that the user chooses (``fixed``).

    Args:
        joint: The likelihood of all tasks.
        weights: The weight of every task, ≥ 0 and not all 0.

    Raises:
        ConfigError: If a weight is missing, of an unknown task, or below 0.
    """

    def __init__(self, joint: Joint, weights: Mapping[str, float]) -> None:
        super().__init__(joint)
        if set(weights) != set(joint.parts):
            raise ConfigError(
                f"fixed weights of {', '.join(weights) or 'no task'}: expected one for each of {', '.join(joint.parts)}"
            )
        if min(weights.values()) < 0 or not max(weights.values()) > 0:
            raise ConfigError(f"fixed weights are {dict(weights)}: expected numbers of at least 0, not all 0")
        self._given = dict(weights)

    def weights(self, losses: Losses) -> Losses:
        """The chosen weights."""
        return {name: torch.full_like(loss, self._given[name]) for name, loss in losses.items()}


class InverseSoftmax(EqualWeights):
    """``w = softmax((1 / L) / T)`` over the tasks of a batch (``uw-so``).

    Args:
        joint: The likelihood of all tasks, with homoscedastic parts only.
        temperature: T > 0. The larger it is, the more equal the weights are. Default 5.

    Raises:
        ConfigError: Unless ``temperature`` > 0.

    Source: Kirchdorfer et al. (2024), "Analytical uncertainty-based loss weighting": for L1 the best σ is L itself.
    Pitfall: T has to be tuned. The 1 / L of a task that is nearly solved takes all the weight.
    """

    positive = True

    def __init__(self, joint: Joint, temperature: float = 5.0) -> None:
        super().__init__(joint)
        self._temperature = _above_0(temperature)

    def weights(self, losses: Losses) -> Losses:
        """The weights of this batch, whose sum is 1."""
        inverse = torch.stack([1 / loss.clamp_min(1e-6) for loss in losses.values()])
        return dict(zip(losses, (inverse / self._temperature).softmax(0)))


class DynamicAverage(EqualWeights):
    """``w = K softmax(r / T)`` with r = L(epoch − 1) / L(epoch − 2) (``dwa``). In the first two epochs it is 1.

    Args:
        joint: The likelihood of all tasks, with homoscedastic parts only.
        temperature: T > 0. The larger it is, the more equal the weights are. Default 2.

    Raises:
        ConfigError: Unless ``temperature`` > 0.

    Source: Liu, Johns and Davison (2019), "End-to-end multi-task learning with attention", §3.3.
    Pitfall: It compares how fast losses fall and not how large they are, so the unit of a task changes its share.
    """

    positive = True
    sums: Tensor
    history: Tensor

    def __init__(self, joint: Joint, temperature: float = 2.0) -> None:
        super().__init__(joint)
        self._temperature = _above_0(temperature)
        self.register_buffer("sums", torch.zeros(len(joint.parts), 2))  # sum and number of the losses in this epoch
        self.register_buffer("history", torch.full((2, len(joint.parts)), torch.nan))  # mean losses: last, before it

    def weights(self, losses: Losses) -> Losses:
        """Weights whose sum is the number of tasks. A task without two past epochs counts as one with r = 1."""
        places = [list(self.joint.parts).index(name) for name in losses]
        if self.training:
            for place, loss in zip(places, losses.values()):
                self.sums[place] += torch.stack([loss, torch.ones_like(loss)])
        ratio = (self.history[0] / self.history[1]).nan_to_num(1.0, 1.0)[places]
        return dict(zip(losses, len(losses) * (ratio / self._temperature).softmax(0)))

    def end_epoch(self) -> None:
        """The mean losses of this epoch become the last ones."""
        mean = self.sums[:, 0] / self.sums[:, 1]  # NaN where a task had no target
        self.history.copy_(torch.stack([mean.where(mean.isfinite(), self.history[0]), self.history[0]]))
        self.sums.zero_()


class LogOnePlus(Weighting):
    """``Σ e^{−s_k} L_k / 2 + log(1 + e^{s_k})``, with log variances s_k of its own. It is never below 0 (``log1p``).

    Source: Liebel and Körner (2018), "Auxiliary tasks in multi-task learning".
    Pitfall: The second term is not that of a likelihood, so e^s is no noise: for small losses the weight is below
    1 / 2L.
    """

    positive = True

    def __init__(self, joint: Joint) -> None:
        super().__init__(joint)
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in joint.parts})

    def combine(self, losses: Losses, terms: Losses, log_variances: Losses) -> tuple[Tensor, Losses]:
        """The loss, and the weights ``e^{−s} / 2``."""
        del terms
        weights = {name: (-self.log_variances[name]).exp() / 2 for name in losses}
        bounds = {name: nn.functional.softplus(self.log_variances[name]) for name in losses}
        total = _sum({name: weights[name] * loss + bounds[name] for name, loss in losses.items()})
        return total + _noise_fit(losses, log_variances), weights


WEIGHTINGS: dict[str, type[Weighting]] = {
    "uncertainty": Weighting,
    "equal": EqualWeights,
    "fixed": FixedWeights,
    "uw-so": InverseSoftmax,
    "log1p": LogOnePlus,
    "dwa": DynamicAverage,
}


def weighting(name: str, joint: Joint, weights: Mapping[str, float] | None = None) -> Weighting:
    """The weighting called ``name``, one of :data:`WEIGHTINGS`.

    Args:
        name: ``uncertainty``, ``equal``, ``fixed``, ``uw-so``, ``log1p`` or ``dwa``.
        joint: The likelihood of all tasks.
        weights: The weight of every task, for ``fixed`` only.

    Raises:
        ConfigError: For an unknown name, weights that the weighting does not take, or losses that it cannot weight.
    """
    if name not in WEIGHTINGS:
        raise ConfigError(f"weighting is {name!r}, expected one of {', '.join(WEIGHTINGS)}")
    if weights and name != "fixed":
        raise ConfigError(f"weights {dict(weights)} are given, but the weighting is {name!r}: use fixed")
    return FixedWeights(joint, weights or {}) if name == "fixed" else WEIGHTINGS[name](joint)


def _means(maps: Losses, valids: Mapping[str, Tensor]) -> Losses:
    return {name: loss.sum() / valids[name].sum() for name, loss in maps.items()}


def _sum(parts: Losses) -> Tensor:
    return reduce(torch.add, parts.values())


def _detached(values: Losses) -> Losses:
    return {name: torch.as_tensor(value).detach() for name, value in values.items()}


def _noise_fit(losses: Losses, log_variances: Losses) -> Tensor:
    """The loss that fits s to a task that is weighted by something else. Its gradient reaches s alone."""
    parts = {name: (-s).exp() * losses[name].detach() + s / 2 for name, s in log_variances.items()}
    return _sum(parts) if parts else next(iter(losses.values())).new_zeros(())


def _above_0(temperature: float) -> float:
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}, expected above 0")
    return temperature
