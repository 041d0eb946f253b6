"""Time and memory of Monte Carlo dropout, compared with torch-uncertainty 0.13 and one plain pass.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision==0.28.* torch-uncertainty==0.13.* safetensors pillow
    PYTHONPATH=src peers/bin/python benchmarks/mc_dropout.py
    PYTHONPATH=src peers/bin/python benchmarks/mc_dropout.py --cpu-time --threads 1   # on a busy machine

In one process, the package, the loop form of torch-uncertainty and its batch form alternate on the same U-Net and image
(1 × 3 × 360 × 480, 11 classes, 2 threads), with dropout in the head, in the decoder or early. Times are medians. The
last line is JSON, also written to benchmarks/results/mc_dropout.json.

With a CPU-only torch, the compiled operators of torchvision do not load. torch-uncertainty imports torchvision, but its
MC dropout calls none of them. So the two operators whose absence would stop the import are declared here by name.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.likelihoods import Categorical
from sfumato.methods import MCDropout
from sfumato.models import UNet
from sfumato.predictions import entropy, predict

CLASSES, HEIGHT, WIDTH = 11, 360, 480
PLACES = ("head", "decoder", "early")


def load_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not load."""
    warnings.simplefilter("ignore")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float iou) -> Tensor")


def peer():
    """torch-uncertainty's ``mc_dropout``."""
    load_torchvision()
    from torch_uncertainty.methods import mc_dropout

    return mc_dropout


def network(place: str) -> UNet:
    """The default U-Net with ``nn.Dropout(0.5)`` in one place: before the last layer, in the decoder, or at the start.

    In the decoder: after its two deepest blocks, as in the default network.
    """
    torch.manual_seed(0)
    unet = UNet(CLASSES, dropout=0.0)
    if place == "head":
        unet.sharpen.append(nn.Dropout(0.5))
    elif place == "decoder":
        for rise in unet.decoder[-2:]:
            rise.block[-1] = nn.Dropout(0.5)
    else:
        unet.encoder[0].append(nn.Dropout(0.5))
    return unet.eval()


def contenders(place: str, samples: int, image: Tensor) -> dict[str, Callable[[], object]]:
    """The draws of each; the package up to the prediction; and the aggregation of the peer's draws to a prediction."""
    unet = network(place)
    ours = MCDropout(unet, samples)
    loop = peer()(unet, samples, on_batch=False, task="segmentation").eval()
    batch = peer()(unet, samples, on_batch=True, task="segmentation").eval()

    def aggregated(logits: Tensor) -> tuple[Tensor, ...]:
        probs = logits.softmax(1)
        mean, aleatoric = probs.mean(0), entropy(probs).mean(0)
        return mean, aleatoric, entropy(mean, 0) - aleatoric

    logits = torch.randn(samples, CLASSES, HEIGHT, WIDTH)

    def drawn() -> None:
        for _ in ours.draws(image):
            pass

    return {
        "plain": lambda: unet(image),
        "ours": drawn,
        "loop": lambda: loop(image),
        "batch": lambda: batch(image),
        "ours_predict": lambda: predict(ours, image, likelihood=Categorical(CLASSES)),
        "fold": lambda: aggregated(logits),
    }


def by_turns(calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each call. Calls alternate, so that other work on the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    calls["ours"]()
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mib(call: Callable[[], object]) -> float:
    """Peak memory of a call beyond that at its start, MiB, from the log of the allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as log:
        call()
    held = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def measured(place: str, samples: int, repeats: int, image: Tensor, clock: Callable[[], float]) -> dict[str, float]:
    calls = contenders(place, samples, image)
    seconds = by_turns(calls, repeats, clock)
    faster = min(seconds["loop"], seconds["batch"])
    memory = {name: peak_mib(calls[name]) for name in ("plain", "ours", "loop", "batch", "ours_predict")}
    key = f"{place}_T{samples}"
    return {
        f"{key}_speedup": faster / seconds["ours"],
        f"{key}_predict_speedup": (faster + seconds["fold"]) / seconds["ours_predict"],
        **{f"{key}_{name}_s": value for name, value in seconds.items()},
        **{f"{key}_{name}_mib": value for name, value in memory.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, which other processes affect less")
    chosen = parser.parse_args()
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    torch.set_num_threads(chosen.threads)
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    result: dict[str, object] = {
        "image": [1, 3, HEIGHT, WIDTH],
        "threads": chosen.threads,
        "clock": "cpu" if chosen.cpu_time else "wall",
        "repeats": chosen.repeats,
        "torch": torch.__version__,
        "torch_uncertainty": version("torch-uncertainty"),
    }
    with torch.no_grad():
        for place in chosen.places:
            for samples in chosen.samples:
                found = measured(place, samples, chosen.repeats, image, clock)
                print("\n".join(f"{key:28s} {value:10.3f}" for key, value in found.items()), flush=True)
                result |= {key: round(value, 4) for key, value in found.items()}
    if set(chosen.samples) >= {10, 50}:
        result["memory_T50_over_T10"] = round(
            max(result[f"{place}_T50_ours_mib"] / result[f"{place}_T10_ours_mib"] for place in chosen.places), 4
        )
    path = Path(__file__).parent / "results" / "mc_dropout.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
