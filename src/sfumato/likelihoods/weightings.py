"""How the losses of several tasks add up to the one that is minimized."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.likelihoods.joint import Joint

Losses = dict[str, Tensor]


class Weighting(nn.Module):
    """Learned with the network: the negative log likelihood of all tasks (``uncertainty``).

    Each task counts by the mean over its own valid pixels. A task without any in a batch takes no part in it: neither
    its noise nor its weight moves. Where a subclass weighs the losses, the homoscedastic_tasks of a :class:`Joint` follow them all
    the same, without weighing, so that predictions carry an aleatoric part.

    Args:
        joint: the likelihood.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses".
    """

    positive: ClassVar[bool] = False  # whether it needs losses of at least 0

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint
        own = [name for name in joint.parts if name not in joint.homoscedastic_tasks]
        if self.positive and own:
            kind = type(joint.parts[own[0]]).__name__
            raise ValueError(
                f"this weighting takes losses of at least 0, but the {kind} of {own[0]} has a noise of its own and a "
                "likelihood that may be below: take l1 (or categorical), or weigh by uncertainty, equal or fixed"
            )

    def forward(
        self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]
    ) -> tuple[Tensor, Losses]:
        """The loss, and the weight of each task that takes part (without gradient).

        Args:
            output: (B, C, H, W) as ``joint`` reads it.
            targets: of each task.
            valids: (B, H, W) bool of each task.
        """
        known = {name: valid for name, valid in valids.items() if bool(valid.any())}
        if not known:
            return output.sum() * 0, {}
        present = {name: targets[name] for name in known}
        losses = _means(self.joint.losses(output, present, known), known)
        terms = _means(self.joint.terms(output, present, known), known)
        total, weights = self.combine(losses, terms, self._noises(output, known))
        return total, {name: torch.as_tensor(weight).detach() for name, weight in weights.items()}

    def _noises(self, output: Tensor, known: Mapping[str, Tensor]) -> Losses:
        """S of each homoscedastic task, as one number."""
        return {name: s.mean() for name, s in self.joint.log_variances(output).items() if name in known}

    def combine(self, losses: Losses, terms: Losses, homoscedastic_tasks: Losses) -> tuple[Tensor, Losses]:
        """The loss and the weights, from the mean losses, the mean terms and s of each task."""
        one = {name: torch.ones(()) for name in losses}
        return _sum(terms), one | {name: (-s).exp() for name, s in homoscedastic_tasks.items()}

    def end_epoch(self) -> None:
        """Called after each pass over the data."""


class Weighed(Weighting):
    """Σ w_k L_k, with weights that take no gradient: all 1 (``equal``)."""

    def weights(self, losses: Losses) -> Losses:
        """The weight of each task, from the mean losses without gradient."""
        return {name: torch.ones_like(loss) for name, loss in losses.items()}

    def combine(self, losses: Losses, terms: Losses, homoscedastic_tasks: Losses) -> tuple[Tensor, Losses]:
        """``Σ w_k L_k``, and for the homoscedastic_tasks ``Σ e^{−s_k} L_k + s_k/2`` with L_k held."""
        weights = self.weights({name: loss.detach() for name, loss in losses.items()})
        total = _sum({name: weights[name] * loss for name, loss in losses.items()})
        return total + _following(losses, homoscedastic_tasks), weights


class FixedWeights(Weighed):
    """Weights chosen by hand (``fixed``).

    Args:
        joint: the likelihood.
        weights: of every task, ≥ 0 and not all 0.

    Raises:
        ValueError: if one is missing, unknown or below 0.
    """

    def __init__(self, joint: Joint, weights: Mapping[str, float]) -> None:
        super().__init__(joint)
        if set(weights) != set(joint.parts):
            raise ValueError(
                f"fixed weights of {', '.join(weights) or 'no task'}: expected one for each of {', '.join(joint.parts)}"
            )
        if min(weights.values()) < 0 or not max(weights.values()) > 0:
            raise ValueError(f"fixed weights are {dict(weights)}: expected numbers of at least 0, not all 0")
        self._given = dict(weights)

    def weights(self, losses: Losses) -> Losses:
        """Those chosen."""
        return {name: torch.full_like(loss, self._given[name]) for name, loss in losses.items()}


class InverseSoftmax(Weighed):
    """``w = softmax((1 / L) / T)`` over the tasks of a batch (``uw-so``).

    Args:
        joint: the likelihood, of homoscedastic parts only.
        temperature: T > 0; large for equal weights.

    Source: Kirchdorfer et al. (2024), "Analytical uncertainty-based loss weighting": for L1 the best σ is L itself.
    Pitfall: T has to be tuned; 1 / L of a task that is nearly solved takes all the weight.
    """

    positive = True

    def __init__(self, joint: Joint, temperature: float = 5.0) -> None:
        super().__init__(joint)
        self._temperature = _above_0(temperature)

    def weights(self, losses: Losses) -> Losses:
        """They sum to 1."""
        inverse = torch.stack([1 / loss.clamp_min(1e-6) for loss in losses.values()])
        return dict(zip(losses, (inverse / self._temperature).softmax(0)))


class DynamicAverage(Weighed):
    """``w = K softmax(r / T)`` with r = L(epoch − 1) / L(epoch − 2) (``dwa``); 1 in the first two epochs.

    Args:
        joint: the likelihood, of homoscedastic parts only.
        temperature: T > 0; large for equal weights.

    Source: Liu, Johns and Davison (2019), "End-to-end multi-task learning with attention", §3.3.
    Pitfall: it looks at how fast losses fall, not at how large they are, so a task in other units keeps its share.
    """

    positive = True
    sums: Tensor
    history: Tensor

    def __init__(self, joint: Joint, temperature: float = 2.0) -> None:
        super().__init__(joint)
        self._temperature = _above_0(temperature)
        self.register_buffer("sums", torch.zeros(len(joint.parts), 2))  # of losses, and how many, in this epoch
        self.register_buffer("history", torch.full((2, len(joint.parts)), torch.nan))  # mean losses: last, before it

    def weights(self, losses: Losses) -> Losses:
        """They sum to the number of tasks; a task without two epochs behind it counts as one that stands still."""
        places = [list(self.joint.parts).index(name) for name in losses]
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
    """``Σ e^{−s_k} L_k / 2 + log(1 + e^{s_k})``, with log-variances s_k of its own: never below 0 (``log1p``).

    Source: Liebel and Körner (2018), "Auxiliary tasks in multi-task learning".
    Pitfall: the second term is not that of a likelihood, so s is no noise: for small losses the weight falls short of
    1 / 2L.
    """

    positive = True

    def __init__(self, joint: Joint) -> None:
        super().__init__(joint)
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in joint.parts})

    def combine(self, losses: Losses, terms: Losses, homoscedastic_tasks: Losses) -> tuple[Tensor, Losses]:
        """The loss and ``e^{−s} / 2``."""
        weights = {name: (-self.log_variances[name]).exp() / 2 for name in losses}
        bounds = {name: nn.functional.softplus(self.log_variances[name]) for name in losses}
        total = _sum({name: weights[name] * loss + bounds[name] for name, loss in losses.items()})
        return total + _following(losses, homoscedastic_tasks), weights


WEIGHTINGS: dict[str, type[Weighting]] = {
    "uncertainty": Weighting,
    "equal": Weighed,
    "fixed": FixedWeights,
    "uw-so": InverseSoftmax,
    "log1p": LogOnePlus,
    "dwa": DynamicAverage,
}


def weighting(name: str, joint: Joint, weights: Mapping[str, float] | None = None) -> Weighting:
    """The weighting called ``name``, one of :data:`WEIGHTINGS`.

    Args:
        name: ``uncertainty``, ``equal``, ``fixed``, ``uw-so``, ``log1p`` or ``dwa``.
        joint: the likelihood.
        weights: of every task; for ``fixed`` only.

    Raises:
        ValueError: for an unknown name, weights where none are taken, or losses that it cannot weigh.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"weighting is {name!r}, expected one of {', '.join(WEIGHTINGS)}")
    if weights and name != "fixed":
        raise ValueError(f"weights {dict(weights)} are chosen by hand, but the weighting is {name!r}: take fixed")
    return FixedWeights(joint, weights or {}) if name == "fixed" else WEIGHTINGS[name](joint)


def _means(maps: Losses, valids: Mapping[str, Tensor]) -> Losses:
    return {name: loss.sum() / valids[name].sum() for name, loss in maps.items()}


def _sum(parts: Losses) -> Tensor:
    return reduce(torch.add, parts.values())


def _following(losses: Losses, homoscedastic_tasks: Losses) -> Tensor:
    """What lets s follow a loss that is weighed by something else: its gradient reaches s alone."""
    parts = {name: (-s).exp() * losses[name].detach() + s / 2 for name, s in homoscedastic_tasks.items()}
    return _sum(parts) if parts else next(iter(losses.values())).new_zeros(())


def _above_0(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected above 0")
    return temperature
