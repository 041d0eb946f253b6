"""Kendall and Gal's tables on CamVid with a pretrained encoder: plain, + aleatoric, + epistemic, both.

    python benchmarks/camvid.py --camvid DIR --foreign DIR      # train and score what is missing, make the table
    python benchmarks/camvid.py --camvid DIR --foreign DIR --jobs 8 --device cuda   # several at a time on a GPU
    python benchmarks/foreign.py --data DIR --out DIR           # make the folder of foreign images

`efficient-unet` on CamVid train → val at 360 × 480, seeds 0, 100, 200 (five for the ensemble), 36 epochs, and 14 more
that start from these weights. No choice was made on val. One network gives two rows: one pass without dropout, or 20
passes with dropout. Flips, Laplace and feature density are fitted to networks of 50 epochs. Foreign images are rooms
(7-Scenes), stereo scenes (Middlebury), blood cells (BCCD) and chairs (FlyingChairs). The amount of data is a quarter, a
half and all of the training images, with the same number of steps. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from foreign import worlds
from jobs import Job, absolute, run_jobs
from members import gather_members, weights_of
from methods import batches
from torch import Tensor
from torchmetrics import Metric

from sfumato.contracts import DataSet, Method
from sfumato.data import load
from sfumato.methods import (
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    MCDropout,
    TestTimeAugmentation,
    last_layer,
)
from sfumato.metrics import FidelityScores, OODScores
from sfumato.predictions import UNCERTAINTIES
from sfumato.runs import Run

HERE = Path(__file__).parent
SIZE, SAMPLES, IMAGES, CLASSES = (360, 480), 20, 367, 11
SINGLES, MEMBERS = (0, 1, 2), 5
EPOCHS, MORE_EPOCHS = 36, 14
MORE = "more"  # stands for a second training, which starts from the weights of the first one
FIT = ("--data=camvid", "--network=efficient-unet", "--size=[360,480]", "--crop=[256,320]", "--batch=8",
       "--learning-rate=0.002", "--method=mc-dropout")  # fmt: skip
LIKELIHOODS = {"plain": "categorical", "aleatoric": "logit-normal"}
FITTED = {"flips": "two flips", "laplace": "last-layer Laplace", "density": "feature density"}  # rows after training
PARTS = {"quarter": 4, "half": 2}  # by how much the training images are fewer
KEPT = re.compile(r"^mean_|^fidelity_|_ood_(auroc|ratio)_")
SCORES = ("miou", "accuracy", "class_accuracy", "nll", "ece", "error_auroc", "aurc")


def folder_of(runs: Path, name: str, seed: int) -> Path:
    return runs / f"camvid-{name}-{seed}"


def fit_job(name: str, seed: int, options: argparse.Namespace) -> Job:
    """Train one network with the command line. ``name`` is a row, or a row and a part of the data or ``more``."""
    row, _, part = name.partition("-")
    fewer = PARTS.get(part, 1)
    folder = folder_of(options.runs, name, seed)
    first = ()
    if part == MORE:  # the weights of ImageNet are not read again
        first = (f"--init-from={weights_of(folder_of(options.runs, row, seed))}", "--encoder-rate=0.2",
                 '--network-args={"pretrained": false}')  # fmt: skip
    epochs, needs = (MORE_EPOCHS, (f"fit-{row}-{seed}",)) if part == MORE else (options.epochs * fewer, ())
    arguments = [*FIT, *first, f"--likelihood={LIKELIHOODS[row]}", f"--epochs={epochs}",
                 f"--limit={IMAGES // fewer if fewer > 1 else 0}", f"--seed={100 * seed}", f"--root={options.camvid}",
                 f"--out={folder}", f"--device={options.device}", f"--workers={options.workers}", "--resume",
                 "--logger=csv", "--quiet"]  # fmt: skip
    return training_job(f"fit-{name}-{seed}", ("fit", *arguments), weights_of(folder), needs, options)


def training_job(
    name: str, arguments: tuple[str, ...], done: Path, needs: tuple[str, ...], options: argparse.Namespace
) -> Job:
    """A training by the command line, with CUDA graphs if they are wanted and work."""
    plain = ("-m", "sfumato", *arguments)
    graph = (*plain, "--cuda-graph")
    return Job(name, graph, done, needs, plain) if options.cuda_graph else Job(name, plain, done, needs)


def score_job(folder: Path, rows: str, options: argparse.Namespace, needs: tuple[str, ...]) -> Job:
    """Score a run: ``rows`` are names with commas, of one pass, of draws, or of all members."""
    what = (f"--score-run={folder}", f"--rows={rows}")
    done = scores_file(folder, rows.split(",")[-1])
    return script_job(f"score-{folder.name}-{rows.split(',')[0]}", "camvid.py", what, done, needs, options)


def script_job(
    name: str, script: str, what: tuple[str, ...], done: Path, needs: tuple[str, ...], options: argparse.Namespace
) -> Job:
    """A part of a script of this folder, with its common options."""
    common = (f"--camvid={options.camvid}", f"--foreign={options.foreign}", f"--device={options.device}",
              f"--runs={options.runs}")  # fmt: skip
    return Job(name, (str(HERE / script), *common, *what), done, needs)


def scores_file(folder: Path, row: str) -> Path:
    return folder / f"benchmark-{row}.json"


def fit_jobs(options: argparse.Namespace) -> list[Job]:
    """The trainings of all networks on all images, the most important first."""
    wanted = [("plain", seed) for seed in SINGLES] + [("aleatoric", seed) for seed in SINGLES]
    wanted += [("plain", seed) for seed in range(len(SINGLES), MEMBERS)]
    return [fit_job(f"{name}{more}", seed, options) for more in ("", f"-{MORE}") for name, seed in wanted]


def jobs(options: argparse.Namespace) -> list[Job]:
    """Everything that is trained on all images, and scored."""
    found = fit_jobs(options)
    for more in ("", f"-{MORE}"):
        found += [
            score_job(folder_of(options.runs, f"{name}{more}", seed), "one-pass,draws", options,
                      (f"fit-{name}{more}-{seed}",))
            for name in LIKELIHOODS for seed in SINGLES
        ]  # fmt: skip
        found += ensemble_jobs(f"plain{more}", MEMBERS, options) + ensemble_jobs(f"aleatoric{more}", 3, options)
    found += [
        score_job(
            folder_of(options.runs, f"plain-{MORE}", seed), ",".join(FITTED), options, (f"fit-plain-{MORE}-{seed}",)
        )
        for seed in SINGLES
    ]
    return found


def ensemble_jobs(name: str, members: int, options: argparse.Namespace) -> list[Job]:
    """Gather networks into an ensemble, and score it."""
    folder = options.runs / f"camvid-{name}-ensemble"
    needs = tuple(f"fit-{name}-{seed}" for seed in range(members))
    what = (f"--gather={name}", f"--members={members}")
    gather = script_job(f"gather-{name}", "camvid.py", what, folder / "plan.yaml", needs, options)
    rows = "members" if members == 3 else "threes,members"
    return [gather, score_job(folder, rows, options, (gather.name,))]


def data_jobs(options: argparse.Namespace) -> list[Job]:
    """Networks with both parts that are trained on a quarter and a half of the images."""
    found = []
    for seed in SINGLES:
        for part in PARTS:
            name = f"aleatoric-{part}"
            found += [
                fit_job(name, seed, options),
                score_job(folder_of(options.runs, name, seed), "draws", options, (f"fit-{name}-{seed}",)),
            ]
    return found  # fmt: skip


def methods(run: Run, row: str, train: DataSet) -> list[Method]:
    """The method of a row; for ``threes`` every ensemble of three members."""
    if row in FITTED:
        network = run.networks[0]
        given = network, last_layer(network), batches(run, train)
        if row == "laplace":
            return [LastLayerLaplace.fit(*given, run.likelihood.nll, samples=SAMPLES)]
        return [TestTimeAugmentation(network) if row == "flips" else FeatureDensity.fit(*given, CLASSES)]
    if row == "threes":
        return [DeepEnsemble([run.networks[member] for member in each])
                for each in combinations(range(len(run.networks)), 3)]  # fmt: skip
    if row == "members":
        return [DeepEnsemble(run.networks)]
    return [MCDropout(run.networks[0], samples=SAMPLES) if row == "draws" else Deterministic(run.networks[0])]


def scored(
    run: Run, method: Method, dataset: DataSet, foreign: Mapping[str, DataSet], teacher: Run | None = None
) -> dict[str, float]:
    """Scores of a method on every image of a data set, against its teacher, and against foreign images."""
    task = run.single_task
    scores, fidelity = _on(task.scores(), run), _on(FidelityScores(len(run.task.names)), run)
    means: list[Tensor] = []  # of the uncertainties of each image
    ood = {name: _on(OODScores(), run) for name in foreign}
    for index, (prediction, sample) in enumerate(_predictions(run, method, dataset)):
        target, valid = (value[None].to(run.device) for value in task.target_and_mask(sample))
        scores.update(prediction, target, valid)
        everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
        for each in ood.values():
            each.update(prediction, ~everywhere, everywhere)
        means.append(torch.stack([getattr(prediction, kind).mean() for kind in UNCERTAINTIES]))
        if teacher is not None:
            given = teacher.predict_uncalibrated(DeepEnsemble(teacher.networks), *teacher.inputs_of(sample),
                                                 index=index)  # fmt: skip
            fidelity.update(prediction, given, valid)
    found = {name: float(value) for name, value in scores.compute().items() if value.ndim == 0}
    found |= {f"mean_{kind}": float(value) for kind, value in zip(UNCERTAINTIES, torch.stack(means).mean(0))}
    if teacher is not None:
        found |= {f"fidelity_{name}": float(value) for name, value in fidelity.compute().items()}
    for name, other in foreign.items():
        for prediction, _ in _predictions(run, method, other):
            everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
            ood[name].update(prediction, everywhere, everywhere)
        found |= {f"{name}_{key}": float(value) for key, value in ood[name].compute().items()}
    return found


def _predictions(run: Run, method: Method, dataset: DataSet) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for index in range(len(dataset)):
        sample = dataset[index]
        yield run.predict_uncalibrated(method, *run.inputs_of(sample), index=index), sample


def _on(score: Any, run: Run) -> Any:
    return score.to(run.device) if isinstance(score, Metric) else score


def score_run(options: argparse.Namespace) -> None:
    """Score the rows of one run that are missing. ``threes`` are several ensembles: a list."""
    run = Run.open(options.score_run, device=options.device)
    train, dataset = (load("camvid", options.camvid, split, SIZE) for split in ("train", "val"))
    foreign = worlds(options.foreign)
    for row in options.rows.split(","):
        if not scores_file(options.score_run, row).exists():
            others = {} if row == "threes" else foreign
            found = [scored(run, method, dataset, others) for method in methods(run, row, train)]
            scores_file(options.score_run, row).write_text(json.dumps(found if row == "threes" else found[0]))


def spread(values: list[float]) -> tuple[float, float | None] | None:
    """Mean and standard deviation; None where a value is undefined, as the epistemic ratio of one pass."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if len(finite) < len(values) or not values:
        return None
    return mean(values), stdev(values) if len(values) > 1 else None


def read(folder: Path, row: str) -> Any:
    with suppress(FileNotFoundError):
        return json.loads(scores_file(folder, row).read_text())
    return None


def table_row(each: list[dict[str, float]]) -> dict[str, Any]:
    """The scores of several runs that the page speaks of: name → mean and standard deviation."""
    kept = [name for name in (each[0] if each else ()) if name in SCORES or KEPT.search(name)]
    return {"seeds": len(each)} | {name: spread([one[name] for one in each]) for name in kept} if each else {}


def table(runs: Path) -> dict[str, Any]:
    """Every row whose runs are scored, of the first training and of both, and the numbers that stand for them."""
    first, both = rows_of(runs, ""), rows_of(runs, f"-{MORE}")
    by_data = {}
    for part in (*PARTS, ""):
        name = f"aleatoric-{part}" if part else "aleatoric"
        found = [read(folder_of(runs, name, seed), "draws") for seed in SINGLES]
        by_data[part or "all"] = table_row([each for each in found if each])
    rows = both if "ensemble" in both else first
    earlier = {f"{name}_{EPOCHS}_epochs": value for name, value in headline(first, by_data).items()}
    return {
        **headline(rows, by_data),
        **(earlier if rows is both else {}),
        "epochs": EPOCHS + MORE_EPOCHS * (rows is both),
        "rows": rows,
        f"rows_{EPOCHS}_epochs": first,
        "by_data": by_data,
    }


def rows_of(runs: Path, more: str) -> dict[str, Any]:
    """The rows of networks with this end of their names."""
    rows: dict[str, Any] = {}
    for name, (one, many) in {"plain": ("plain", "epistemic"), "aleatoric": ("aleatoric", "both")}.items():
        for row, kind in ((one, "one-pass"), (many, "draws")):
            found = [read(folder_of(runs, f"{name}{more}", seed), kind) for seed in SINGLES]
            rows[row] = table_row([each for each in found if each])
    five, three = (runs / f"camvid-{name}{more}-ensemble" for name in ("plain", "aleatoric"))
    rows["ensemble"] = table_row([each for each in [read(five, "members")] if each])
    if rows["ensemble"]:
        rows["ensemble"]["members"] = len(list(five.glob("weights-*.safetensors"))) or MEMBERS
    rows["ensembles of 3"] = table_row(read(five, "threes") or [])
    rows["both, ensemble of 3"] = table_row([each for each in [read(three, "members")] if each])
    for name, row in FITTED.items():
        found = [read(folder_of(runs, f"plain{more}", seed), name) for seed in SINGLES]
        rows[row] = table_row([each for each in found if each])
    return {name: row for name, row in rows.items() if row}


def headline(rows: Mapping[str, Any], by_data: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a reader looks for first."""
    found: dict[str, Any] = {}
    for name, row in (("plain", "plain"), ("aleatoric", "aleatoric"), ("ensemble", "ensemble")):
        if row in rows:
            found[f"miou_{name}"], found[f"miou_{name}_std"] = rows[row]["miou"]
    if "ensembles of 3" in rows:
        found["miou_ensemble_std"] = rows["ensembles of 3"]["miou"][1]
    for kind in ("aleatoric", "epistemic"):
        if all(by_data.values()):
            found[f"{kind}_by_data"] = [each[f"mean_{kind}"][0] for each in by_data.values()]
        if whole := rows.get("both, ensemble of 3") or rows.get("ensemble"):
            ratios = [value[0] for key, value in whole.items() if key.endswith(f"_ood_ratio_{kind}")]
            found[f"{kind}_ood_ratio"] = mean(ratios)
    return found


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that the benchmarks of these networks share."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--camvid", type=absolute, required=True)
    found.add_argument("--foreign", type=absolute, required=True, help="folder that benchmarks/foreign.py made")
    found.add_argument("--runs", type=absolute, default=HERE.parent / "runs" / "pretrained")
    found.add_argument("--device", default="auto")
    found.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    found.add_argument("--workers", type=int, default=0, help="processes that read images, for each training")
    found.add_argument("--epochs", type=int, default=EPOCHS)
    found.add_argument("--cuda-graph", action="store_true", help="replay the passes of a network in training")
    return found


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--score-run", type=Path, help="score one run only")
    made.add_argument("--rows", default="one-pass,draws")
    made.add_argument("--gather", default="", help="make an ensemble of the runs of this name only")
    made.add_argument("--members", type=int, default=MEMBERS)
    made.add_argument("--table", action="store_true", help="make the table of what is scored only")
    options = made.parse_args()
    if options.score_run:
        score_run(options)
        return
    if options.gather:
        sources = [folder_of(options.runs, options.gather, seed) for seed in range(options.members)]
        gather_members(sources, options.runs / f"camvid-{options.gather}-ensemble")
        return
    if not options.table:
        run_jobs([*jobs(options), *data_jobs(options)], options.runs / "logs", options.jobs)
    result = table(options.runs)
    (HERE / "results" / "camvid.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
