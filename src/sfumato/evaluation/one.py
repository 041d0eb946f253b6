"""One sample of a data set and its prediction."""

from __future__ import annotations

import torch

from sfumato.contracts import Sample
from sfumato.data.views import Samples
from sfumato.predictions import AnyPrediction
from sfumato.runs import Predictor, Run, RunBackend


def predict_sample(
    run: Run, dataset: Samples, index: int, *, samples: int | None = None, seed: int = 0
) -> tuple[Sample, AnyPrediction]:
    """A sample and its calibrated prediction at the original size, from the same draws as :func:`evaluate`.

    Args:
        run: The run.
        dataset: The images, at their original sizes.
        index: Number of the image.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
    """
    sample = dataset[index]
    with torch.no_grad():
        found = Predictor(RunBackend(run))(*run.inputs_of(sample), samples=samples, seed=seed, index=index)
    return sample, found.prediction
