"""Stereo networks trained on varied scenes only: every method, on the eight Middlebury pairs and on held-out scenes.

    python benchmarks/stereo.py pack --data DIR --out packed      # the Middlebury pairs, 5 MB, to take along
    python benchmarks/stereo.py run --data packed --out results --seconds 150        # on the machine with the GPU
    python benchmarks/stereo.py run --data packed --out results --tiny --device cpu  # a try in few minutes
    python benchmarks/stereo.py time --data packed --run results/main-0              # processor seconds on a CPU

``--data`` of ``pack`` holds the folder ``middlebury``. Trainings run side by side through the command line, the most
important first. After each job the table of all that is finished is written, so that nothing is lost when the time is
over. The last line is JSON. Baselines without learning are in stereo_baselines.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import Job, absolute, run_jobs
from stereo_baselines import PLANES, as_views, filled, middlebury, sgbm
from stereo_data import SIZE, StoredPairs, store
from stereo_scores import mean_of, scores
from torch import Tensor

from sfumato import geometry
from sfumato.contracts import Method
from sfumato.likelihoods import Planes
from sfumato.methods import DeepEnsemble, Deterministic
from sfumato.predictions import entropy, predict
from sfumato.runs import Run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "stereo.json"
TEXTURES = ("rich", "poor", "repetitive")
SEEDS = (0, 1, 2)
MAIN = ("--likelihood=planes", "--method=mc-dropout", "--samples=10")
# The table of methods: networks of one short training each, with the same number of steps.
SHORT = {
    "mc-dropout": (),
    "laplace-head": ("--likelihood=laplace",),
    "mixture-head": ("--likelihood=laplace-mixture",),
    "batch-ensemble": ("--method=batch-ensemble", "--members=4"),
    "multi-head": ("--method=multi-head", "--members=4"),
    "concrete-dropout": ("--method=concrete-dropout",),
    "variational": ("--method=variational",),
    "swag": ("--method=swag",),
    "snapshot": ("--method=snapshot", "--members=4"),
    "latent": ("--method=latent",),
    "gc-net": ("--network=gc-net",),
    "mc-dropout-1": ("--seed=1",),
    "mc-dropout-2": ("--seed=2",),
}
FITTED = {"feature-density": (), "variance-propagation": (), "laplace": ("--limit=4",)}


def pack(data: Path, out: Path) -> None:
    """The left views, right views and disparities of the Middlebury pairs."""
    for file in [data / "middlebury" / "datasets.xml", *sorted((data / "middlebury").glob("*/*.png"))]:
        if file.name != "disp6.png":
            place = out / file.relative_to(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


def jobs(options: argparse.Namespace) -> list[Job]:
    """All trainings and scores, the most important first."""
    tiny = options.tiny
    seeds, short = (SEEDS[:1], ("mc-dropout", "laplace-head")) if tiny else (SEEDS, tuple(SHORT))
    fitted = ("feature-density",) if tiny else tuple(FITTED)
    sizes = ("--crop", "64", "96", "--batch=2", "--limit=4", "--epochs=1")
    crop = ("--crop", *(str(length) for length in options.crop))
    large = sizes if tiny else (*crop, f"--batch={options.batch}", "--epochs=8", f"--max-time={options.minutes:.2f}")
    small = sizes if tiny else ("--crop", "128", "224", "--batch=4", "--limit=1200", "--epochs=1", "--max-time=1")
    found = [fit_job(f"main-{seed}", (*MAIN, *large, f"--seed={seed}"), options) for seed in seeds]
    found += [fit_job(f"short-{name}", (*MAIN, *small, *SHORT[name]), options) for name in short]
    found += [score_job(f"main-{seed}", (f"main-{seed}",), options) for seed in seeds]
    found += [score_job(f"main-{seed}-one-pass", (f"main-{seed}",), options) for seed in seeds]
    if not tiny:
        found.append(score_job("main-ensemble", tuple(f"main-{seed}" for seed in seeds), options))
    for name in fitted:
        folder = options.runs / f"short-{name}"
        command = ("-m", "sfumato", "posthoc", str(options.runs / "short-mc-dropout"), name, f"--out={folder}",
                   f"--device={options.device}", "--trust=stereo_data", "--quiet", *FITTED[name])  # fmt: skip
        found.append(Job(f"posthoc-{name}", command, folder / "method.safetensors", ("fit-short-mc-dropout",)))
    found.append(score_job("short-deterministic", ("short-mc-dropout",), options))
    found += [score_job(f"short-{name}", (f"short-{name}",), options) for name in short]
    if not tiny:
        members = ("short-mc-dropout", "short-mc-dropout-1", "short-mc-dropout-2")
        found.append(score_job("short-ensemble", members, options))
    for name in fitted:
        found.append(score_job(f"short-{name}", (f"short-{name}",), options, f"posthoc-{name}"))
    return found


def fit_job(name: str, arguments: tuple[str, ...], options: argparse.Namespace) -> Job:
    """Train one network with the command line."""
    folder = options.runs / name
    network = () if any(each.startswith("--network=") for each in arguments) else ("--network=light-stereo",)
    command = ("-m", "sfumato", "fit", "--data=stereo_data.StoredPairs", f"--root={options.runs / 'pairs'}", *network,
               *arguments, f"--out={folder}", f"--device={options.device}", "--cache=none", "--workers=1", "--resume",
               "--logger=csv", "--quiet")  # fmt: skip
    members = next((int(each[10:]) for each in arguments if each.startswith("--members=")), 1)
    last = members - 1 if "--method=snapshot" in arguments else 0
    done = folder / f"weights-{last}.safetensors"
    if options.cuda_graph:
        return Job(f"fit-{name}", (*command, "--cuda-graph"), done, (), command)
    return Job(f"fit-{name}", command, done)


def score_job(row: str, runs: tuple[str, ...], options: argparse.Namespace, after: str = "") -> Job:
    """Score the networks of one or several runs as a row of the table."""
    command = (str(HERE / "stereo.py"), "score", f"--data={options.data}", f"--runs={options.runs}", f"--row={row}",
               f"--networks={','.join(runs)}", f"--device={options.device}", *(["--tiny"] * options.tiny))  # fmt: skip
    needs = (after,) if after else tuple(f"fit-{name}" for name in runs)
    return Job(f"score-{row}", command, options.runs / "scores" / f"{row}.json", needs)


def method_of(row: str, runs: list[Run]) -> Method:
    """The method of a row: that of its run, one pass without dropout, or the networks of several runs."""
    if len(runs) > 1:
        return DeepEnsemble([run.networks[0] for run in runs])
    if row.endswith(("one-pass", "deterministic")):
        return Deterministic(runs[0].networks[0])
    return runs[0].method()


@torch.no_grad()
def answers(run: Run, method: Method, left: Tensor, right: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Disparity and uncertainties (H, W) of one pair.

    With planes also those of the distribution over planes: the probability away from its mode, the mutual information
    of the draws, and for a single draw the peak ratio of its costs.
    """
    generator = torch.Generator().manual_seed(0)
    if not isinstance(run.likelihood, Planes):
        found: Any = predict(method, left, right, likelihood=run.likelihood, generator=generator)
        return _array(found.mean), {"std": _array(found.std), "epistemic": _array(found.epistemic_variance.sqrt())}
    moments, law, inner, count = None, torch.zeros(()), torch.zeros(()), 0
    for chunk in method.draws(left, right, generator=generator):
        for output in chunk:
            one = run.likelihood.moments(output)
            moments = one if moments is None else moments.merge(one)
            probs = output.float().softmax(1)
            law, inner, count = law.to(probs) + probs, inner.to(probs) + entropy(probs), count + 1
    assert moments is not None
    law, found = law / count, moments.prediction()
    costs = -law.clamp_min(1e-12).log()
    maps = {"std": found.std[:, 0], "mass_outside": geometry.mass_outside(costs), "entropy": entropy(law)}
    if count > 1:
        maps["epistemic"] = found.epistemic_variance[:, 0].sqrt()
        maps["mutual_information"] = (maps["entropy"] - inner / count).clamp_min(0)
    else:
        maps["peak_ratio"] = geometry.peak_ratio(costs)
        other = (
            run.likelihood.moments(next(iter(method.draws(right.flip(3), left.flip(3))))[0]).prediction().mean.flip(3)
        )
        maps["left_right"] = geometry.view_difference(found.mean, other)
    return _array(found.mean), {name: _array(value) for name, value in maps.items()}


def _array(values: Tensor) -> np.ndarray:
    return values.reshape(values.shape[-2:]).float().cpu().numpy()


def by_texture(error: np.ndarray, std: np.ndarray, sample: Mapping[str, Any], known: np.ndarray) -> Iterator[Any]:
    """Sums over the pixels of each texture and of occluded ones: pixels, squared error, variance, covered, bad."""
    texture, hidden = sample["texture"].numpy(), sample["occluded"].numpy()
    groups = {name: (texture == number) & ~hidden for number, name in enumerate(TEXTURES)} | {"occluded": hidden}
    for name, where in groups.items():
        e, s = error[where & known], std[where & known]
        yield name, np.array([e.size, (e**2).sum(), (s**2).sum(), (e <= 1.6449 * s).sum(), (e > 1).sum()])


def score(options: argparse.Namespace) -> None:
    """One row of the table, on Middlebury and on held-out scenes."""
    runs = [Run.open(options.runs / name, device=options.device, trust="stereo_data") for name in options.networks]
    run, method = runs[0], method_of(options.row, runs)
    held = StoredPairs(options.runs / "pairs", "val")
    groups: dict[str, np.ndarray] = {}
    scene_rows, squares = [], []
    bins = np.zeros((3, 12))  # pixels, variance and squared error by log₂ σ from below 1/16 to above 64 px
    for index in range(2 if options.tiny else len(held)):
        sample: Any = held[index]
        left, right = (sample[name][None].to(run.device).float() / 255 for name in ("image", "right"))
        disparity, maps = answers(run, method, left, right)
        truth, known = sample["disparity"][0].numpy(), sample["disparity_valid"].numpy()
        error, std = np.abs(disparity - truth), maps["std"]
        scene_rows.append(scores(disparity, truth, known, {"std": std}))
        squares.append(((error / std)[known] ** 2).mean())
        for name, sums in by_texture(error, std, sample, known):
            groups[name] = groups.get(name, 0) + sums
        place = np.clip(np.floor(np.log2(std[known])) + 5, 0, 11).astype(int)
        bins += [np.bincount(place, w, 12) for w in (np.ones(place.size), std[known] ** 2, error[known] ** 2)]
    factor = float(np.sqrt(np.mean(squares)))  # by which scenes say that σ is too small
    rows = {}
    for name, left, right, truth, known in middlebury(options.data / "middlebury"):
        views = (view.to(run.device) for view in as_views(left, right))
        disparity, maps = answers(run, method, *views)
        rows[name] = scores(disparity, truth, known, maps)
        scaled = scores(disparity, truth, known, {"std": factor * maps["std"]})
        rows[name] |= {"nll_scaled": scaled["nll"], "coverage90_scaled": scaled["coverage90"]}
        if options.tiny:
            break
    textures = {
        name: {
            "rmse": (s[1] / s[0]) ** 0.5,
            "sigma": (s[2] / s[0]) ** 0.5,
            "coverage90": s[3] / s[0],
            "bad1": s[4] / s[0],
        }
        for name, s in groups.items()
        if s[0]
    }
    sigma = [[round(float(v), 4) for v in (n, (v / n) ** 0.5, (e / n) ** 0.5)] for n, v, e in bins.T if n]
    result = {
        "middlebury": mean_of(list(rows.values())),
        "epe_by_pair": {name: round(row["epe"], 3) for name, row in rows.items()},
        "scenes": mean_of(scene_rows),
        "textures": {name: {key: round(float(v), 4) for key, v in row.items()} for name, row in textures.items()},
        "sigma": sigma,
        "scale": round(factor, 3),
        "steps": _steps(options.runs / options.networks[0]),
    }
    place = options.runs / "scores" / f"{options.row}.json"
    place.parent.mkdir(exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.rename(place)


def _steps(folder: Path) -> int:
    """Number of steps that a training made; 0 for a run that was not trained."""
    file = folder / "log" / "member-0" / "metrics.csv"
    return int(file.read_text().splitlines()[-1].split(",")[1]) + 1 if file.exists() else 0


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Every row that is scored, and the numbers that stand for the benchmark: the mean of the main networks."""
    rows = {file.stem: json.loads(file.read_text()) for file in sorted((options.runs / "scores").glob("*.json"))}
    mains = [rows[name]["middlebury"] for name in rows if name in {f"main-{seed}" for seed in SEEDS}]
    found: dict[str, Any] = {"rows": rows, "seeds": len(mains)}
    if mains:
        for name in ("epe", "bad1"):
            found[name] = round(statistics.mean(row[name] for row in mains), 4)
        found["bad1_auroc"] = round(statistics.mean(row["auroc_mass_outside"] for row in mains), 4)
        found["bad1_auroc_std"] = round(statistics.mean(row["auroc_std"] for row in mains), 4)
    return found


def write(options: argparse.Namespace) -> None:
    """The table, and the weights of the main networks."""
    (options.out / "stereo.json").write_text(json.dumps(table(options), indent=1) + "\n")
    for folder in options.runs.glob("main-*"):
        for file in [*folder.glob("weights-*.safetensors"), *folder.glob("plan.yaml")]:
            place = options.out / folder.name / file.name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Pairs, trainings and scores, until the time is over."""
    start = time.monotonic()
    for folder in (options.out, options.runs):
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    if not (options.runs / "pairs" / "pairs.json").exists():
        count = store(options.runs / "pairs", 24 if options.tiny else options.pairs, options.processes, 40.0)
        print(f"{count} pairs in {time.monotonic() - start:.1f} s", flush=True)
    left = options.seconds - (time.monotonic() - start) - 5
    took = run_jobs(jobs(options), options.runs / "logs", options.jobs, left, lambda: write(options))
    write(options)
    headline = {name: value for name, value in table(options).items() if name != "rows"}
    jobs_took = {name: round(seconds, 1) for name, seconds in took.items()}
    return {**headline, "pairs": count, "seconds": round(time.monotonic() - start, 1), "jobs": jobs_took}


def times(options: argparse.Namespace) -> dict[str, float]:
    """Median processor seconds of one thread for a Middlebury pair."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    network = Run.open(options.run, device="cpu", trust="stereo_data").networks[0].eval()
    likelihood = Planes(PLANES)

    def learned(left: np.ndarray, right: np.ndarray) -> None:
        with torch.no_grad():
            likelihood.moments(network(*as_views(left, right)))

    works: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
        "sgbm": lambda left, right: filled(sgbm(left, right)),
        "light_stereo": learned,
    }
    found = {}
    for name, work in works.items():
        took = []
        for _, left, right, *_ in middlebury(options.data / "middlebury"):
            start = time.process_time()
            work(left, right)
            took.append(time.process_time() - start)
        found[f"cpu_seconds_{name}"] = round(statistics.median(took), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("pack", "run", "score", "time"))
    parser.add_argument("--data", type=absolute, required=True)
    parser.add_argument("--out", type=absolute, default=HERE.parent / "runs" / "stereo-results")
    parser.add_argument("--runs", type=absolute, default=HERE.parent / "runs" / "stereo")
    parser.add_argument("--run", type=absolute, help="of time: a run of light-stereo")
    parser.add_argument("--row", default="", help="of score: the name of the row")
    parser.add_argument("--networks", type=lambda names: names.split(","), default=[], help="of score: its runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=6, help="trainings at the same time")
    parser.add_argument("--pairs", type=int, default=4000, help=f"pairs of {SIZE[0]} × {SIZE[1]} that are generated")
    parser.add_argument("--processes", type=int, default=16, help="processes that generate them")
    parser.add_argument("--minutes", type=float, default=1.2, help="of the training of a main network")
    parser.add_argument("--crop", type=int, nargs=2, default=(192, 288), help="of the main networks")
    parser.add_argument("--batch", type=int, default=8, help="of the main networks")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--cuda-graph", action="store_true", help="train with CUDA graphs where they work")
    parser.add_argument("--tiny", action="store_true", help="few pairs and steps")
    options = parser.parse_args()
    if options.command == "pack":
        pack(options.data, options.out)
    elif options.command == "score":
        score(options)
    else:
        print(json.dumps(run(options) if options.command == "run" else times(options)))


if __name__ == "__main__":
    main()
