"""Time of each method in passes of the network, compared with torch-uncertainty 0.13 and lightning-uq-box 0.2.

    make interop
    .venv-interop/bin/pip install 'torch-uncertainty==0.13.*' 'lightning<2.7' scikit-learn 'lightning-uq-box==0.2.*'
    OMP_NUM_THREADS=1 .venv-interop/bin/python benchmarks/methods_speed.py

The U-Net of the package, DeepLabV3-R50 of torchvision and SegFormer-B0 of transformers, random weights, one image of
1 × 3 × 360 × 480, 11 classes, 10 draws or members. All methods alternate in one process with one thread. Times are
processor times of the process, because other work on the machine changes wall times. A call that takes longer than the
budget runs once. Peak memory comes from the log of the allocator and is beyond that at the start of a call.

Members of an ensemble are one network taken M times: the time is that of M networks, and the memory of their weights is
not counted. Laplace and feature density use logits of their own size (a quarter, an eighth), before these are enlarged,
and so does the plain pass with which they are compared. The last line is JSON, also in
benchmarks/results/methods_speed.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

import torch
from mc_dropout import peak_mib, peer
from torch import Tensor, nn

from sfumato.likelihoods import Categorical, Dirichlet
from sfumato.methods import (
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    MCDropout,
    Output,
    TestTimeAugmentation,
)
from sfumato.models import UNet
from sfumato.predictions import predict

CLASSES, HEIGHT, WIDTH, DRAWS = 11, 360, 480, 10
Call = Callable[[], object]


class Logits(nn.Module):
    """A network up to its logits, before they are enlarged."""

    def __init__(self, network: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, image: Tensor) -> Tensor:
        """The logits (B, C, h, w)."""
        return self.run(image)


def _unet() -> tuple[nn.Module, nn.Module, nn.Conv2d]:
    network = UNet(CLASSES)
    return network, network, network.head


def _deeplab() -> tuple[nn.Module, nn.Module, nn.Conv2d]:
    from torchvision.models.segmentation import deeplabv3_resnet50

    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    small = Logits(network, lambda image: network.classifier(network.backbone(image)["out"]))
    return Output(network, "out"), small, network.classifier[-1]


def _segformer() -> tuple[nn.Module, nn.Module, nn.Conv2d]:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES))
    small = Logits(network, lambda image: network(image).logits)
    return Output(network, "logits"), small, network.decode_head.classifier


# Each: the network, the network up to its logits, and the layer that computes them.
NETWORKS = {"unet": _unet, "deeplabv3_r50": _deeplab, "segformer_b0": _segformer}


def exhausted(draws: object) -> None:
    for _ in draws:  # pyright: ignore
        pass


def laplace(small: nn.Module, head: nn.Conv2d) -> LastLayerLaplace:
    """A posterior with arbitrary numbers, because the time does not depend on them."""
    parameters = CLASSES * (head.in_channels + 1)
    return LastLayerLaplace(small, head, 0.01 * torch.eye(parameters), DRAWS)


def density(small: nn.Module, head: nn.Conv2d) -> FeatureDensity:
    features = head.in_channels
    whitening = torch.eye(features).repeat(CLASSES, 1, 1)
    return FeatureDensity(small, head, torch.full((CLASSES,), -2.4), torch.zeros(CLASSES, features), whitening)


def contenders(network: nn.Module, small: nn.Module, head: nn.Conv2d, image: Tensor) -> dict[str, Call]:
    """Calls by name: they only draw, unless the name says that they predict."""
    from lightning_uq_box.uq_methods import MCDropoutSegmentation
    from torch_uncertainty.methods import deep_ensembles, mc_dropout

    members = [network] * DRAWS
    ours, classes = MCDropout(network, DRAWS), Categorical(CLASSES)
    loop = mc_dropout(network, DRAWS, on_batch=False, task="segmentation").eval()
    batch = mc_dropout(network, DRAWS, on_batch=True, task="segmentation").eval()
    ensemble = deep_ensembles(members, task="segmentation").eval()
    # A copy, because it leaves batch normalization in training mode. It predicts labels and the entropy of the mean.
    box = MCDropoutSegmentation(deepcopy(network), DRAWS, nn.CrossEntropyLoss())
    return {
        "plain": lambda: network(image),
        "small_plain": lambda: small(image),
        "deterministic_predict": lambda: predict(Deterministic(network), image, likelihood=classes),
        "evidential_predict": lambda: predict(Deterministic(network), image, likelihood=Dirichlet(CLASSES)),
        "mc_dropout": lambda: exhausted(ours.draws(image)),
        "mc_dropout_predict": lambda: predict(ours, image, likelihood=classes),
        "mc_dropout_peer_loop": lambda: loop(image),
        "mc_dropout_peer_batch": lambda: batch(image),
        "mc_dropout_box_predict": lambda: box.predict_step(image),
        "ensemble": lambda: exhausted(DeepEnsemble(members).draws(image)),
        "ensemble_peer": lambda: ensemble(image),
        "augmentation": lambda: exhausted(TestTimeAugmentation(network).draws(image)),
        "small_laplace": lambda: exhausted(laplace(small, head).draws(image)),
        "small_laplace_predict": lambda: predict(laplace(small, head), image, likelihood=classes),
        "small_density": lambda: density(small, head).look(image),
    }


def suffix(network: nn.Module, image: Tensor) -> float:
    """Processor seconds of one pass with dropout layers in training mode, from the first of them to the end."""
    first: list[float] = []
    layers = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
    handles = [m.train().register_forward_pre_hook(lambda *_: first.append(time.process_time())) for m in layers]
    network(image)
    end = time.process_time()
    network.eval()
    for handle in handles:
        handle.remove()
    return end - first[0]


def clocked(call: Call) -> float:
    """Processor seconds."""
    start = time.process_time()
    call()
    return time.process_time() - start


def by_turns(calls: dict[str, Call], repeats: int, budget: float) -> tuple[dict[str, float], dict[str, float]]:
    """Median processor seconds of each call, which alternate, and its peak memory in MiB from a first run.

    The first run records the log of the allocator. It is the only run of a call that takes longer than the budget.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    memory = {}
    for name, call in calls.items():
        start = time.process_time()
        memory[name] = peak_mib(call)
        taken = time.process_time() - start
        if taken > budget:
            seconds[name] = [taken] * repeats
        print(f"{name}: {taken:.2f} s, {memory[name]:.1f} MiB", flush=True)
    for _ in range(repeats):
        for name, call in calls.items():
            if len(seconds[name]) < repeats:
                seconds[name].append(clocked(call))
    return {name: statistics.median(values) for name, values in seconds.items()}, memory


def grown(network: nn.Module, small: nn.Module, head: nn.Conv2d, image: Tensor) -> dict[str, float]:
    """Peak memory with 6 draws over that with 2, for methods that do not keep all draws."""

    def ratio(made: Callable[[int], Call]) -> float:
        return peak_mib(made(6)) / peak_mib(made(2))

    factor = laplace(small, head).factor
    return {
        "mc_dropout": ratio(lambda n: lambda: exhausted(MCDropout(network, n).draws(image))),
        "ensemble": ratio(lambda n: lambda: exhausted(DeepEnsemble([network] * n).draws(image))),
        "laplace": ratio(lambda n: lambda: exhausted(LastLayerLaplace(small, head, factor, n).draws(image))),
    }


def measured(name: str, left_out: list[str], repeats: int, budget: float, image: Tensor) -> dict[str, float]:
    torch.manual_seed(0)
    parts = NETWORKS[name]()
    network, small, head = parts[0].eval(), parts[1].eval(), parts[2]
    calls = {key: call for key, call in contenders(network, small, head, image).items() if key not in left_out}
    calls["mc_dropout"]()  # so that work done only once is not counted
    try:
        if "mc_dropout_box_predict" in calls:
            calls["mc_dropout_box_predict"]()
    except (
        ValueError
    ) as error:  # batch normalization in training mode needs more than the one value that pooling leaves
        print(f"lightning-uq-box does not run on {name}: {error}")
        del calls["mc_dropout_box_predict"]
    seconds, memory = by_turns(calls, repeats, budget)
    plain, after = seconds["plain"], statistics.median(suffix(network, image) for _ in range(repeats))
    found = {"plain_s": plain, "suffix_share": after / plain}
    for key in calls:
        found[f"{key}_passes"] = seconds[key] / seconds["small_plain" if key.startswith("small_") else "plain"]
        found[f"{key}_mib"] = memory[key]
    found["mc_dropout_over_ideal"] = seconds["mc_dropout"] / (plain + (DRAWS - 1) * after)
    faster = min(seconds["mc_dropout_peer_loop"], seconds.get("mc_dropout_peer_batch", math.inf))
    found["mc_dropout_speedup"] = faster / seconds["mc_dropout"]
    if {"mc_dropout_predict", "mc_dropout_box_predict"} <= seconds.keys():
        found["mc_dropout_predict_speedup"] = seconds["mc_dropout_box_predict"] / seconds["mc_dropout_predict"]
    if {"ensemble", "ensemble_peer"} <= seconds.keys():
        found["ensemble_speedup"] = seconds["ensemble_peer"] / seconds["ensemble"]
    found |= {f"{key}_memory_6_over_2": value for key, value in grown(network, small, head, image).items()}
    return {f"{name}_{key}": round(value, 4) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--without", nargs="+", default=[], help="calls to leave out, such as mc_dropout_peer_batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=5.0, help="processor seconds")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    peer()  # so that torchvision can be imported beside a CPU-only torch
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    path = Path(__file__).parent / "results" / "methods_speed.json"
    result = {
        "image": [1, 3, HEIGHT, WIDTH],
        "draws": DRAWS,
        "clock": "cpu",
        "threads": 1,
        "torch": torch.__version__,
        "torch_uncertainty": version("torch-uncertainty"),
        "lightning_uq_box": version("lightning-uq-box"),
    }
    with torch.no_grad():
        for name in chosen.networks:
            found = measured(name, chosen.without, chosen.repeats, chosen.budget, image)
            print("\n".join(f"{key:48s} {value:10.3f}" for key, value in found.items()), flush=True)
            kept = json.loads(path.read_text()) if path.exists() else {}  # the numbers of networks measured before
            result = kept | result | found
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
