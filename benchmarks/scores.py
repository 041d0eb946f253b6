"""The time of scoring every pixel, compared with the metrics of torch-uncertainty 0.13 at sampling rate 1.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchvision==0.28.* torch-uncertainty==0.13.* safetensors pillow scikit-learn
    PYTHONPATH=src peers/bin/python benchmarks/scores.py
    PYTHONPATH=src peers/bin/python benchmarks/scores.py --cpu-time --threads 1   # on a busy machine

100 frames of 360 × 480, 11 classes, 4 % void, generated from smooth random logits. In one process, ClassScores of the
package and the metrics of torch-uncertainty's SegmentationRoutine (accuracies of torchmetrics, mIoU, PAvPU, Brier, NLL,
four calibration errors, AURC, AUGRC, coverage at risk, risk at coverage) alternate on every frame, then compute. The
package computes more numbers: rankings by three uncertainties and by confidence, class-wise calibration, and a row for
each image. Then ClassScores scores 6,000 frames, a gigapixel, while its resident memory is read. A copy of the
probabilities shows the bandwidth of the memory. The last line is JSON, also in results/scores.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mc_dropout import load_torchvision
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.metrics import ClassScores
from sfumato.predictions import ClassPrediction, entropy

CLASSES, SIZE = 11, (360, 480)
MEGAPIXELS = SIZE[0] * SIZE[1] / 1e6


def frame(seed: int) -> tuple[ClassPrediction, Tensor, Tensor]:
    """A frame with the confidence of a U-Net on CamVid (⅔ of the pixels above 0.93). 12 % of the labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 16 * torch.randn(1, CLASSES, 18, 24, generator=generator)
    probs = torch.softmax(interpolate(coarse, SIZE, mode="bilinear"), 1)
    wrong = torch.rand(1, *SIZE, generator=generator) < 0.12
    target = torch.randint(CLASSES, (1, *SIZE), generator=generator).where(wrong, probs.argmax(1))
    valid = torch.rand(1, *SIZE, generator=generator) > 0.04
    return ClassPrediction(probs, 0.8 * entropy(probs), 10), target.where(valid, 255), valid


def peer() -> list[Any]:
    """The test metrics of torch-uncertainty's SegmentationRoutine, at a sampling rate of 1."""
    from torch_uncertainty import metrics as tu
    from torchmetrics import Accuracy, MetricCollection

    def calibration(**how: Any) -> Any:
        return tu.CalibrationError(task="multiclass", num_classes=CLASSES, num_bins=15, **how)

    regions = {
        "miou": tu.MeanIntersectionOverUnion(num_classes=CLASSES),
        "class_accuracy": Accuracy(task="multiclass", average="macro", num_classes=CLASSES),
        "accuracy": Accuracy(task="multiclass", num_classes=CLASSES),
    }
    probabilities = {
        "brier": tu.BrierScore(num_classes=CLASSES),
        "nll": tu.CategoricalNLL(),
        "ece": calibration(),
        "mce": calibration(norm="max"),
        "adaptive_ece": calibration(adaptive=True),
        "smooth_ece": tu.SmoothCalibrationError(),
        "aurc_confidence": tu.AURC(),
        "augrc_confidence": tu.AUGRC(),
        "coverage_at_risk": tu.CovAt5Risk(),
        "risk_at_coverage": tu.RiskAt80Cov(),
    }
    groups = [["brier"], ["nll"], ["ece", "smooth_ece", "mce", "adaptive_ece"],
              ["aurc_confidence", "augrc_confidence", "coverage_at_risk", "risk_at_coverage"]]  # fmt: skip
    return [
        tu.SegmentationMetric(MetricCollection(regions, compute_groups=[list(regions)], prefix="peer_")),
        MetricCollection({"pavpu": tu.PAvPU(patch_size=16, acc_threshold=0.5, unc_threshold=0.5)}, prefix="peer_"),
        tu.SegmentationMetric(
            MetricCollection(probabilities, compute_groups=groups, prefix="peer_"), subsampling_rate=1.0
        ),
    ]


def resident() -> float:
    """Resident memory of this process, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--many", type=int, default=6000)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    load_torchvision()
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    ours, theirs, spent = ClassScores(CLASSES), peer(), dict.fromkeys(("ours", "peer", "copy"), 0.0)

    def timed(name: str, work: Callable[[], object]) -> None:
        start = clock()
        work()
        spent[name] += clock() - start

    room = torch.empty(1, CLASSES, *SIZE)
    ClassScores(CLASSES).update(*frame(0))  # warms up
    for seed in range(chosen.frames):
        prediction, target, valid = frame(seed)
        timed("copy", lambda p=prediction: room.copy_(p.probs))
        timed("ours", lambda f=(prediction, target, valid): ours.update(*f))
        for metric in theirs:
            timed("peer", lambda m=metric, p=prediction.probs, t=target, v=valid: m.update(p, t, ignore_mask=~v))
    found: dict[str, Any] = {}
    timed("ours", lambda: found.update(ours.compute()))
    for metric in theirs:
        timed("peer", lambda m=metric: found.update(m.compute()))
    pixels = chosen.frames * MEGAPIXELS
    same = ("accuracy", "class_accuracy", "miou", "nll", "brier", "ece", "mce", "aurc_confidence", "augrc_confidence")
    result: dict[str, Any] = {
        "frames": [chosen.frames, CLASSES, *SIZE],
        "threads": chosen.threads,
        "clock": "cpu" if chosen.cpu_time else "wall",
        "torch": torch.__version__,
        "torch_uncertainty": version("torch-uncertainty"),
        "speedup": spent["peer"] / spent["ours"],
        "ours_mpx_per_s": pixels / spent["ours"],
        "peer_mpx_per_s": pixels / spent["peer"],
        "copy_mpx_per_s": pixels / spent["copy"],
        **{f"difference_{n}": abs(float(found[n]) - float(found[f"peer_{n}"])) for n in same},
    }
    del theirs
    many, frames = ClassScores(CLASSES), [frame(seed) for seed in range(10)]
    for n in range(chosen.many):
        many.update(*frames[n % 10])
        if n + 1 == 10:
            first = resident()
    result |= {"many_frames": chosen.many, "growth_mb": (resident() - first) * 2**20 / 1e6}
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in result.items()}
    for key, value in rounded.items():
        print(f"{key:28s} {value}")
    (Path(__file__).parent / "results" / "scores.json").write_text(json.dumps(rounded, indent=1) + "\n")
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
