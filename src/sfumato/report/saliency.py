"""Which pixels of two pictures the answer of a network depends on, at some points of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.geometry import gradient_saliency
from sfumato.predictions import ValueMoments
from sfumato.report.data import Saliency
from sfumato.runs import Run
from sfumato.runs.sizes import Scaling

PLACES = tuple((y, x) for y in (1 / 4, 3 / 4) for x in (1 / 6, 1 / 2, 5 / 6))  # of the points, as shares of the sides
LARGEST = 1 << 19  # pixels of the largest image that is asked: a gradient needs memory for all layers


def saliency_of(run: Run, inputs: Sequence[Tensor]) -> tuple[Saliency, ...]:
    """How much the first network's answer at six points changes with each pixel of both pictures.

    Args:
        run: A run.
        inputs: Its inputs (1, …) at the original size.

    Returns:
        The points. Empty unless the run has one task of values and takes two pictures of at most half a megapixel.
    """
    names, parts = run.facts.inputs, run.per_task
    if len(inputs) != 2 or len(parts) != 1 or any(value.ndim != 4 or value.shape[1] != 3 for value in inputs):
        return ()
    scaling = Scaling.of(names, inputs, run.plan.factors)
    if scaling.seen[0] * scaling.seen[1] > LARGEST:
        return ()
    first, second = run.prepare(*scaling.inputs(names, inputs))
    network, likelihood = run.networks[0], run.likelihood
    with torch.no_grad():
        if not isinstance(likelihood.moments(network(first, second)), ValueMoments):
            return ()

    def answer(*views: Tensor) -> Tensor:
        moments = likelihood.moments(network(*views))
        assert isinstance(moments, ValueMoments)
        return moments.mean

    found: list[Saliency] = []
    for place in PLACES:
        point = int(place[0] * scaling.seen[0]), int(place[1] * scaling.seen[1])
        maps = gradient_saliency(answer, first, second, point)
        found.append(Saliency(place, (maps[0].detach().cpu(), maps[1].detach().cpu())))
    return tuple(found)
