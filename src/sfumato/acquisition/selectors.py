"""In which order units are labeled: by score, with noise, by class, by coverage, at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

import torch
from torch import Tensor

from sfumato.acquisition.candidates import Candidates
from sfumato.errors import ConfigError, similar

SELECTORS = ("top-k", "gumbel", "class-stratified", "k-center", "random", "class-stratified-random")
BY_SCORE = ("top-k", "gumbel", "class-stratified")
BY_CLASS = ("class-stratified", "class-stratified-random")
STRATIFIED = (True, True, False)  # two of three choices are made by class


def check_selector(selector: str) -> None:
    """Check the choice of a selector.

    Raises:
        ConfigError: If there is no such selector.
    """
    if selector not in SELECTORS:
        meant = similar(selector, SELECTORS)
        raise ConfigError(f"selector is {selector!r}{meant}, expected one of {', '.join(SELECTORS)}")


def ranking(
    selector: str, candidates: Candidates, generator: torch.Generator, beta: float = 1.0, centers: Tensor | None = None
) -> Iterator[int]:
    """The candidates, the one to be labeled first first.

    Args:
        selector: ``top-k``: by score. ``gumbel``: see :func:`noisy`. ``class-stratified``: two of three by the
            predicted class, see :func:`stratified`, the others as ``gumbel``. ``k-center``: see :func:`k_center`.
            ``random``. ``class-stratified-random``: as ``class-stratified`` with equal scores.
        candidates: The units.
        generator: For everything random.
        beta: How little noise ``gumbel`` and ``class-stratified`` add, > 0. Default 1.
        centers: For k-center, features (M, F) of what is labeled. Default: none.

    Source: Lüth et al. (2026), "Finally outshining the random baseline" (ClaSP PE: ``class-stratified`` by entropy,
        with β from 1 to 100 over the rounds).

    >>> few = Candidates(*[torch.arange(3)] * 3, torch.tensor([1.0, 3.0, 2.0]), *[torch.zeros(3, 1)] * 3)
    >>> list(ranking("top-k", few, torch.Generator()))
    [1, 2, 0]
    """
    if selector == "top-k":
        return iter(candidates.score.argsort(descending=True, stable=True).tolist())
    if selector == "gumbel":
        return iter(noisy(candidates.score, beta, generator).tolist())
    if selector == "k-center":
        return k_center(candidates.features, centers)
    plain = selector != "class-stratified"
    free = torch.randperm(len(candidates), generator=generator) if plain else noisy(candidates.score, beta, generator)
    if selector == "random":
        return iter(free.tolist())
    weights, beta = (candidates.shares, 1.0) if plain else (candidates.by_class, beta)
    return stratified([noisy(weights[:, c], beta, generator, zeros=False) for c in range(weights.shape[1])], free)


def noisy(score: Tensor, beta: float, generator: torch.Generator, *, zeros: bool = True) -> Tensor:
    """The order (N,) by ``log score + Gumbel(0, 1/β)``: draws without replacement, proportional to ``score^β``.

    The noise is added to the scores of whole units: that of pixels would cancel in their mean.

    Args:
        score: Scores (N,), ≥ 0.
        beta: β > 0. A large one gives the order of the scores.
        generator: For the noise.
        zeros: Whether units with the score 0 come last, or not at all. Default True.

    Source: Kool, van Hoof and Welling (2019), "Stochastic beams and where to find them"; Kirsch et al. (2023),
        "Stochastic batch acquisition".
    """
    uniform = torch.rand(len(score), generator=generator).clamp(1e-20, 1 - 1e-7)
    key = score.double().clamp_min(1e-300).log() - (-uniform.log()).log() / beta
    order = key.argsort(descending=True)
    return order if zeros else order[score[order] > 0]


def stratified(orders: Sequence[Tensor], free: Tensor) -> Iterator[int]:
    """Choices that take turns: two by class, one free. Those by class go through the classes.

    Args:
        orders: For each class, units in the order of their choice. A class may have none.
        free: All units in the order of their choice.

    >>> list(stratified([torch.tensor([2, 0]), torch.tensor([1])], torch.tensor([0, 1, 2, 3])))
    [2, 1, 0, 3]
    """
    taken: set[int] = set()
    queues = [iter(order.tolist()) for order in orders]
    rest, by_class = iter(free.tolist()), cycle(STRATIFIED)
    while True:
        found = None
        if next(by_class):
            found, queues = _next_by_class(queues, taken)
        if found is None:
            found = next((each for each in rest if each not in taken), None)
        if found is None:
            return
        taken.add(found)
        yield found


def _next_by_class(queues: list[Iterator[int]], taken: set[int]) -> tuple[int | None, list[Iterator[int]]]:
    """The next unit of the first class that still has one, and the classes with that one moved to the end."""
    while queues:
        first, *others = queues
        found = next((each for each in first if each not in taken), None)
        if found is not None:
            return found, [*others, first]
        queues = others
    return None, []


def k_center(features: Tensor, centers: Tensor | None = None) -> Iterator[int]:
    """Always the unit that is farthest from all that are labeled or chosen: the greedy cover of the features.

    Args:
        features: Features (N, F).
        centers: Features (M, F) of what is labeled. None for nothing: then their mean is the first center.

    Source: Sener and Savarese (2018), "Active learning for convolutional neural networks: a core-set approach".
    Pitfall: A unit that a limit rejects counts as chosen. Each choice reads all features.
    """
    known = features.mean(0, keepdim=True) if centers is None or not len(centers) else centers.to(features)
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    for part in known.split(256):
        nearest = torch.minimum(nearest, torch.cdist(features, part).amin(1))
    for _ in range(len(features)):
        place = nearest.argmax()
        yield int(place)
        nearest = torch.minimum(nearest, (features - features[place]).norm(dim=1))
        nearest[place] = -1


def select(
    order: Iterator[int], candidates: Candidates, budget: int, per_image: int = 0, similarity: float = 1.0
) -> list[int]:
    """The first units of an order that keep the limits.

    Args:
        order: Candidates in the order of their choice.
        candidates: The units.
        budget: How many are wanted.
        per_image: At most so many units of one image. 0 for no limit. Default 0.
        similarity: Units whose features, less their mean over all candidates, have a cosine above this one with a
            chosen unit are near-duplicates and left out. 1 keeps all. Default 1.

    Returns:
        At most ``budget`` candidates: fewer if the others are near-duplicates.

    Raises:
        ConfigError: If the budget is larger than the pool.
    """
    check_budget(candidates, budget, per_image)
    directions = _directions(candidates.features) if similarity < 1 else None
    chosen: list[int] = []
    counts: dict[int, int] = {}
    images = candidates.image.tolist()
    for place in order:
        if per_image and counts.get(images[place], 0) >= per_image:
            continue
        if directions is not None and chosen and bool((directions[chosen] @ directions[place] > similarity).any()):
            continue
        chosen.append(place)
        counts[images[place]] = counts.get(images[place], 0) + 1
        if len(chosen) == budget:
            break
    return chosen


def check_budget(candidates: Candidates, budget: int, per_image: int = 0) -> None:
    """Check that a budget is at least 1 and not larger than the pool.

    Raises:
        ConfigError: If it is.
    """
    if budget < 1 or per_image < 0:
        raise ConfigError(f"budget is {budget} and per_image {per_image}, expected at least 1, and 0 or more")
    counts = torch.bincount(candidates.image) if len(candidates) else torch.zeros(1, dtype=torch.int64)
    most = int(counts.clamp_max(per_image).sum() if per_image else counts.sum())
    if budget > most:
        limit = f" with at most {per_image} of an image" if per_image else ""
        raise ConfigError(
            f"budget is {budget}, but the pool has {most} units that are not labeled{limit}: ask for less"
        )


def _directions(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features - features.mean(0), dim=1)
