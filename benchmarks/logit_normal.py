"""The time and memory of sampling logits: a training step of the default U-Net, and the loss alone.

    python benchmarks/logit_normal.py                   # 8 images of 180 × 240, 11 classes, 2 threads
    python benchmarks/logit_normal.py --cpu-time --threads 1   # on a busy machine

Three losses alternate, so that other work on the machine affects all of them: cross-entropy, the streamed loss of the
package, and the usual form, which keeps every sample and differentiates through it. The last line is JSON, also written
to benchmarks/results/logit_normal.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.likelihoods import Categorical, LogitNormal
from sfumato.models import UNet

BATCH, CLASSES, HEIGHT, WIDTH, SAMPLES = 8, 11, 180, 240, 10


@dataclass(frozen=True)
class Materialized:
    """Kendall and Gal's loss as it is usually written: independent samples, all in memory, autograd through them."""

    classes: int
    samples: int
    antithetic: bool = False

    @property
    def channels(self) -> int:
        """2K."""
        return 2 * self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log mean_s softmax(f + σε_s)_target`` (B, H, W)."""
        logits, scales = output[:, : self.classes], softplus(output[:, self.classes :])
        noise = torch.randn(self.samples // (1 + self.antithetic), *logits.shape)
        noise = torch.cat([noise, -noise]) if self.antithetic else noise
        log_probs = torch.log_softmax(logits + scales * noise, 2)
        index = target.where(valid, 0).expand(self.samples, *target.shape)[:, :, None]
        log_py = log_probs.gather(2, index)[:, :, 0]
        return (math.log(self.samples) - log_py.logsumexp(0)).where(valid, 0.0)


def problem(batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Random images, labels of which 4 % are void, as in CamVid."""
    torch.manual_seed(0)
    size = (batch, HEIGHT, WIDTH)
    return torch.rand(batch, 3, HEIGHT, WIDTH), torch.randint(CLASSES, size), torch.rand(size) > 0.04


def training_step(likelihood) -> Callable[[], None]:
    images, target, valid = problem()
    network = UNet(likelihood.channels).train()
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (likelihood.nll(network(images), target, valid).sum() / valid.sum()).backward()
        optimizer.step()

    return step


def loss_alone(likelihood) -> Callable[[], None]:
    _, target, valid = problem()
    output = torch.randn(BATCH, likelihood.channels, HEIGHT, WIDTH, requires_grad=True)

    def step() -> None:
        (likelihood.nll(output, target, valid).sum() / valid.sum()).backward()
        output.grad = None

    return step


def interleaved(
    steps: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Median and smallest seconds of each step, in random order in each round. The first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(repeats + 1):
        for name in order.sample(
            list(steps), len(steps)
        ):  # so that no step always finds the caches of the same other one
            start = clock()
            steps[name]()
            seconds[name].append(clock() - start)
    kept = {name: values[1:] for name, values in seconds.items()}
    return {n: statistics.median(v) for n, v in kept.items()}, {n: min(v) for n, v in kept.items()}


def peak_mib(step: Callable[[], None]) -> float:
    """Peak memory of a step beyond that at its start, from the log of the allocator."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    held = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def moments_of_gradient(likelihood, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over draws of the gradient with respect to an output that all pixels share."""
    torch.manual_seed(1)
    _, target, valid = problem(2)
    shared = torch.randn(1, likelihood.channels, 1, 1, requires_grad=True)
    gradients = []
    for _ in range(draws):
        output = shared.expand(2, -1, HEIGHT, WIDTH)
        (gradient,) = torch.autograd.grad(likelihood.nll(output, target, valid).sum() / valid.sum(), shared)
        gradients.append(gradient.flatten())
    stacked = torch.stack(gradients).double()
    return stacked.mean(0), stacked.var(0)


def gradient_agreement(draws: int) -> dict[str, float]:
    """The effect of noise shared between blocks on a gradient: its mean in standard errors, its variance as a ratio.

    It is compared with antithetic noise that no two pixels share, so the only difference is the pool.
    """
    mean, variance = moments_of_gradient(LogitNormal(CLASSES, SAMPLES), draws)
    other_mean, other_variance = moments_of_gradient(Materialized(CLASSES, SAMPLES, antithetic=True), draws)
    error = ((variance + other_variance) / draws).sqrt()
    return {
        "pool_gradient_z_rms": ((mean - other_mean) / error).square().mean().sqrt().item(),
        "pool_gradient_variance_ratio": (variance.sum() / other_variance.sum()).item(),
        "pool_gradient_noise": (variance.sum().sqrt() / mean.norm()).item(),
    }


class _SameNoise:
    """Replaces ``randn``, so that the usual form gets exactly the noise of the streamed form."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def __call__(self, *_: int) -> Tensor:
        return self.noise


def gradient_error() -> float:
    """Largest difference between the two gradients under the same noise, relative to the largest gradient."""
    torch.manual_seed(2)
    size = (1, 24, 32)
    output, target = torch.randn(1, 2 * CLASSES, *size[1:]), torch.randint(CLASSES, size)
    valid = torch.ones(size, dtype=torch.bool)
    streamed, usual = output.clone().requires_grad_(), output.clone().requires_grad_()
    torch.manual_seed(3)
    LogitNormal(CLASSES, SAMPLES).nll(streamed, target, valid).sum().backward()
    torch.manual_seed(3)
    noise = replayed_noise(target)
    drawn, torch.randn = torch.randn, _SameNoise(noise)
    try:
        Materialized(CLASSES, SAMPLES, antithetic=True).nll(usual, target, valid).sum().backward()
    finally:
        torch.randn = drawn
    assert streamed.grad is not None
    assert usual.grad is not None
    return ((streamed.grad - usual.grad).abs().max() / usual.grad.abs().max()).item()


def replayed_noise(target: Tensor) -> Tensor:
    """The noise (S/2, 1, K, H, W) that the streamed loss uses for one image that fits one block."""
    pixels = target[0].numel()
    window = SAMPLES // 2 * CLASSES * pixels
    pool = torch.randn(2 * SAMPLES * CLASSES * pixels)
    start = int(torch.randint(len(pool) - window + 1, ()))
    noise = pool[start : start + window].view(SAMPLES // 2, CLASSES, pixels)
    index = target.flatten().expand(
        SAMPLES // 2, 1, -1
    )  # class 0 and the target class are exchanged before the noise is added
    swapped = noise.scatter(1, index, noise[:, :1])
    swapped[:, :1] = noise.gather(1, index)
    return swapped.view(SAMPLES // 2, 1, CLASSES, *target.shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, which other processes affect less")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.cpu_time else time.perf_counter

    losses = {
        "categorical": Categorical(CLASSES),
        "streamed": LogitNormal(CLASSES, SAMPLES),
        "materialized": Materialized(CLASSES, SAMPLES),
    }
    step, least = interleaved({name: training_step(loss) for name, loss in losses.items()}, chosen.repeats, clock)
    alone, _ = interleaved({name: loss_alone(loss) for name, loss in losses.items()}, chosen.repeats, clock)
    result = {
        "images": [BATCH, CLASSES, HEIGHT, WIDTH],
        "samples": SAMPLES,
        "threads": chosen.threads,
        "clock": "cpu" if chosen.cpu_time else "wall",
        "torch": torch.__version__,
        **{f"step_{name}_s": seconds for name, seconds in step.items()},
        "step_streamed_ratio": step["streamed"] / step["categorical"],
        "step_materialized_ratio": step["materialized"] / step["categorical"],
        "step_streamed_ratio_of_least": least["streamed"] / least["categorical"],
        "step_materialized_ratio_of_least": least["materialized"] / least["categorical"],
        **{f"loss_{name}_s": seconds for name, seconds in alone.items()},
        **{f"peak_S{s}_mib": peak_mib(loss_alone(LogitNormal(CLASSES, s))) for s in (2, 10, 50)},
        **{f"peak_materialized_S{s}_mib": peak_mib(loss_alone(Materialized(CLASSES, s))) for s in (2, 10)},
        "gradient_error": gradient_error(),
        **gradient_agreement(100),
    }
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in result.items()}
    for key, value in rounded.items():
        print(f"{key:32s} {value}")
    path = Path(__file__).parent / "results" / "logit_normal.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rounded, indent=1) + "\n")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
