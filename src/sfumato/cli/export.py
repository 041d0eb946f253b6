"""``sfumato export``."""

from __future__ import annotations

from pathlib import Path


def export(
    run: Path, out: Path | None = None, format: str = "onnx", input: str = "uint8", asleep: bool = False, task: str = ""
) -> None:
    """Write a run as one file that runs without it: raw image in; label or value, total, aleatoric, epistemic out.

    Args:
        run: folder that `fit` left, by deterministic or ensemble; calibrated if it is.
        out: the file; RUN/model.onnx or RUN/model.pt2 if not given.
        format: onnx, which onnxruntime runs; or torch-export, which torch loads.
        input: uint8 images, or float ones in [0, 1].
        asleep: export a network that predicts by MC dropout as one pass with dropout asleep, epistemic part 0.
        task: which one, of a run of several tasks.
    """
    from sfumato.serving import export as write
    from sfumato.training import Run

    path = out or Path(run) / ("model.onnx" if format == "onnx" else "model.pt2")
    worst = write(Run.open(run).one(task), path, format, input, asleep)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, within {max(worst.values()):.1g} of the run")
