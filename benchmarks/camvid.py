"""Kendall and Gal's tables on real images: plain, + aleatoric, + epistemic, both; in distribution and out of it.

    python benchmarks/camvid.py --camvid DIR --sevenscenes DIR            # train what is missing, then score
    python benchmarks/camvid.py --camvid DIR --sevenscenes DIR --score    # score what is there

Classes on CamVid train → val at 180 × 240, out of distribution on 7-Scenes frames. Depth on 7-Scenes frames 0–399 →
420–499 at 96 × 128. Three seeds. One network serves two rows: one pass with dropout deterministic (plain, + aleatoric) and
20 passes with it forced_dropout (+ epistemic, both). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import torch
from torch.utils.data import Dataset, Subset

from sfumato.data import load
from sfumato.methods import Deterministic, MCDropout
from sfumato.metrics import OODScores
from sfumato.predictions import predict
from sfumato.training import Run, generator_for

HERE = Path(__file__).parent
SEEDS, SAMPLES = (0, 1, 2), 20
CAMVID = ["--data=camvid", "--crop=[128,176]", "--epochs=44", "--batch=4"]
SEVENSCENES = ["--data=sevenscenes", "--likelihood=laplace", "--size=[96,128]", "--epochs=16", "--batch=4"]
SETTINGS = {
    "camvid-categorical": [*CAMVID, "--likelihood=categorical"],
    "sevenscenes-heteroscedastic": SEVENSCENES,
    "camvid-logit-normal": [*CAMVID, "--likelihood=logit-normal"],
    "sevenscenes-homoscedastic": [*SEVENSCENES, "--network=homoscedastic.Homoscedastic"],
}
ROWS = {"plain": (0, False), "aleatoric": (1, False), "epistemic": (0, True), "both": (1, True)}
CLASS_SCORES = ("miou", "accuracy", "class_accuracy", "nll", "ece", "error_auroc")
DEPTH_SCORES = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3", "nll", "ause")


def fit(name: str, seed: int, root: Path, runs: Path) -> None:
    """Train with the command a user would type; goes on with what was interrupted, leaves what is finished."""
    arguments = [*SETTINGS[name], f"--root={root}", f"--seed={100 * seed}", "--method=mc-dropout"]
    arguments += ['--network_args={"dropout": 0.2}', f"--out={runs / f'{name}-{seed}'}", "--resume", "--quiet"]
    subprocess.run([sys.executable, "-m", "sfumato", "fit", *arguments], check=True, cwd=HERE)


def scored(run: Run, dataset: Dataset, others: Dataset | None, forced_dropout: bool) -> dict[str, float]:
    """Scores of one network on every image; against another world too, where one is given."""
    network = run.networks[0]
    method = MCDropout(network, samples=SAMPLES) if forced_dropout else Deterministic(network)
    scores, ood, key = run.task.scores(), OODScores(), run.task.key
    for data, foreign in ((dataset, False), (others, True)):
        for index in range(len(data) if data is not None else 0):  # pyright: ignore[reportArgumentType]
            sample = data[index]
            prediction = predict(
                method, sample["image"][None], likelihood=run.likelihood, generator=generator_for(index, 0)
            )  # fmt: skip
            if not foreign:
                scores.update(prediction, sample[key][None], sample[key + "_valid"][None])
            everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
            ood.update(prediction, everywhere & foreign, everywhere)
    found = scores.compute() | (ood.compute() if others is not None else {})
    return {name: float(value) for name, value in found.items()}


def table(
    names: tuple[str, str], dataset: Dataset, others: Dataset | None, runs: Path, wanted: tuple[str, ...]
) -> dict:
    """Row → score → [mean, standard deviation] over the seeds that are there."""
    rows = {}
    for row, (which, forced_dropout) in ROWS.items():
        each = []
        for seed in SEEDS:
            folder = runs / f"{names[which]}-{seed}"
            if not (folder / "weights-0.safetensors").exists():
                continue
            kept = folder / f"benchmark-{row}.json"  # so that an interrupted scoring goes on too
            if not kept.exists():
                kept.write_text(json.dumps(scored(Run.open(folder), dataset, others, forced_dropout)))
            each.append(json.loads(kept.read_text()))
        if not each:
            continue
        rows[row] = {"seeds": len(each)} | {name: _spread([e[name] for e in each]) for name in wanted}
        print(row, rows[row], flush=True)
    return rows


def _spread(values: list[float]) -> tuple[float, float | None] | None:
    """Mean and standard deviation; nothing of what one pass leaves undefined, such as epistemic ratios."""
    if not all(map(math.isfinite, values)):
        return None
    return mean(values), stdev(values) if len(values) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--sevenscenes", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))  # for homoscedastic.py, a user's own network
    roots = {"camvid": options.camvid.absolute(), "sevenscenes": options.sevenscenes.absolute()}
    if not options.score:
        for name in SETTINGS:
            for seed in SEEDS:
                fit(name, seed, roots[name.partition("-")[0]], options.runs.absolute())
    camvid = load("camvid", roots["camvid"], "val", (180, 240))
    foreign = load("sevenscenes", roots["sevenscenes"], "val", (180, 240))
    foreign = Subset(foreign, range(0, len(foreign), 2))  # pyright: ignore[reportArgumentType]
    ood = tuple(f"ood_{score}_{part}" for score in ("ratio", "auroc") for part in ("aleatoric", "epistemic"))
    result = {
        "samples": SAMPLES,
        "classes": table(
            ("camvid-categorical", "camvid-logit-normal"), camvid, foreign, options.runs, (*CLASS_SCORES, *ood)
        ),
        "depth": table(
            ("sevenscenes-homoscedastic", "sevenscenes-heteroscedastic"),
            load("sevenscenes", roots["sevenscenes"], "val", (96, 128)), None, options.runs, DEPTH_SCORES,
        ),
    }  # fmt: skip
    (HERE / "results" / "camvid.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
