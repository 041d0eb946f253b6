"""Facts about a run that a report shows: what was trained on what, and how training went."""

from __future__ import annotations

from pathlib import Path

from sfumato.calibration import risk_statement
from sfumato.evaluation import Evaluation
from sfumato.report.data import Series
from sfumato.runs import Config, Run
from sfumato.runs.network import DEFAULT_JOINT_NETWORK, DEFAULT_NETWORK
from sfumato.training.metrics_file import read_metrics


def facts_of(run: Run, evaluation: Evaluation) -> dict[str, str]:
    """Data, method, likelihood, network, budget and calibration, by name."""
    config, plan = run.config, run.plan
    crops = "" if config.crop == config.size else f", crops of {_size(config.crop)}"
    resized = "" if config.size == run.facts.original_size else f", resized from {_size(run.facts.original_size)}"
    name = config.network or (DEFAULT_JOINT_NETWORK if config.tasks else DEFAULT_NETWORK)
    parameters = sum(p.numel() for p in run.networks[0].parameters())
    given = ", ".join(f"{key}={value}" for key, value in config.network_args.items())
    arguments = f"({given})" if given else ""
    copies = f"{plan.networks} × " if plan.networks > 1 else ""
    return {
        "trained on": f"{config.data}, {plan.images_used} images of {_size(config.size)} pixels{resized}{crops}",
        "evaluated on": f"{evaluation.data}, {evaluation.split}, {evaluation.images} images",
        "method": _method(run, evaluation),
        **({"tasks": config.tasks, "weighting": config.weighting} if config.tasks else {}),
        "likelihood": config.likelihood,
        "network": f"{copies}{name.rpartition('.')[2]}{arguments}, {parameters:,} parameters",
        "budget": f"{_epochs(config)}, batch {config.batch}, {config.precision}",
        "seed": str(config.seed),
        **({"teacher": Path(config.teacher).name} if config.teacher else {}),
        **_calibration(run),
    }


def _epochs(config: Config) -> str:
    limit = f" or {config.max_time}{'' if ':' in config.max_time else ' minutes'}" if config.max_time else ""
    return f"{'up to ' * bool(limit)}{config.epochs} epochs{limit}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _method(run: Run, evaluation: Evaluation) -> str:
    config = run.config
    if run.method().stochastic:
        return f"{config.method}, {evaluation.samples or config.samples} draws"
    members = f", {config.members} members" if config.members > 1 else ""
    return f"{config.method}{members}{' in one network' if config.members > run.plan.networks else ''}"


def _calibration(run: Run) -> dict[str, str]:
    """What was fitted after training, of each task."""
    found: dict[str, str] = {}
    for name, view in run.per_task.items():
        start = f"{name}: " if len(run.per_task) > 1 else ""
        if view.calibrator is not None:
            images = len(view.calibrator.fitted_on)
            found[f"{start}calibrated by"] = f"{type(view.calibrator).__name__} on {images} other images"
        if (sets := view.conformal) is not None:
            names = getattr(view.single_task, "names", ())
            found[f"{start}conformal"] = f"{risk_statement(sets, names)}, from {sets.images} other {sets.unit}s"
    return found


def training_curves(folder: Path) -> dict[str, Series]:
    """Training and validation curves in the CSV log of the first member, without those that are 0 throughout."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    path = folder / "log" / "member-0" / "metrics.csv"
    for row in read_metrics(path):
        for name, value in row.items():
            if "epoch" in row and name.startswith(("train_", "val_", "weight_")):
                kind, _, rest = name.partition("_")
                label = f"{rest} weight" if kind == "weight" else f"{kind} {rest}"  # weights share a picture
                x, y = curves.setdefault(label, ([], []))
                x.append(row["epoch"] + 1)
                y.append(value)
    if curves.get("train loss") == curves.get("train nll"):  # without a penalty both are the same
        curves.pop("train loss", None)
    return {name: points for name, points in curves.items() if any(points[1])}
