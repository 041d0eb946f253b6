"""``sfumato export``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.evaluate import data_of


def export(
    run: Path,
    out: Path | None = None,
    format: str = "onnx",
    input: str = "uint8",
    deterministic: bool = False,
    task: str = "",
    precision: str = "float32",
    split: str = "val",
    quiet: bool = False,
) -> None:
    """Write a run as one file that runs without it: raw image in; label or value, total, aleatoric, epistemic out.

    Args:
        run: folder that `fit` left, by deterministic or ensemble; calibrated if it is.
        out: the file; RUN/model.onnx or RUN/model.pt2 if not given.
        format: onnx, which onnxruntime runs; or torch-export, which torch loads.
        input: uint8 images, or float ones in [0, 1].
        deterministic: export a network that predicts by MC dropout as one pass with dropout deterministic, epistemic part 0.
        task: which one, of a run of several tasks.
        precision: of the weights in an onnx file: float32, float16 or int8; of the last two the cost is measured.
        split: of the run's own data, which that cost is measured on.
        quiet: show no progress bar.
    """
    from sfumato.serving import PRECISIONS, Bundle, cost, shrink
    from sfumato.serving import export as write
    from sfumato.training import Run

    if precision not in PRECISIONS or (format != "onnx" and precision != "float32"):
        raise ValueError(f"precision is {precision!r} of {format}, expected one of {', '.join(PRECISIONS)} of onnx")
    opened = Run.open(run).select_task(task)
    dataset = None if precision == "float32" else data_of(opened, "", "", split)
    path = out or Path(run) / ("model.onnx" if format == "onnx" else "model.pt2")
    worst = write(opened, path, format, input, deterministic)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, within {max(worst.values()):.1g} of the run")
    if dataset is not None:
        shrink(path, precision)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB with weights in {precision}. What that costs on {split}:")
        for name, (ours, theirs) in cost(
            opened, Bundle(path), dataset, deterministic=deterministic, progress=not quiet
        ).items():
            print(f"  {name:12s} {ours:.4f} → {theirs:.4f}")
