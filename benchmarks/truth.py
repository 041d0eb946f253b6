"""Are aleatoric and epistemic uncertainty right? Scenes hold the true distributions, to compare with.

    python benchmarks/truth.py                    # everything; continues where it was stopped
    python benchmarks/truth.py --seeds 1          # fewer runs
    python benchmarks/truth.py --device cuda --jobs 3 --minutes 8  # three runs at a time on a GPU

Trains with many steps on 8192 scenes, for depth (Gaussian on log depth) and for classes (logit-normal), then with few
steps on 512, 1024 and 2048 of them. The predicted uncertainty is compared with the true distributions of other scenes.
One more network learns the noise of depth only, so that errors of σ can be told from errors of depth. The networks of
all seeds are an ensemble. Scenes are generated once. The last line is JSON, and results/truth.json, which is written
after each run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from processes import finished
from scipy.stats import spearmanr
from stored_scenes import StoredScenes, stored
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato.contracts import Method, Sample, Task
from sfumato.data import DatasetView, Scenes
from sfumato.methods import DeepEnsemble, Deterministic
from sfumato.runs import Config, Run
from sfumato.storage import atomic_write
from sfumato.tasks import Depth
from sfumato.training import fit, make_plan

HERE = Path(__file__).parent
SHOWN, DRAWN = 100, 30  # numbers of scenes that distributions are compared on, and that parts are averaged over
BATCH, RATE, WIDTHS, DROPOUT = 32, 6e-3, (16, 32, 64, 96, 144), 0.0
TASKS = ("depth", "classes", "noise")
STEPS = (10_240, 5_120, 2_560, 2_560)  # of each task, and where amounts of data are compared
ENTRIES = ("image", "classes", "classes_valid", "depth", "depth_valid", "depth_true")


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


@dataclass(frozen=True)
class Job:
    """One run: what it learns, on how many scenes, in how many steps, and its seed."""

    task: str
    images: int
    steps: int
    seed: int
    size: tuple[int, int]
    runs: Path
    device: str

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        height, width = self.size
        return self.runs / f"truth-{self.task}-{self.images}-{self.steps}-{height}x{width}-{self.seed}"

    @property
    def scores(self) -> Path:
        """The file with the scores of a run."""
        return self.folder / "scores.json"

    @property
    def key(self) -> str:
        """The task whose uncertainty is predicted."""
        return "classes" if self.task == "classes" else "depth"


def trained(scenes: StoredScenes, job: Job) -> dict[str, Any]:
    """Train and score one run. Its scores are kept beside its weights."""
    start = time.perf_counter()
    config = Config(
        task=job.key, likelihood="logit-normal" if job.key == "classes" else "gaussian", method="deterministic",
        limit=job.images, batch=BATCH, epochs=max(1, round(job.steps / max(1, job.images // BATCH))), seed=job.seed,
        learning_rate=RATE, precision="32-true", network_args={"dropout": DROPOUT, "widths": list(WIDTHS)},
    )  # fmt: skip
    data = Noise(scenes) if job.task == "noise" else scenes
    plan, train, _ = make_plan(config, data, device=job.device)
    run = fit(plan, train, None, job.folder, resume=True, device=job.device, progress=False, cache="memory",
              logger="csv")  # fmt: skip
    seconds = time.perf_counter() - start
    row = {"seconds": round(seconds, 1), "scores": distribution(run, Deterministic(run.networks[0]), job)}
    with atomic_write(job.scores) as part:
        part.write_text(json.dumps(row))
    return row


@cache
def shown(count: int, size: tuple[int, int], novel: bool = False) -> Sequence[Sample]:
    """Scenes to score on, which no run was trained on."""
    scenes = Scenes(count, size, 1, novel=novel)
    return [scenes[index] for index in range(count)]


def distribution(run: Run, method: Method, job: Job) -> dict[str, float]:
    """How close the predicted distribution is to the true one."""
    if job.key == "classes":
        return class_error(run, method, job.size)
    return sigma(run, method, job)


def predictions(run: Run, method: Method, samples: Sequence[Sample]) -> Iterator[tuple[Any, Any]]:
    """Each sample with its prediction, on the CPU."""
    for index, sample in enumerate(samples):
        yield sample, run.predict_uncalibrated(method, *run.inputs_of(sample), index=index).to("cpu")


def relative(prediction: Any) -> tuple[Tensor, Tensor]:
    """Aleatoric and epistemic part (H, W): nats of classes, variance over squared mean of depths."""
    if hasattr(prediction, "probs"):
        return prediction.aleatoric[0], prediction.epistemic[0]
    square = prediction.mean[0, 0].square()
    return prediction.aleatoric[0] / square, prediction.epistemic[0] / square


def parts(run: Run, method: Method, job: Job) -> dict[str, float]:
    """Mean aleatoric and epistemic part over the pixels of known scenes, and over those of unseen objects.

    For depth also the median size of the error of its logarithm.
    """
    found = {}
    for ending, novel in (("", False), ("_novel", True)):
        every, errors = [], []
        for sample, prediction in predictions(run, method, shown(DRAWN, job.size, novel)):
            where = sample["novel"] if novel else sample[f"{job.key}_valid"]
            every.append(torch.stack(relative(prediction))[:, where])
            if job.key == "depth":
                errors.append((prediction.mean[0, 0].log() - sample["depth_true"][0].log()).abs()[where])
        means = torch.cat(every, 1).double().mean(1).tolist()
        found |= {f"aleatoric{ending}": means[0], f"epistemic{ending}": means[1]}
        if errors:
            found[f"error{ending}"] = torch.cat(errors).median().item()
    return found


def sigma(run: Run, method: Method, job: Job) -> dict[str, float]:
    """Learned against true σ of log depth, over every valid pixel of scenes that were not trained on."""
    learned, true, residual, nearby = [], [], [], []
    for sample, found in predictions(run, method, shown(SHOWN, job.size)):
        valid = sample["depth_valid"]
        spread = torch.log1p(found.aleatoric[0] / found.mean[0, 0].square()).sqrt()  # of a normal logarithm
        middle = found.mean[0, 0].log() - spread.square() / 2
        true_depth = sample["depth_true"][0].where(valid & (job.task != "noise"), 1)
        error = (middle - true_depth.log()).where(valid, 0)
        learned.append(spread[valid])
        true.append(sample["depth_sigma"][0][valid])
        residual.append(error[valid])
        nearby.append((_blurred(error.square()) / _blurred(valid.float()))[valid])
    a, b, r, near = torch.cat(learned), torch.cat(true), torch.cat(residual), torch.cat(nearby)
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
        # of a σ that explains the noise and the mean square error of the pixels around, as the likelihood asks for
        "spearman_of_best": float(spearmanr((b.square() + near).sqrt().numpy(), b.numpy()).statistic),
    }


def _blurred(values: Tensor) -> Tensor:
    """The mean over 7 × 7 pixels of a map (H, W), with zeros around it."""
    return avg_pool2d(values[None], 7, stride=1, padding=3)[0]


def class_error(run: Run, method: Method, size: tuple[int, int]) -> dict[str, float]:
    """|predicted − true| probability where a material has several classes: over its possible classes, and over all."""
    possible, every = [], []
    for sample, found in predictions(run, method, shown(SHOWN, size)):
        ambiguous = sample["class_probs"].amax(0) < 1
        wrong = (found.probs[0] - sample["class_probs"]).abs()[:, ambiguous]
        possible.append(wrong[(sample["class_probs"] > 0)[:, ambiguous]])
        every.append(wrong.flatten())
    return {"mae": torch.cat(possible).mean().item(), "mae_all_classes": torch.cat(every).mean().item()}


def ensembles(jobs: Sequence[Job], least: int) -> None:
    """Score the runs that differ in their seed only as an ensemble, where at least so many of them exist."""
    for group in grouped(jobs):
        path = together(group)
        if len(group) >= max(2, least) and not path.exists():
            runs = [Run.open(job.folder, device=job.device) for job in group]
            method = DeepEnsemble(run.networks[0] for run in runs)
            row = parts(runs[0], method, group[0])
            if group[0].images == max(job.images for job in jobs):
                row |= distribution(runs[0], method, group[0])
            with atomic_write(path) as part:
                part.write_text(json.dumps(row))


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs whose runs were scored, those that differ in their seed only together."""
    groups: dict[tuple[str, int, int], list[Job]] = {}
    for job in jobs:
        if job.scores.exists():
            groups.setdefault((job.task, job.images, job.steps), []).append(job)
    return list(groups.values())


def together(group: Sequence[Job]) -> Path:
    """The file with the scores of an ensemble."""
    return group[0].folder / f"ensemble-{len(group)}.json"


def row_of(group: Sequence[Job]) -> dict[str, Any]:
    """All scores of runs that differ in their seed only: each, their mean, and those of the ensemble."""
    job, each = group[0], [json.loads(job.scores.read_text()) for job in group]
    path = together(group)
    return {
        "task": job.task,
        "images": job.images,
        "steps": job.steps,
        "mean": {name: mean(row["scores"][name] for row in each) for name in each[0]["scores"]},
        "each": each,
        "ensemble": json.loads(path.read_text()) if path.exists() else {},
    }


def summary(rows: Sequence[dict[str, Any]], most: int, steps: dict[str, int], short: int) -> dict[str, Any]:
    """The numbers of the page: those of the long runs, and those over amounts of data."""
    found: dict[str, Any] = {}
    for row in rows:
        if (row["images"], row["steps"]) != (most, steps[row["task"]]):
            continue
        prefix = {"depth": "sigma", "noise": "sigma_known_median", "classes": "class"}[row["task"]]
        for ending, scores in (("", row["mean"]), ("_ensemble", row["ensemble"])):
            found |= {f"{prefix}_{name}{ending}": value for name, value in scores.items() if name in row["mean"]}
        if row["ensemble"] and row["task"] != "noise":
            whole = row["ensemble"]
            ratios = {
                f"{part}_ood_ratio": whole[f"{part}_novel"] / whole[part]
                for part in ("epistemic", "aleatoric", "error")
                if part in whole
            }
            found[f"{row['task']}_ensemble"] = ratios
    for task, score in (("depth", "spearman"), ("classes", "mae")):
        parted = [row for row in rows if (row["task"], row["steps"]) == (task, short)]
        parted.sort(key=lambda row: row["images"])
        found[f"{task}_{score}_by_data"] = {row["images"]: row["mean"][score] for row in parted}
        for part in ("epistemic", "aleatoric"):
            found[f"{task}_{part}_by_data"] = {
                row["images"]: row["ensemble"][part] for row in parted if row["ensemble"]
            }
    return found


def write(out: Path, jobs: Sequence[Job], steps: dict[str, int], short: int) -> dict[str, Any]:
    """Write what is known so far."""
    rows = [row_of(group) for group in grouped(jobs)]
    result = {
        "size": jobs[0].size, "images": sorted({job.images for job in jobs}), "steps": [steps, short], "batch": BATCH,
        "learning_rate": RATE, "widths": WIDTHS, "dropout": DROPOUT, "seeds": len({job.seed for job in jobs}),
        "shown": [SHOWN, DRAWN], **summary(rows, max(job.images for job in jobs), steps, short), "runs": rows,
    }  # fmt: skip
    with atomic_write(out) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=8192, help="number of training scenes")
    parser.add_argument("--images", type=int, nargs="+", default=(512, 1024, 2048), help="amounts that are compared")
    parser.add_argument("--steps", type=int, nargs=4, default=STEPS, metavar=("DEPTH", "CLASSES", "NOISE", "SHORT"),
                        help="SHORT is for the amounts that are compared")  # fmt: skip
    parser.add_argument("--task", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after this time")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "truth.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    end = time.time() + 60 * given.minutes
    size, most = (given.size[0], given.size[1]), given.scenes
    steps, short = dict(zip(TASKS, given.steps)), given.steps[-1]
    wanted = [(task, most, steps[task], seed) for seed in range(given.seeds) for task in TASKS]
    wanted = [job for job in wanted if job[0] != "noise" or job[3] == 0]  # one run of it is enough
    wanted += [
        (task, images, short, seed)
        for task in ("classes", "depth")
        for seed in range(given.seeds)
        for images in given.images
    ]
    jobs = [Job(*job, size, given.runs, given.device) for job in wanted if job[0] in given.task]
    scenes = stored(Scenes(most, size, 0), ENTRIES, given.runs, os.cpu_count() or 1)
    missing = [job for job in jobs if not job.scores.exists()]
    for job, row in finished(partial(trained, scenes), missing, given.jobs, end):
        print(f"{job.folder.name}: {json.dumps(row)}", flush=True)
        ensembles(jobs, given.seeds)
        write(given.out, jobs, steps, short)
    ensembles(jobs, 2)
    print(json.dumps(write(given.out, jobs, steps, short)))


if __name__ == "__main__":
    main()
