"""How a network that somebody else trained wants its images: found on a few labeled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sfumato.contracts import Task
from sfumato.errors import ConfigError
from sfumato.runs import Plan, build_network, task_and_likelihood

AUTO = "auto"
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "symmetric": ((0.5,) * 3, (0.5,) * 3),
    "bytes": ((0.0,) * 3, (1 / 255,) * 3),
}
"""Mean and standard deviation of colors in [0, 1], by name: networks take standardized colors, or [0, 1], [−1, 1] or
[0, 255]. ``data`` stands for those of the training images."""

NEAR_CHANCE = 1.2  # times the accuracy of always predicting the most frequent class
BETTER = 0.8  # an error below this share of another one is clearly smaller

Labeled = Sequence[tuple[tuple[Tensor, ...], Tensor, Tensor]]
"""Inputs (1, …), target and mask of some images, each with a batch dimension of 1."""


@dataclass(frozen=True)
class Fit:
    """How well a network fits labeled images with one normalization.

    Args:
        name: The normalization.
        error: Share of wrong pixels, or mean absolute error in the unit of the values.
        counts: Pixels (K, K) by true and by predicted class. None for values.
    """

    name: str
    error: float
    counts: Tensor | None


def normalizations(plan: Plan) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
    """Every normalization by name, as facts of a plan."""
    known = plan.facts.normalization
    fixed = {name: {key: {"mean": mean, "std": std} for key in known} for name, (mean, std) in NORMALIZATIONS.items()}
    return fixed | {"data": {key: dict(each) for key, each in known.items()}}


def fits(plan: Plan, network: nn.Module, labeled: Labeled) -> dict[str, Fit]:
    """How well a network fits labeled images with each normalization, the best one first.

    Args:
        plan: The plan, whose normalization is exchanged.
        network: The network that the plan names, with trained weights.
        labeled: A few images.

    Raises:
        ConfigError: If the output has other channels than the task needs, or holds probabilities.
    """
    _, likelihood = task_and_likelihood(plan)
    found = []
    for name, normalization in normalizations(plan).items():
        changed = replace(plan, facts=replace(plan.facts, normalization=normalization))
        wrapped = build_network(changed, likelihood, network).eval()
        tally = _Tally(plan)
        for inputs, target, valid in labeled:
            with torch.no_grad():
                tally.add(wrapped(*inputs), target, valid)
        found.append(tally.fit(name))
    # Of nearly equal ones the most usual comes first: statistics of the data are close to those of ImageNet.
    most = 1.02 * min(each.error for each in found) + 0.002
    return {each.name: each for each in sorted(found, key=lambda each: max(each.error, most))}


class _Tally:
    """Errors of a network, added one image after another."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.distance, self.pixels = plan, 0.0, 0
        self.counts: Tensor | None = None

    def add(self, output: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add an image."""
        _check_output(self.plan, output)
        self.pixels += int(valid.sum())
        if target.is_floating_point():
            self.distance += float((output - target).abs().mean(1)[valid].double().sum())
            return
        count = output.shape[1]
        pairs = target[valid] * count + output.argmax(1)[valid]
        counts = torch.bincount(pairs, minlength=count * count).reshape(count, count)
        self.counts = counts if self.counts is None else self.counts + counts

    def fit(self, name: str) -> Fit:
        """What was found for one normalization."""
        wrong = self.distance if self.counts is None else self.pixels - int(self.counts.diagonal().sum())
        return Fit(name, wrong / max(self.pixels, 1), self.counts)


def _check_output(plan: Plan, output: Tensor) -> None:
    task, likelihood = task_and_likelihood(plan)
    names: tuple[str, ...] = getattr(task, "names", ())
    if output.shape[1] != likelihood.channels:
        wanted = (
            f"{likelihood.channels}, one for each of the classes {', '.join(names)}" if names else likelihood.channels
        )
        hint = ""
        if names and len(names) == 2 and output.shape[1] == 1:
            hint = ". For a sigmoid over one channel f, return torch.cat([torch.zeros_like(f), f], 1)"
        raise ConfigError(f"the network returns {output.shape[1]} channels, expected {wanted}{hint}")
    if names and bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-3).all()):
        raise ConfigError(
            "the network returns probabilities, which add up to 1 at every pixel: return logits, without the softmax"
        )


def choose(found: Mapping[str, Fit], wanted: str, task: Task) -> tuple[str, list[str]]:
    """The normalization to use, and what a person should know about it.

    Args:
        found: As :func:`fits` returns it.
        wanted: A name, or ``auto`` for the one that fits best.
        task: The task.

    Raises:
        ConfigError: If there is no such normalization.
    """
    if wanted not in (AUTO, *found):
        raise ConfigError(f"normalization is {wanted!r}, expected {', '.join((AUTO, *found))}")
    best = next(iter(found.values()))
    chosen = best if wanted == AUTO else found[wanted]
    unit = getattr(task, "unit", "")
    listed = ", ".join(f"{name} {_text(each, unit)}" for name, each in found.items())
    notes = [f"images are normalized as {chosen.name!r}; {_measure(chosen)} on the labeled images: {listed}"]
    if best.error < BETTER * chosen.error:
        notes.append(f"the network fits better with --normalization {best.name}: does it expect other numbers?")
    return chosen.name, [*notes, *_doubts(chosen, task)]


def _measure(fit: Fit) -> str:
    return "accuracy" if fit.counts is not None else "mean absolute error"


def _text(fit: Fit, unit: str) -> str:
    return f"{1 - fit.error:.3f}" if fit.counts is not None else f"{fit.error:.3g} {unit}".strip()


def _doubts(fit: Fit, task: Task) -> list[str]:
    """What looks wrong: an accuracy near chance, or classes in another order."""
    if fit.counts is None:
        return []
    counts, names = fit.counts, list(getattr(task, "names", ()))
    total = counts.sum().clamp_min(1)
    chance = float(counts.sum(1).max() / total)
    shown = [c for c in range(len(counts)) if int(counts[c].sum()) > 0.01 * int(total)]
    order = {c: int(counts[c].argmax()) for c in shown}
    reordered = float(sum(int(counts[c, order[c]]) for c in shown) / total)
    notes = []
    if 1 - fit.error < min(NEAR_CHANCE * chance, 0.95) and len(names) > 1:
        notes.append(
            f"the accuracy {1 - fit.error:.3f} is near {chance:.3f}, that of always predicting the most frequent "
            "class: check the weights, the normalization and the order of the classes"
        )
    moved = {c: p for c, p in order.items() if c != p}
    if len(set(order.values())) == len(order) > 1 and moved and reordered > 1.2 * (1 - fit.error):
        pairs = ", ".join(f"{names[c]} is predicted as {names[p]}" for c, p in moved.items())
        notes.append(
            f"the classes seem to have another order: {pairs}. In the order of the network the accuracy is "
            f"{reordered:.3f}: reorder `classes:` and the ids of the labels, or the channels of the network"
        )
    return notes
