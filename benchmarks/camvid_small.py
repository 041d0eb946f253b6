"""Kendall and Gal's tables on real images: plain, + aleatoric, + epistemic, both; in and out of distribution.

    python benchmarks/camvid_small.py --camvid DIR --sevenscenes DIR            # train missing runs, then score
    python benchmarks/camvid_small.py --camvid DIR --sevenscenes DIR --score    # score the runs that exist

Classes on CamVid train → val at 180 × 240, out of distribution on 7-Scenes frames. Depth on 7-Scenes frames 0–399 →
420–499 at 96 × 128. Three seeds. One network gives two rows: one pass without dropout (plain, + aleatoric) and 20
passes with dropout (+ epistemic, both). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from camvid import spread

from sfumato.contracts import DataSet
from sfumato.data import DatasetView, load
from sfumato.methods import Deterministic, MCDropout
from sfumato.metrics import OODScores
from sfumato.runs import Run

HERE = Path(__file__).parent
SEEDS, SAMPLES = (0, 1, 2), 20
CAMVID = ["--data=camvid", "--size=[180,240]", "--crop=[128,176]", "--epochs=44", "--batch=4"]
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
    """Train with the command line. An interrupted run is continued, a finished one is left as it is."""
    arguments = [*SETTINGS[name], f"--root={root}", f"--seed={100 * seed}", "--method=mc-dropout"]
    arguments += ['--network-args={"dropout": 0.2}', f"--out={runs / f'{name}-{seed}'}", "--resume", "--quiet"]
    subprocess.run([sys.executable, "-m", "sfumato", "fit", *arguments], check=True, cwd=HERE)


def scored(run: Run, dataset: DataSet, ood_data: DataSet | None, dropout: bool) -> dict[str, float]:
    """Scores of one network on every image, and of OOD detection where OOD images are given."""
    network, task = run.networks[0], run.single_task
    method = MCDropout(network, samples=SAMPLES) if dropout else Deterministic(network)
    scores, ood = task.scores(), OODScores()
    for data, is_ood in ((dataset, False), (ood_data, True)):
        for index in range(len(data) if data is not None else 0):
            sample = data[index]
            prediction = run.predict_uncalibrated(method, *run.inputs_of(sample), index=index)
            if not is_ood:
                target, valid = task.target_and_mask(sample)
                scores.update(prediction, target[None], valid[None])
            everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
            ood.update(prediction, everywhere & is_ood, everywhere)
    found = {**scores.compute(), **(ood.compute() if ood_data is not None else {})}
    return {name: float(value) for name, value in found.items()}


def table(
    names: tuple[str, str], dataset: DataSet, ood_data: DataSet | None, runs: Path, wanted: tuple[str, ...]
) -> dict:
    """Row → score → [mean, standard deviation] over the seeds whose runs exist."""
    rows = {}
    for row, (which, dropout) in ROWS.items():
        each = []
        for seed in SEEDS:
            folder = runs / f"{names[which]}-{seed}"
            if not (folder / "weights-0.safetensors").exists():
                continue
            kept = folder / f"benchmark-{row}.json"  # so that an interrupted scoring can be continued
            if not kept.exists():
                run = Run.open(folder, trust="homoscedastic")
                kept.write_text(json.dumps(scored(run, dataset, ood_data, dropout)))
            each.append(json.loads(kept.read_text()))
        if not each:
            continue
        rows[row] = {"seeds": len(each)} | {name: spread([e[name] for e in each]) for name in wanted}
        print(row, rows[row], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--sevenscenes", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))  # for homoscedastic.py, a network outside of the package
    roots = {"camvid": options.camvid.absolute(), "sevenscenes": options.sevenscenes.absolute()}
    if not options.score:
        for name in SETTINGS:
            for seed in SEEDS:
                fit(name, seed, roots[name.partition("-")[0]], options.runs.absolute())
    camvid = load("camvid", roots["camvid"], "val", (180, 240))
    rooms = load("sevenscenes", roots["sevenscenes"], "val", (180, 240))
    rooms = DatasetView(rooms, range(0, len(rooms), 2))
    ood = tuple(f"ood_{score}_{part}" for score in ("ratio", "auroc") for part in ("aleatoric", "epistemic"))
    result = {
        "samples": SAMPLES,
        "classes": table(
            ("camvid-categorical", "camvid-logit-normal"), camvid, rooms, options.runs, (*CLASS_SCORES, *ood)
        ),
        "depth": table(
            ("sevenscenes-homoscedastic", "sevenscenes-heteroscedastic"),
            load("sevenscenes", roots["sevenscenes"], "val", (96, 128)), None, options.runs, DEPTH_SCORES,
        ),
    }  # fmt: skip
    (HERE / "results" / "camvid_small.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
