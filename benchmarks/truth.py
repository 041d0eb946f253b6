"""Do the parts mean what they say? Scenes know the truth, so they can be asked.

    python benchmarks/truth.py               # everything; goes on where it was stopped
    python benchmarks/truth.py --only fit    # train alone
    python benchmarks/truth.py --only score  # score what is there
    python benchmarks/truth.py --seeds 1     # less of it

Trains for long on all scenes, and for a short while on ¼, ½ and all of them, for classes (logit-normal) and for depth
(Gaussian on log depth), and compares what the networks say of their uncertainty with what is known of the scenes they
are shown. A third network learns the noise of depth alone, which tells what it makes of σ from what it makes of depth.
Each network gives MC dropout; several seeds of a size together give an ensemble. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import spearmanr
from torch.utils.data import Dataset

from sfumato.data import Scenes
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.predictions import predict
from sfumato.tasks import Depth
from sfumato.training import Plan, Run, derive, fit, generator_for, subset

HERE = Path(__file__).parent
SIZE, TRAIN, SHOWN, DRAWN = (64, 96), 2048, 100, 30  # scenes scored by one pass, and by many draws
PARTS_OF_DATA = (TRAIN // 4, TRAIN // 2, TRAIN)
STEPS, SHORT, BATCH = 10_240, 2560, 4  # few steps, the same for every amount, where data are compared
TASKS = ("depth", "noise", "classes")


class Noise(Dataset):
    """Scenes whose depth target is the factor by which the noise changed it: its median is 1 and known beforehand."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.scenes[index]
        true = sample["depth_true"].where(sample["depth_valid"], 1)
        return sample | {"depth": sample["depth"] / true, "depth_true": torch.ones_like(true)}


def folder_of(runs: Path, name: str, images: int, steps: int, seed: int) -> Path:
    return runs / f"truth-{name}-{images}-{steps}-{seed}"


def trained(runs: Path, name: str, images: int, steps: int, seed: int) -> Run:
    """The run of so many steps on so many images, fitted if it is not there yet."""
    folder = folder_of(runs, name, images, steps, seed)
    scenes = Scenes(TRAIN, size=SIZE, seed=0)
    train, question, likelihood = {
        "depth": (scenes, scenes.tasks["depth"], "gaussian"),
        "noise": (Noise(scenes), Depth(0.05, 20.0, ""), "gaussian"),
        "classes": (scenes, scenes.tasks["classes"], "logit-normal"),
    }[name]
    plan = Plan(
        data="scenes", task=question.key, task_args=vars(question), likelihood=likelihood, original_size=SIZE, limit=images,
        members=1, batch=BATCH, epochs=steps * BATCH // images, network_args={"dropout": 0.1}, seed=100 * seed,
    )  # fmt: skip
    if (folder / "weights-0.safetensors").exists():
        return Run.open(folder)
    plan = derive(subset(train, question), question, plan, scenes.augmentation)
    return fit(plan, train, None, folder, resume=True, progress=False)


def relative(prediction: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Aleatoric and epistemic (H, W): nats of a class, variance relative to the squared mean of a depth."""
    if hasattr(prediction, "probs"):
        return prediction.aleatoric[0], prediction.epistemic[0]
    square = prediction.mean[0, 0].square()
    return prediction.aleatoric[0] / square, prediction.epistemic[0] / square


def parts(run: Run, method: object, key: str) -> dict[str, float]:
    """Mean aleatoric and epistemic over the pixels of known scenes, and over the unseen objects among them."""
    seen: dict[str, list[torch.Tensor]] = {"known": [], "novel": []}
    for name, scenes in (("known", Scenes(DRAWN, SIZE, 1)), ("novel", Scenes(DRAWN, SIZE, 1, novel=True))):
        for index in range(DRAWN):
            sample = scenes[index]
            drawn = predict(
                method, sample["image"][None], likelihood=run.likelihood, generator=generator_for(index, 0)
            )  # fmt: skip
            where = sample["novel"] if name == "novel" else sample[f"{key}_valid"]
            seen[name].append(torch.stack(relative(drawn))[:, where])
    known, novel = (torch.cat(seen[name], 1).double().mean(1).tolist() for name in ("known", "novel"))
    return {"aleatoric": known[0], "epistemic": known[1], "aleatoric_novel": novel[0], "epistemic_novel": novel[1]}


def sigma(run: Run, scenes: Dataset) -> dict[str, float]:
    """Learned against true σ of log depth, over every valid pixel of scenes not trained on."""
    learned, true, residual = [], [], []
    for sample in (scenes[i] for i in range(SHOWN)):
        law = predict(Deterministic(run.networks[0]), sample["image"][None], likelihood=run.likelihood)
        valid = sample["depth_valid"]
        spread = torch.log1p(law.aleatoric[0] / law.mean[0, 0].square()).sqrt()  # of the logarithm, if it is normal
        middle = law.mean[0, 0].log() - spread.square() / 2
        learned.append(spread[valid])
        true.append(sample["depth_sigma"][0][valid])
        residual.append((middle - sample["depth_true"][0].log())[valid])
    a, b, r = torch.cat(learned), torch.cat(true), torch.cat(residual)
    misfit = (b.square() + r.square()).sqrt()  # what σ must be for a network that errs by r where noise is b
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
    """|predicted − true| probability, where the material leaves the class open: over its possible classes, and all."""
    possible, every = [], []
    for sample in (Scenes(SHOWN, SIZE, 1)[i] for i in range(SHOWN)):
        law = predict(Deterministic(run.networks[0]), sample["image"][None], likelihood=run.likelihood)
        open_ = sample["class_probs"].amax(0) < 1
        wrong = (law.probs[0] - sample["class_probs"]).abs()[:, open_]
        possible.append(wrong[(sample["class_probs"] > 0)[:, open_]])
        every.append(wrong.flatten())
    return {"possible": torch.cat(possible).mean().item(), "every": torch.cat(every).mean().item()}


def spread(runs: list[Run], task: str, ensemble: bool) -> dict[str, float]:
    """The parts by an ensemble of all seeds, or the mean over the seeds by MC dropout."""
    if ensemble:
        return parts(runs[0], DeepEnsemble(tuple(run.networks[0] for run in runs)), task)
    each = [parts(run, MCDropout(run.networks[0], samples=20), task) for run in runs]
    return {name: mean(row[name] for row in each) for name in each[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--only", choices=("fit", "score"), help="train and stop, or score what is there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=PARTS_OF_DATA, help="how many scenes to train on")
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
    for task in ("depth", "classes"):  # the headline, written last, is that of the classes
        for ensemble in (True, False)[len(seeds) < 2 :]:  # and of MC dropout, the package's default
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
