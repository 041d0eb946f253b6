"""What a prediction with :class:`LogitNormal` costs beside its network passes, and how far it is from the exact mean.

    python benchmarks/logit_normal_prediction.py             # MC dropout with 20 samples on one image of 180 × 240

The draws alone and the whole prediction take turns, in processor time of one thread. ``bias_tv`` is the total variation
distance to the exact mean of the softmax, which is an integral over one variable, for random logits and scales. The
last line is JSON, also written to benchmarks/results/logit_normal_prediction.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from sfumato.likelihoods import LogitNormal
from sfumato.likelihoods.mean_softmax import mean_softmax
from sfumato.methods import MCDropout
from sfumato.models import UNet
from sfumato.predictions import predict

CLASSES, HEIGHT, WIDTH, SAMPLES = 11, 180, 240, 20
BIAS_CLASSES, BIAS_SCALES, BIAS_PIXELS = (2, 4, 8, 11, 19, 150), (0.75, 1.5, 3.0, 6.0), 100


def cpu_seconds(function: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def overhead(rounds: int) -> dict[str, float]:
    """Medians over rounds in which both take turns. The ratio is the median of the ratios of the rounds."""
    torch.manual_seed(0)
    method = MCDropout(UNet(2 * CLASSES, dropout=0.2).eval(), samples=SAMPLES)
    likelihood, image = LogitNormal(CLASSES), torch.rand(1, 3, HEIGHT, WIDTH)

    def passes() -> None:
        for _ in method.draws(image, generator=torch.Generator().manual_seed(0)):
            pass

    def prediction() -> None:
        predict(method, image, likelihood=likelihood, generator=torch.Generator().manual_seed(0))

    def moments() -> None:
        likelihood.moments(output)

    output = next(iter(method.draws(image)))[0]
    found: list[tuple[float, float, float]] = []
    for function in (passes, prediction, moments):
        function()
    for _ in range(rounds):
        found.append((cpu_seconds(passes), cpu_seconds(prediction), cpu_seconds(moments)))
    before, whole, one = (median(values) for values in zip(*found, strict=True))
    ratio = median(whole / before for before, whole, _ in found)
    return {"passes_s": before, "prediction_s": whole, "moments_s": one, "logit_normal_overhead": ratio}


def exact_mean(logits: Tensor, scales: Tensor, steps: int = 200) -> Tensor:
    """``E softmax(x)`` (K, N) by quadrature in float64: of the noise of each class, then of the largest value."""
    noise = torch.linspace(-8, 8, 97, dtype=torch.float64)[:, None, None]
    weights = (-noise.square() / 2).exp()
    weights /= weights.sum()
    low = (logits - 9 * scales).amax(0) - 5
    high = (logits + 9 * scales).amax(0) + math.log(len(logits)) + 40
    found = torch.zeros_like(logits)
    for step in range(steps):
        power = (logits - low - (high - low) * (step + 0.5) / steps + scales * noise).exp()
        below = weights * (-power).exp()  # of one noise: the probability that x + g is below
        mass = below.sum(0).clamp_min(1e-300)
        found += (below * power).sum(0) / mass * mass.log().sum(0).exp()
    return found / found.sum(0)


def bias(classes: int, largest: float) -> dict[str, float]:
    """Mean and largest distance over pixels with logits of standard deviation 2 and uniform scales."""
    generator = torch.Generator().manual_seed(classes)
    pixels = BIAS_PIXELS if classes < 100 else BIAS_PIXELS // 5
    logits = 2 * torch.randn(classes, pixels, generator=generator, dtype=torch.float64)
    scales = largest * torch.rand(classes, pixels, generator=generator, dtype=torch.float64)
    found = mean_softmax(logits.float(), scales.float()).double()
    distance = (found - exact_mean(logits, scales)).abs().sum(0) / 2
    return {"mean": float(distance.mean()), "max": float(distance.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {key: round(value, 4) for key, value in overhead(arguments.rounds).items()}
    result["bias_tv"] = {
        f"{classes} classes, scales up to {largest}": {k: round(v, 5) for k, v in bias(classes, largest).items()}
        for classes in BIAS_CLASSES
        for largest in BIAS_SCALES
    }
    text = json.dumps(result)
    path = Path(__file__).parent / "results" / "logit_normal_prediction.json"
    path.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
