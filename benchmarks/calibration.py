"""What calibration changes on real images, and whether conformal risks are met there.

    python benchmarks/camvid_small.py --camvid DIR --sevenscenes DIR         # trains the networks
    python benchmarks/calibration.py --camvid DIR --sevenscenes DIR

Classes on CamVid val, depth on 7-Scenes frames 420 to 499. Calibrators are fitted on the first half of these frames (a
block of the sequence) and scored on the second. For conformal sets and intervals the first quarter fits the temperature
or the scale, the second quarter the sets or intervals, and the second half is scored. Methods: one pass, MC dropout
(20 draws) and an ensemble of the seeds whose runs exist. The last line is JSON, also in results/calibration.json; the
figure is in docs/images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from sfumato.calibration import conformal_for, images_needed
from sfumato.contracts import DataSet, Method
from sfumato.data import load
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.metrics import SetScores
from sfumato.runs import Run, calibrator_classes

HERE = Path(__file__).parent
SAMPLES, SEEDS = 20, (0, 1, 2)
CLASS_SCORES = ("miou", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "error_auroc")
VALUE_SCORES = ("rmse", "nll", "crps", "coverage90", "width90", "quantile_calibration", "ence", "ause")
Held = list[tuple[Any, Tensor, Tensor]]


def predicted(run: Run, method: Method, dataset: DataSet) -> Held:
    """Predictions, targets and masks of every image, in order."""
    found: Held = []
    for index in range(len(dataset)):
        sample = dataset[index]
        target, valid = run.single_task.target_and_mask(sample)
        prediction = run.predict_uncalibrated(method, *run.inputs_of(sample), index=index)
        found.append((prediction.with_image(None), target[None], valid[None]))
    return found


def scored(run: Run, calibrator: Callable[[Any], Any], held: Held) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores of the calibrated predictions and their reliability curve."""
    scores: Any = run.single_task.scores()
    for prediction, target, valid in held:
        scores.update(calibrator(prediction), target, valid)
    found = {name: float(value) for name, value in scores.compute().items()}
    return found, scores.curves()["reliability"]


def conformal(run: Run, held: Held) -> list[dict[str, float]]:
    """Risk and size of sets or intervals at 90 and 95 %, in expectation and with probability 0.9."""
    quarter, half = len(held) // 4, len(held) // 2
    calibrators: dict[str, Any] = calibrator_classes(run.single_task)
    calibrator = next(iter(calibrators.values())).fit(held[:quarter])
    calibrated = [(calibrator(p), t, v) for p, t, v in held[quarter:]]
    rows = []
    for level in (0.9, 0.95):
        for delta in (0.0, 0.1):
            if images_needed(1 - level, delta) > half - quarter:
                continue  # these images are too few for this level
            fitted: Any = conformal_for(run.single_task.kind).fit(calibrated[: half - quarter], level, delta)
            scores = SetScores()
            for prediction, target, valid in calibrated[half - quarter :]:
                scores.update(fitted(prediction), target, valid)
            found = {k: float(v) for k, v in scores.compute().items()}
            rows.append({"level": level, "delta": delta, "risk": found["risk"], "size": found["set_size"]})
    return rows


def table(runs: list[Run], dataset: DataSet, wanted: tuple[str, ...], axes: Any) -> dict[str, Any]:
    """Method → calibrator → score, and the conformal rows. Draws the reliability of each."""
    networks = tuple(run.networks[0] for run in runs)
    methods = {"one pass": Deterministic(networks[0]), "MC dropout": MCDropout(networks[0], samples=SAMPLES)}
    if len(runs) > 1:
        methods[f"ensemble of {len(runs)}"] = DeepEnsemble(networks)
    run, found = runs[0], {}
    for (name, method), axis in zip(methods.items(), axes):
        held = predicted(run, method, dataset)
        half = len(held) // 2
        found[name] = {"conformal": conformal(run, held)}
        for kind, calibrators in {"none": None, **calibrator_classes(run.single_task)}.items():
            maker: Any = calibrators
            calibrator = (lambda p: p) if maker is None else maker.fit(held[:half])
            scores, curve = scored(run, calibrator, held[half:])
            found[name][kind] = {score: scores[score] for score in wanted}
            print(name, kind, found[name][kind], flush=True)
            names = ("confidence", "accuracy") if "accuracy" in curve else ("nominal", "observed")
            color = "black" if kind == "none" else None
            axis.plot(*(curve[column] for column in names), label=kind, lw=1, marker=".", color=color)
        axis.plot([0, 1], [0, 1], ls="--", lw=0.8, color="gray")
        axis.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        print(name, found[name]["conformal"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--sevenscenes", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    options = parser.parse_args()
    tasks = {
        "classes": ("camvid-categorical", load("camvid", options.camvid, "val", (180, 240)), CLASS_SCORES),
        "depth": ("sevenscenes-heteroscedastic", load("sevenscenes", options.sevenscenes, "val", (96, 128)),
                  VALUE_SCORES),
    }  # fmt: skip
    figure = Figure((9, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    result: dict[str, Any] = {"samples": SAMPLES}
    for (task, (name, dataset, wanted)), row in zip(tasks.items(), axes):
        folders = [options.runs / f"{name}-{seed}" for seed in SEEDS]
        runs = [Run.open(folder) for folder in folders if (folder / "weights-0.safetensors").exists()]
        result[task] = table(runs, dataset, wanted, row)
        row[0].set(ylabel="accuracy" if task == "classes" else "share of targets below")
        row[0].legend(frameon=False, fontsize=8)
        for axis in row:
            axis.set(xlabel="confidence" if task == "classes" else "quantile level")
    figure.savefig(HERE.parent / "docs" / "images" / "calibration.png", dpi=90)
    (HERE / "results" / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
