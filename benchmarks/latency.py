"""The time of a prediction with uncertainty: one plain pass, a student, an ensemble of five, MC dropout.

    python benchmarks/latency.py                # --threads 1 --cpu-time on a busy machine
    python benchmarks/latency.py --network efficient-unet

A network (the default U-Net) with 11 classes on an image of 360 × 480, with random weights, which take the time of
trained ones. Dropout is where that network has it with its default arguments and a probability of 0.2. Each is run in
eager torch, compiled by inductor, and exported to ONNX under onnxruntime (MC dropout cannot be exported). Times are
medians of rounds in which all alternate, relative to one plain pass of the network in eager torch. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.likelihoods import Categorical, DistilledClasses
from sfumato.methods import DeepEnsemble, MCDropout
from sfumato.models import EfficientUNet, UNet
from sfumato.predictions import predict

CLASSES, SIZE, MEMBERS, SAMPLES = 11, (360, 480), 5, 10


NETWORKS = {"unet": UNet, "efficient-unet": partial(EfficientUNet, pretrained=False)}


def made(name: str, channels: int, seed: int, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name](channels, dropout=dropout).eval()


class Whole(nn.Module):
    """Networks and their likelihood as one graph: label, probability, total, aleatoric, epistemic."""

    def __init__(self, networks: list[nn.Module], likelihood: Any) -> None:
        super().__init__()
        self.networks, self.likelihood = nn.ModuleList(networks), likelihood

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The five maps of images (B, 3, H, W)."""
        moments = self.likelihood.moments(self.networks[0](image))
        for network in list(self.networks)[1:]:
            moments = moments.merge(self.likelihood.moments(network(image)))
        found = moments.prediction()
        return found.label, found.confidence, found.total, found.aleatoric, found.epistemic


def onnx(module: nn.Module, image: Tensor, folder: Path, name: str, threads: int) -> Callable[[], Any]:
    import onnxruntime

    path = folder / f"{name}.onnx"
    torch.onnx.export(module, (image,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.asarray(image)}
    return lambda: session.run(None, feed)


def works(name: str, threads: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """Name → function that is timed."""
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    plain, with_dropout = made(name, CLASSES, 0), made(name, CLASSES, 0, dropout=0.2)
    classes, student = Categorical(CLASSES), DistilledClasses(CLASSES)
    members = [made(name, CLASSES, seed) for seed in range(MEMBERS)]
    graphs = {
        "plain": plain,
        "student": Whole([made(name, student.channels, 0)], student),
        "ensemble": Whole(members, classes),
    }
    found: dict[str, Callable[[], Any]] = {
        "plain_eager": lambda: plain(image),
        "student_eager": lambda: graphs["student"](image),
        "ensemble_eager": lambda: predict(DeepEnsemble(members), image, likelihood=classes),
        "mc_dropout_eager": lambda: predict(MCDropout(with_dropout, SAMPLES), image, likelihood=classes),
    }
    for kind, graph in graphs.items():
        compiled = torch.compile(graph)
        found[f"{kind}_compiled"] = lambda compiled=compiled: compiled(image)
        found[f"{kind}_onnxruntime"] = onnx(graph, image, folder, kind, threads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=list(NETWORKS), default="unet")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        timed = works(options.network, options.threads, Path(folder))
        for work in timed.values():
            work()
        for _ in range(options.rounds):
            for name, work in timed.items():
                start = clock()
                work()
                times.setdefault(name, []).append(clock() - start)
    base = median(times["plain_eager"])
    passes = {name: round(median(column) / base, 3) for name, column in times.items()}
    result = {
        "network": options.network,
        "unit": "passes of the plain network in eager torch",
        "clock": "process" if options.cpu_time else "wall",
        "threads": options.threads,
        "samples": SAMPLES,
        "members": MEMBERS,
        "passes": passes,
        "student_over_plain": {
            kind: round(passes[f"student_{kind}"] / passes[f"plain_{kind}"], 3)
            for kind in ("eager", "compiled", "onnxruntime")
        },
    }
    name = "latency" if options.network == "unet" else f"latency_{options.network.replace('-', '_')}"
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
