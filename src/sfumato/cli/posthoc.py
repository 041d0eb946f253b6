"""``sfumato posthoc``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.console import echo


def posthoc(
    run: Path,
    method: str,
    out: Path | None = None,
    samples: int | None = None,
    limit: int = 0,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Give a finished run a method that needs no further training, such as laplace; leave it as a new run.

    Args:
        run: Folder of a run of one network.
        method: laplace, feature-density, test-time-augmentation or variance-propagation, or one of a plug-in.
        out: Folder of the new run. Default RUN-METHOD.
        samples: Number of draws of the method. Default: as in the run.
        limit: Number of training images that it is fitted on, evenly spread. Default 0, all of them.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import training
    from sfumato.registry import Trust
    from sfumato.runs import Run

    folder = out or run.with_name(f"{run.name}-{method.rpartition('.')[2]}")
    opened = Run.open(run, device=device, trust=Trust.of(trust).naming(method))
    training.fit_post_hoc(opened, method, folder, samples=samples, limit=limit, progress=not quiet)
    echo(f"The run is in {folder}. Next: sfumato evaluate {folder}")
