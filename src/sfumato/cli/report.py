"""``sfumato report``."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.report import Shown
    from sfumato.training import Run

EACH = 4  # images in each of the groups: best, worst, most uncertain, out of distribution


def report(run: Path, out: Path | None = None, samples: int | None = None) -> None:
    """Write one HTML page about a run that has been evaluated.

    Args:
        run: folder that `fit` left and `evaluate` scored.
        out: the page; RUN/report.html if not given.
        samples: how many outputs MC dropout draws for the images shown.
    """
    from sfumato import training
    from sfumato.cli.evaluate import data_of
    from sfumato.report import Story, write
    from sfumato.training.evaluation import part_of, predicted

    opened = training.Run.open(run)
    path = Path(run) / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run `sfumato evaluate {run}` first")
    try:
        found = _nan(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is cut off ({error}): run `sfumato evaluate {run}` again") from error
    told = found.get("tasks") or {opened.plan.task: found}
    about = next(iter(told.values()))
    dataset = data_of(opened, about["data"], about["root"], about["split"])
    groups = _groups_of(told, EACH if len(told) == 1 else 2)
    chosen = dict.fromkeys(i for members in groups.values() for i in members)
    drawn = {i: predicted(opened, dataset, i, samples=samples) for i in chosen}
    teacher = training.teacher_of(opened)
    said = {i: _said(teacher, sample["image"], i) for i, (sample, _) in drawn.items()}
    outlines = {i: _outline(pair[1], getattr(dataset, "things", ())) for i, pair in drawn.items()}
    history = _history(Path(run))
    stories = {}
    for name, view in opened.per_task.items():
        shown = {
            i: _shown(view, told[name], i, sample, part_of(prediction, name), part_of(said[i], name), outlines[i])
            for i, (sample, prediction) in drawn.items()
        }
        before, taught, curves = (told[name][key] for key in ("uncalibrated", "teacher", "curves"))
        others = {"uncalibrated": before["scores"], "teacher": taught["scores"]}
        headline = [score for score in told[name]["headline"] if not score.startswith("ood_")]  # which stand apart
        stories[name] = Story(
            title=f"{Path(run).name}: how sure, and why not",
            facts=_facts(opened, about),
            task=view.task,
            scores={score: tuple(told[name]["scores"][score]) for score in headline},
            others={which: {name: row[0] for name, row in found.items()} for which, found in others.items() if found},
            sizes=_sizes(view),
            shown=tuple(shown.values()),
            groups={group: [shown[i].name for i in members] for group, members in groups.items()},
            reliability=_reliability(curves["reliability"], before["curves"].get("reliability")),
            rejection=_rejection(curves["rejection"], taught["curves"].get("rejection"), view.task),
            shift=_shift(view, None if teacher is None else teacher.per_task[name], told[name], samples),
            history=history,
        )
    page = stories if opened.plan.tasks else next(iter(stories.values()))
    print(f"The report is {write(page, out or Path(run) / 'report.html')}")


def _outline(prediction: Any, things: tuple[int, ...]) -> Any:
    """The outlines of the instances of an image, of a run that knows classes and where centers are; None of others."""
    from sfumato.predictions import find_instances

    if not (isinstance(prediction, Mapping) and {"classes", "centers"} <= prediction.keys() and things):
        return None
    return find_instances(prediction["centers"], prediction["classes"], things)[0].outline


def _groups_of(told: Mapping[str, Any], each: int) -> dict[str, list[int]]:
    """The groups of every task, named by it where there are several."""
    several = len(told) > 1
    return {
        f"{name}: {group}" if several else group: members
        for name, story in told.items()
        for group, members in _groups(story["per_image"], each).items()
    }


def _nan(value: Any) -> Any:
    """Undo the None of a JSON file among numbers."""
    if isinstance(value, dict):
        return {k: _nan(v) for k, v in value.items()}
    return [math.nan if v is None else _nan(v) for v in value] if isinstance(value, list) else value


def _groups(table: Mapping[str, list[float]], each: int = EACH) -> dict[str, list[int]]:
    """Indices of the images with the lowest and highest NLL and with the highest mean uncertainty."""
    order = sorted(range(len(table["index"])), key=lambda i: (math.isnan(table["nll"][i]), table["nll"][i]))
    scored = [i for i in order if not math.isnan(table["nll"][i])] or order
    doubt = sorted(order, key=lambda i: -table["uncertainty"][i])
    rows = {"best": scored[:each], "worst": scored[::-1][:each], "most uncertain": doubt[:each]}
    return {group: [int(table["index"][i]) for i in members] for group, members in rows.items()}


def _shown(
    run: Run, told: Mapping[str, Any], index: int, sample: Mapping[str, Any], prediction: Any, said: Any, outline: Any
) -> Shown:
    """What the page shows of an image and one of its tasks: predicted, said by a teacher, outlined."""
    from sfumato.report import Shown

    table = told["per_image"]
    row = table["index"].index(index)
    scores = {name: table[name][row] for name in ("uncertainty", told["headline"][0], "nll", "ause")}
    truth = run.task.target_and_mask(run.task.entries(sample))
    return Shown(sample["name"], sample["image"], prediction, *truth, scores, _size(run, prediction), said, outline)


def _said(teacher: Run | None, image: Any, index: int) -> Any:
    """What the teacher of a student says of its image; None of other runs."""
    return None if teacher is None else teacher.predict_uncalibrated(teacher.method(), image[None], 0, index)


def _size(run: Run, prediction: Any) -> Any:
    """What the set or interval of each pixel adds to the best guess (H, W); None if the run makes no promise."""
    if run.conformal is None:
        return None
    size = run.conformal(prediction).size[0]
    return size if size.is_floating_point() else size - 1


def _sizes(run: Run) -> tuple[str, str]:
    """What these sizes are called, and their unit."""
    if run.conformal is None:
        return "", ""
    unit = getattr(run.task, "unit", "")
    return ("interval width", unit) if unit else ("further classes", "classes")


def _facts(run: Run, found: Mapping[str, Any]) -> dict[str, str]:
    plan = run.plan
    parameters = sum(p.numel() for p in run.networks[0].parameters())
    networks = f"{plan.networks} × " if plan.networks > 1 else ""
    drawn = f", {plan.samples} draws" if hasattr(run.method(), "samples") else ""
    drawn = f", {plan.members} members in one network" if plan.members > plan.networks else drawn
    arguments = ", ".join(f"{k}={v}" for k, v in (plan.network_args or {}).items())
    return {
        "trained on": f"{plan.data}, {plan.limit or plan.images} images of {plan.size[0]} × {plan.size[1]} pixels",
        "scored on": f"{found['data']}, {found['split']}, {found['images']} images",
        "method": plan.method + drawn,
        **({"tasks": plan.tasks, "weighting": plan.weighting} if plan.tasks else {}),
        "likelihood": plan.likelihood,
        "network": f"{networks}{plan.network.rpartition('.')[2]}({arguments}), {parameters:,} parameters",
        "budget": f"{plan.epochs} epochs, batch {plan.batch}, {plan.precision}",
        "seed": str(plan.seed),
        **({"teacher": Path(plan.teacher).name} if plan.teacher else {}),
    } | _afterwards(run)


def _afterwards(run: Run) -> dict[str, str]:
    """What was done to the run after training."""
    facts = {}
    if run.calibrator is not None:
        facts["calibrated by"] = f"{type(run.calibrator).__name__} on {len(run.calibrator.fitted_on)} other images"
    if (promise := run.conformal) is not None:
        sure = f"with probability {1 - promise.delta:.4g}" if promise.delta else "in expectation"
        what = "of all pixels" if getattr(promise, "of", None) is None else f"of {run.task.names[promise.of]}"  # pyright: ignore
        facts["guaranteed"] = (
            f"{sure} at most {1 - promise.level:.2g} {what} missed, from {promise.images} other images"
        )
    return facts


def _reliability(curve: Mapping[str, list[float]], before: Mapping[str, list[float]] | None) -> Any:
    from sfumato.report import Reliability

    old = None if before is None else _reliability(before, None)
    if "confidence" in curve:
        return Reliability(curve["confidence"], curve["accuracy"], curve["count"], "confidence", old)
    return Reliability(curve["nominal"], curve["observed"], (), "quantile level", old)


def _rejection(curve: Mapping[str, list[float]], teacher: Mapping[str, list[float]] | None, task: Any) -> Any:
    from sfumato.report import Rejection

    kept = curve["coverage"]
    if teacher is not None:
        return _beside(_rejection(curve, None, task), _rejection(teacher, None, task))
    if "accuracy" in curve:
        risk = [1 - accuracy for accuracy in curve["accuracy"]]
        wrong = risk[-1] if kept[-1] >= kept[0] else risk[0]  # of all pixels; the best order leaves them out first
        oracle = [max(0.0, 1 - (1 - wrong) / share) if share > 0 else 0.0 for share in kept]
        return Rejection(kept, {"total uncertainty": risk, "oracle": oracle}, "error rate")
    return Rejection(kept, {"total uncertainty": curve["rmse"], "oracle": curve["oracle"]}, f"RMSE ({task.unit})")


def _beside(student: Any, teacher: Any) -> Any:
    ours, theirs = (each.risks["total uncertainty"] for each in (student, teacher))
    return replace(
        student, risks={"student": ours, "teacher": theirs, "oracle of the student": student.risks["oracle"]}
    )


def _shift(run: Run, teacher: Run | None, found: Mapping[str, Any], samples: int | None) -> Any:
    """The other world, with a few of its images; their targets, if any, are not compared with."""
    if (ood := found.get("ood")) is None:
        return None
    import torch

    from sfumato.cli.worlds import other_world
    from sfumato.report import Contrast, Shift, Shown
    from sfumato.training.evaluation import predicted

    world = other_world(run, ood["name"], ood["root"])
    count = len(world)  # pyright: ignore[reportArgumentType]
    shown = []
    for index in range(0, count, max(1, count // EACH))[:EACH]:
        sample, prediction = predicted(run, world, index, samples=samples)
        nothing = torch.zeros_like(prediction.best[0]), torch.zeros(sample["image"].shape[1:], dtype=torch.bool)  # pyright: ignore[reportAttributeAccessIssue]
        same = run.plan.data == ood["name"].partition(":")[0]
        target, valid = run.task.target_and_mask(run.task.entries(sample)) if same else nothing
        size, said = _size(run, prediction), _said(teacher, sample["image"], index)
        shown.append(Shown(sample["name"], sample["image"], prediction, target, valid, {}, size, said))
    contrasts = {part: Contrast(**each) for part, each in ood["parts"].items()}
    scores = {name: tuple(row) for name, row in found["scores"].items() if name.startswith("ood_auroc")}
    return Shift(ood["name"], contrasts, shown, scores)


def _history(run: Path) -> dict[str, Any]:
    """Training and validation curves from the CSV logs of the first member."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for path in sorted(run.glob("log/member-0/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name.startswith(("train_", "val_", "weight_")):
                        kind, _, rest = name.partition("_")
                        label = f"{rest} weight" if kind == "weight" else f"{kind} {rest}"  # weights share a picture
                        x, y = series.setdefault(label, ([], []))
                        x.append(float(row["epoch"]) + 1)
                        y.append(float(value))
    return series
