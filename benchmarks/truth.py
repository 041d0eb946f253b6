"""Are aleatoric and epistemic uncertainty right? Scenes hold the true distributions, to compare with.

    python benchmarks/truth.py               # everything; continues where it was stopped
    python benchmarks/truth.py --only fit    # train only
    python benchmarks/truth.py --only score  # score the runs that exist
    python benchmarks/truth.py --seeds 1     # fewer runs

Trains with many steps on all scenes, and with few steps on ¼, ½ and all of them, for classes (logit-normal) and for
depth (Gaussian on log depth). The predicted uncertainty is compared with the true distributions of other scenes. A
third network learns the noise of depth only, so that errors of σ can be told from errors of depth. Each network gives
MC dropout. Several seeds together give an ensemble. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from sfumato.contracts import DataSet, Method, Sample, Task
from sfumato.data import DatasetView, Scenes
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.runs import Config, Run
from sfumato.tasks import Depth
from sfumato.training import fit, make_plan

HERE = Path(__file__).parent
SIZE, TRAIN, SHOWN, DRAWN = (64, 96), 2048, 100, 30  # numbers of scenes scored by one pass, and by many draws
PARTS_OF_DATA = (TRAIN // 4, TRAIN // 2, TRAIN)
STEPS, SHORT, BATCH = 10_240, 2560, 4  # SHORT: for every amount of data, where amounts are compared
TASKS = ("depth", "noise", "classes")


class Noise(DatasetView):
    """Scenes whose depth target is the factor by which noise changed the depth. Its median is always 1."""

    @property
    def tasks(self) -> dict[str, Task]:
        """Depths relative to the true depth."""
        return {"depth": Depth(0.05, 20.0, "")}

    def __getitem__(self, index: int) -> Sample:
        sample: Any = self.whole[index]
        true = sample["depth_true"].where(sample["depth_valid"], 1)
        return {**sample, "depth": sample["depth"] / true, "depth_true": torch.ones_like(true)}


def folder_of(runs: Path, name: str, images: int, steps: int, seed: int) -> Path:
    return runs / f"truth-{name}-{images}-{steps}-{seed}"


def trained(runs: Path, name: str, images: int, steps: int, seed: int) -> Run:
    """The run of so many steps on so many images. It is trained if it does not exist."""
    folder = folder_of(runs, name, images, steps, seed)
    if (folder / "weights-0.safetensors").exists():
        return Run.open(folder)
    scenes = Scenes(TRAIN, size=SIZE, seed=0)
    train, task, likelihood = {
        "depth": (scenes, "depth", "gaussian"),
        "noise": (Noise(scenes), "depth", "gaussian"),
        "classes": (scenes, "classes", "logit-normal"),
    }[name]
    config = Config(
        task=task, likelihood=likelihood, method="mc-dropout", limit=images, batch=BATCH,
        epochs=max(1, steps * BATCH // images), network_args={"dropout": 0.1}, seed=100 * seed,
    )  # fmt: skip
    plan, train, _ = make_plan(config, train)
    return fit(plan, train, None, folder, resume=True, progress=False)


def relative(prediction: Any) -> tuple[Tensor, Tensor]:
    """Aleatoric and epistemic part (H, W): nats of classes, variance over squared mean of depths."""
    if hasattr(prediction, "probs"):
        return prediction.aleatoric[0], prediction.epistemic[0]
    square = prediction.mean[0, 0].square()
    return prediction.aleatoric[0] / square, prediction.epistemic[0] / square


def parts(run: Run, method: Method, key: str) -> dict[str, float]:
    """Mean aleatoric and epistemic part over the pixels of known scenes, and over those of unseen objects."""
    seen: dict[str, list[Tensor]] = {"known": [], "novel": []}
    for name, scenes in (("known", Scenes(DRAWN, SIZE, 1)), ("novel", Scenes(DRAWN, SIZE, 1, novel=True))):
        for index in range(DRAWN):
            sample = scenes[index]
            found = run.predict_uncalibrated(method, *run.inputs_of(sample), index=index)
            where = sample["novel"] if name == "novel" else sample[f"{key}_valid"]
            seen[name].append(torch.stack(relative(found))[:, where])
    known, novel = (torch.cat(seen[name], 1).double().mean(1).tolist() for name in ("known", "novel"))
    return {"aleatoric": known[0], "epistemic": known[1], "aleatoric_novel": novel[0], "epistemic_novel": novel[1]}


def one_pass(run: Run, dataset: DataSet) -> Iterator[tuple[Any, Any]]:
    """Each sample with its prediction by one pass."""
    method = Deterministic(run.networks[0])
    for sample in (dataset[index] for index in range(SHOWN)):
        yield sample, run.predict_uncalibrated(method, *run.inputs_of(sample))


def sigma(run: Run, scenes: DataSet) -> dict[str, float]:
    """Learned against true σ of log depth, over every valid pixel of scenes that were not trained on."""
    learned, true, residual = [], [], []
    for sample, found in one_pass(run, scenes):
        valid = sample["depth_valid"]
        spread = torch.log1p(found.aleatoric[0] / found.mean[0, 0].square()).sqrt()  # of a normal logarithm
        middle = found.mean[0, 0].log() - spread.square() / 2
        learned.append(spread[valid])
        true.append(sample["depth_sigma"][0][valid])
        residual.append((middle - sample["depth_true"][0].log())[valid])
    a, b, r = torch.cat(learned), torch.cat(true), torch.cat(residual)
    misfit = (b.square() + r.square()).sqrt()  # the best σ of a network with error r where the noise is b
    right = r.abs() < 0.3 * b
    return {
        "spearman": float(spearmanr(a.numpy(), b.numpy()).statistic),
        "spearman_where_right": float(spearmanr(a[right].numpy(), b[right].numpy()).statistic),
        "share_right": right.float().mean().item(),
        "ratio": (a / b).median().item(),
        "ratio_where_right": (a / b)[right].median().item(),
        "misfit": r.abs().median().item(),
        "ratio_with_misfit": (a / misfit).median().item(),
    }


def class_error(run: Run) -> dict[str, float]:
    """|predicted − true| probability where a material has several classes: over its possible classes, and over all."""
    possible, every = [], []
    for sample, found in one_pass(run, Scenes(SHOWN, SIZE, 1)):
        open_ = sample["class_probs"].amax(0) < 1
        wrong = (found.probs[0] - sample["class_probs"]).abs()[:, open_]
        possible.append(wrong[(sample["class_probs"] > 0)[:, open_]])
        every.append(wrong.flatten())
    return {"possible": torch.cat(possible).mean().item(), "every": torch.cat(every).mean().item()}


def spread(runs: list[Run], task: str, ensemble: bool) -> dict[str, float]:
    """The parts by an ensemble of all seeds, or the mean over seeds by MC dropout."""
    if ensemble:
        return parts(runs[0], DeepEnsemble(run.networks[0] for run in runs), task)
    each = [parts(run, MCDropout(run.networks[0], samples=20), task) for run in runs]
    return {name: mean(row[name] for row in each) for name in each[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--only", choices=("fit", "score"), help="train only, or score the runs that exist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=PARTS_OF_DATA, help="numbers of training scenes")
    parser.add_argument("--task", choices=TASKS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, most = range(options.seeds), max(options.images)
    wanted = [(task, most, STEPS) for task in TASKS]
    wanted += [(task, images, SHORT) for task in ("depth", "classes") for images in options.images]
    runs: dict[tuple[str, int, int], list[Run]] = {}
    for seed in seeds:
        for key in wanted:
            there = (folder_of(options.runs, *key, seed) / "weights-0.safetensors").exists()
            if there or (options.only != "score" and key[0] in (options.task or TASKS)):
                runs.setdefault(key, []).append(trained(options.runs, *key, seed))
    if options.only == "fit":
        return
    result: dict[str, Any] = {"size": SIZE, "images": options.images, "steps": [STEPS, SHORT], "seeds": options.seeds}
    shown = Scenes(SHOWN, SIZE, 1)
    for prefix, task, data in (("sigma", "depth", shown), ("sigma_known_median", "noise", Noise(shown))):
        found = [sigma(run, data) for run in runs[task, most, STEPS]]
        result |= {f"{prefix}_{name}": mean(each[name] for each in found) for name in found[0]}
    errors = [class_error(run) for run in runs["classes", most, STEPS]]
    result |= {
        "class_mae": mean(e["possible"] for e in errors),
        "class_mae_all_classes": mean(e["every"] for e in errors),
    }
    for task in ("depth", "classes"):  # the keys without a task are those of the classes, which are written last
        for ensemble in (True, False)[len(seeds) < 2 :]:  # those of MC dropout, which are written last
            whole = spread(runs[task, most, STEPS], task, ensemble)
            name = f"{task}_{'ensemble' if ensemble else 'mc_dropout'}"
            result[name] = {
                f"{part}_ood_ratio": whole[f"{part}_novel"] / whole[part] for part in ("epistemic", "aleatoric")
            }
            print(name, result[name], flush=True)
            if all((task, images, SHORT) in runs for images in options.images):
                rows = [spread(runs[task, images, SHORT], task, ensemble) for images in options.images]
                for part in ("epistemic", "aleatoric"):
                    result[name][f"{part}_by_data"] = [row[part] for row in rows]
            result |= result[name]
    (HERE / "results" / "truth.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
