"""``sfumato export``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError, MissingFileError

if TYPE_CHECKING:
    from sfumato.runs import Run

SPLIT = "val"


def export(
    run: Path,
    out: Path | None = None,
    format: str = "onnx",
    input: str = "uint8",
    deterministic: bool = False,
    task: str = "",
    precision: str = "float32",
    split: str = SPLIT,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Write a run as one file: raw image in; label or value, probabilities, total, aleatoric and epistemic out.

    What `sfumato decide` left for the run is in the file, as far as it concerns one pixel alone: the mask of accepted
    pixels, the action with the least expected cost, that cost, and the value of looking again.

    Args:
        run: Folder of a run, calibrated or not.
        out: The file, or for triton the folder of the model repository. Default RUN/model.onnx, RUN/model.pt2,
            RUN/triton.
        format: onnx, which onnxruntime runs; torch-export, which torch loads; or triton, a model repository with the
            onnx file. Default onnx.
        input: uint8 for 8-bit images, or float for images in [0, 1]. Default uint8.
        deterministic: Export a stochastic method as one pass of the network without draws; the epistemic part is 0.
        task: Which task, for a run of several.
        precision: Weights in an onnx file: float32, float16 or int8. The cost of the last two is measured. Default
            float32.
        split: Part of the run's own data on which that cost is measured. Default val.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import serving
    from sfumato.evaluation import dataset_for
    from sfumato.registry import Trust
    from sfumato.runs import Run

    if precision not in serving.PRECISIONS or (format == "torch-export" and precision != "float32"):
        known = ", ".join(serving.PRECISIONS)
        raise ConfigError(
            f"precision is {precision!r} with format {format}, expected one of {known} with onnx or triton"
        )
    if split != SPLIT and precision == "float32":
        raise ConfigError(f"split is {split!r}, which is for --precision float16 or int8: leave it out")
    opened = Run.open(run, trust=Trust.of(trust)).select_task(task)
    path = out or run / {"torch-export": "model.pt2", "triton": "triton"}.get(format, "model.onnx")
    if not path.parent.is_dir():
        raise MissingFileError(f"{path.parent} is not a folder: make it first, or choose another --out")
    dataset = None if precision == "float32" else dataset_for(opened, split=split)
    if format == "triton":
        name = run.resolve().name
        differences = serving.export_triton(opened, path, name, input, deterministic)
        path = path / name / "1" / "model.onnx"
    else:
        differences = serving.export(opened, path, format, input, deterministic)
    echo(f"{path}: {_mebibytes(path)} MiB, within {max(differences.values()):.1g} of the run")
    _tell_decisions(opened, differences)
    if dataset is None:
        return
    serving.reduce_precision(path, precision)
    echo(f"{path}: {_mebibytes(path)} MiB with weights in {precision}. Scores on {split}:")
    bundle = serving.Bundle(path)
    cost = serving.precision_cost(opened, bundle, dataset, deterministic=deterministic, progress=not quiet)
    for name, (ours, theirs) in cost.items():
        echo(f"  {name:12s} {ours:.4f} → {theirs:.4f}")


def _tell_decisions(run: Run, outputs: Iterable[str]) -> None:
    """Say which decisions the file makes, and which were left out and why."""
    from sfumato.decisions import Decisions

    stored, names = Decisions.of(run), set(outputs)
    if found := [name for name in ("accepted", "action", "expected_cost", "look") if name in names]:
        echo(f"Decisions in the file: {', '.join(found)}")
    if stored.abstention is not None and "accepted" not in names:
        echo("Abstention is left out: it needs the draws of the run, or all pixels of an image")
    if "accepted" in names and run.plan.factors != (1.0, 1.0):
        echo("Its promise about accepted pixels was tested at the original size, and the file sees reduced images")
    for name in stored.outdated:
        echo(f"{name} is left out: the run was trained or calibrated since. Run `sfumato decide` again")


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f}"
