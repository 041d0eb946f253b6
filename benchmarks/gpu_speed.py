"""Images per second of predictions and scores on one GPU, compared with torch-uncertainty 0.13 in one process.

    pip install 'torch-uncertainty==0.13.*'                           # without it only this package is measured
    python benchmarks/gpu_speed.py --device cuda
    python benchmarks/gpu_speed.py --device cpu --tiny --out /tmp/x   # a try on a CPU

The U-Net of the package, and ``efficient-unet`` where its encoder is installed, untrained decoders, images of 3 × 360 ×
480, 11 classes, batches of 1 and 8, float32 (convolutions in TF32, as torch does by default) and bfloat16 by autocast.
Both packages draw 10 times from MC dropout and run 5 networks of an ensemble. Each call is relative to one plain pass
of the same network on the same batch. Calls alternate. A time is the wall time from one synchronization to the next,
and the number is the median of 3 to 20 of them, after three calls that warm up. Peak memory is beyond that at the start
of a call.

Scores: all of a task of classes in this package; of torch-uncertainty and torchmetrics mIoU, ECE, NLL, AURC and the
area under the ROC of errors, on the device. Both see the same batches of predictions and are then computed, so the cost
of sorting all pixels counts. The last line is JSON, also in benchmarks/results/gpu_speed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mc_dropout
import torch
from methods_speed import exhausted
from scores import frame
from torch import Tensor, nn

from sfumato import registry
from sfumato.errors import SfumatoError
from sfumato.likelihoods import Categorical, DistilledClasses, LogitNormal
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.predictions import ClassPrediction, predict
from sfumato.tasks import Semantic

CLASSES, SIZE, TINY, DRAWS, MEMBERS, BATCHES = 11, (360, 480), (64, 96), 10, 5, (1, 8)
NETWORKS = ("unet", "efficient-unet")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
BUDGET, REPEATS, FRAMES = 0.25, (3, 20), 32  # seconds for the repeats of a call, and their number; images to score
Call = Callable[[], object]


class PeerScores:
    """mIoU, ECE, NLL, AURC and error AUROC by torch-uncertainty and torchmetrics, over all valid pixels."""

    def __init__(self, device: str) -> None:
        from torch_uncertainty import metrics as tu
        from torchmetrics.classification import BinaryAUROC

        self.of_probs = [
            tu.MeanIntersectionOverUnion(num_classes=CLASSES).to(device),
            tu.CalibrationError(task="multiclass", num_classes=CLASSES, num_bins=15).to(device),
            tu.CategoricalNLL().to(device),
            tu.AURC().to(device),
        ]
        self.errors = BinaryAUROC().to(device)

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add a batch."""
        probs, target = prediction.probs.movedim(1, -1)[valid], target[valid]
        for metric in self.of_probs:
            metric.update(probs, target)
        confidence, label = probs.max(1)
        self.errors.update(1 - confidence, (label != target).int())

    def compute(self) -> list[float]:
        """All five."""
        return [float(metric.compute()) for metric in (*self.of_probs, self.errors)]


class Clock:
    """Wall time and peak memory of calls on a device."""

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def seconds(self, call: Call) -> float:
        """From one synchronization to the next."""
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def mib(self, call: Call) -> float | None:
        """Peak memory beyond that at the start of the call, on a GPU."""
        if not self.cuda:
            return None
        self._wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self._wait()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def by_turns(self, calls: Mapping[str, Call], images: int) -> dict[str, dict[str, float | None]]:
        """Images per second, passes of ``plain`` and peak memory of each call. Calls alternate."""
        for call in calls.values():
            self.seconds(call)
        memory = {name: self.mib(call) for name, call in calls.items()}
        warm = {name: self.seconds(call) for name, call in calls.items()}
        repeats = {name: min(max(round(BUDGET / each), REPEATS[0]), REPEATS[1]) for name, each in warm.items()}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(REPEATS[1]):
            for name, call in calls.items():
                if number < repeats[name]:
                    taken[name].append(self.seconds(call))
        median = {name: statistics.median(each) for name, each in taken.items()}
        return {
            name: {
                "images_per_s": round(images / each, 2),
                "passes": round(each / median["plain"], 3),
                "peak_mib": memory[name],
            }
            for name, each in median.items()
        }


def made(name: str, channels: int, seed: int, device: str) -> nn.Module:
    """A network of the registry in evaluation mode."""
    torch.manual_seed(seed)
    build: Any = registry.load("models", name)
    return build(channels).eval().to(device)


def contenders(name: str, image: Tensor, device: str, peers: bool) -> dict[str, Call]:
    """Calls by name. They only draw outputs, unless the name says that they predict."""
    network, classes = made(name, CLASSES, 0, device), Categorical(CLASSES)
    student, noise = DistilledClasses(CLASSES), LogitNormal(CLASSES)
    taught, noisy = (made(name, each.channels, 0, device) for each in (student, noise))
    members = [network, *(made(name, CLASSES, seed, device) for seed in range(1, MEMBERS))]
    usual, one, ensemble = MCDropout(network, DRAWS), MCDropout(network, DRAWS, chunk=1), DeepEnsemble(members)
    calls: dict[str, Call] = {
        "plain": lambda: network(image),
        "plain_predict": lambda: predict(Deterministic(network), image, likelihood=classes),
        "student_predict": lambda: predict(Deterministic(taught), image, likelihood=student).epistemic,
        "logit_normal_predict": lambda: predict(Deterministic(noisy), image, likelihood=noise).aleatoric,
        "mc_dropout": lambda: exhausted(usual.draws(image)),
        "mc_dropout_one_by_one": lambda: exhausted(one.draws(image)),
        "mc_dropout_predict": lambda: predict(usual, image, likelihood=classes).epistemic,
        "ensemble": lambda: exhausted(ensemble.draws(image)),
        "ensemble_predict": lambda: predict(ensemble, image, likelihood=classes).epistemic,
    }
    if peers:
        from torch_uncertainty.methods import deep_ensembles

        method = mc_dropout.peer()
        loop, batch = (method(network, DRAWS, on_batch=on, task="segmentation").eval() for on in (False, True))
        several = deep_ensembles(members, task="segmentation").eval()
        calls |= {
            "mc_dropout_peer_loop": lambda: loop(image),
            "mc_dropout_peer_batch": lambda: batch(image),
            "ensemble_peer": lambda: several(image),
        }
    return calls


def faster(found: Mapping[str, Mapping[str, float | None]], ours: tuple[str, ...], theirs: tuple[str, ...]) -> float:
    """How many times as fast the first of ours is as the fastest of theirs."""
    rates = [max(float(found[name]["images_per_s"] or 0) for name in names) for names in (ours, theirs)]
    return round(rates[0] / rates[1], 3)


def predictions(device: str, size: tuple[int, int], clock: Clock, peers: bool, batch: int, name: str) -> dict[str, Any]:
    """The calls of one network on one batch, by precision."""
    image = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    result: dict[str, Any] = {}
    calls = contenders(name, image, device, peers)
    for precision, kind in PRECISIONS.items():
        with torch.no_grad(), torch.autocast(torch.device(device).type, kind, enabled=kind is not None):
            found = clock.by_turns(calls, batch)
        result[precision] = dict(found)
        if peers:
            theirs = ("mc_dropout_peer_loop", "mc_dropout_peer_batch")
            result[precision] |= {
                "mc_dropout_speedup": faster(found, ("mc_dropout",), theirs),
                "mc_dropout_one_by_one_speedup": faster(found, ("mc_dropout_one_by_one",), theirs),
                "ensemble_speedup": faster(found, ("ensemble",), ("ensemble_peer",)),
            }
    return result


def scoring(device: str, size: tuple[int, int], clock: Clock, peers: bool, batch: int, count: int) -> dict[str, Any]:
    """Seconds to score images in batches, and to compute the scores, of this package and of the others."""
    each = [frame(seed) for seed in range(min(count, 8))]
    prediction = ClassPrediction(*(torch.cat([getattr(f[0], n) for f in each]) for n in ("probs", "aleatoric")), 10)
    rows = tuple(slice(0, side) for side in size)
    maps = [prediction.probs, prediction.aleatoric, *(torch.cat([f[n] for f in each]) for n in (1, 2))]
    maps = [values[..., rows[0], rows[1]].to(device) for values in maps]
    pieces = [[m[i : i + batch] for m in maps] for i in range(0, len(maps[0]), batch)]
    batches = [(ClassPrediction(p, a, 10), t, v) for p, a, t, v in pieces] * max(1, count // len(maps[0]))
    task = Semantic(tuple(f"class {n}" for n in range(CLASSES)), tuple((n, n, n) for n in range(CLASSES)))
    makers: dict[str, Callable[[], Any]] = {"ours": lambda: task.scores().to(device)}  # pyright: ignore[reportAttributeAccessIssue] a Metric
    if peers:
        makers["peer"] = lambda: PeerScores(device)
    result: dict[str, Any] = {"images": len(batches) * batch}
    for name, make in makers.items():
        warm = make()
        warm.update(*batches[0])
        warm.compute()
        updates, computes = [], []
        for _ in range(3):
            metric = make()
            updates.append(clock.seconds(lambda m=metric: [m.update(*b) for b in batches]))
            computes.append(clock.seconds(metric.compute))
        update, compute = statistics.median(updates), statistics.median(computes)
        result[name] = {
            "update_images_per_s": round(result["images"] / update, 1),
            "compute_s": round(compute, 4),
            "images_per_s": round(result["images"] / (update + compute), 1),
            "peak_mib": clock.mib(lambda make=make: _scored(make(), batches)),
        }
    if peers:
        found, theirs = _scored(makers["ours"](), batches), _scored(makers["peer"](), batches)
        names = ("miou", "ece", "nll", "aurc_confidence", "error_auroc_confidence")
        result["differences"] = {
            n: float(f"{abs(float(found[n]) - b):.2g}") for n, b in zip(names, theirs) if n in found
        }
        result["speedup"] = round(result["ours"]["images_per_s"] / result["peer"]["images_per_s"], 2)
    return result


def _scored(metric: Any, batches: list[Any]) -> Any:
    for each in batches:
        metric.update(*each)
    return metric.compute()


def importable() -> bool:
    """Whether torch-uncertainty is there."""
    try:
        mc_dropout.peer()
        import torch_uncertainty.metrics  # noqa: F401
    except ImportError as error:
        print(f"torch-uncertainty cannot be imported ({error}): only this package is measured")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images, for a try")
    parser.add_argument("--seconds", type=float, default=55.0, help="no further part begins after this time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_speed.json")
    options = parser.parse_args()
    start, device, size = time.perf_counter(), options.device, TINY if options.tiny else SIZE
    torch.backends.cudnn.benchmark = True
    clock, peers = Clock(device), importable()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if clock.cuda else "CPU",
        "torch": torch.__version__,
        "torch_uncertainty": version("torch-uncertainty") if peers else None,
        "image": [3, *size], "classes": CLASSES, "draws": DRAWS, "members": MEMBERS,
    }  # fmt: skip
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    for batch in BATCHES:
        parts[f"unet, batch {batch}"] = lambda batch=batch: predictions(device, size, clock, peers, batch, "unet")
    for batch in BATCHES:
        parts[f"scores, batch {batch}"] = lambda batch=batch: scoring(
            device, size, clock, peers, batch, 8 if options.tiny else FRAMES
        )
    for batch in BATCHES:
        parts[f"efficient-unet, batch {batch}"] = lambda batch=batch: predictions(
            device, size, clock, peers, batch, "efficient-unet"
        )
    for name, part in parts.items():
        if time.perf_counter() - start > options.seconds:
            print(f"{name}: no time was left")
            continue
        try:
            result[name] = part()
        except SfumatoError as error:
            print(f"{name} is left out: {error}")
            continue
        result["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{name}: {json.dumps(result[name], indent=1)}", flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
