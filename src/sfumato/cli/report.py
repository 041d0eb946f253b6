"""``sfumato report``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.console import echo
from sfumato.errors import MissingFileError


def report(
    run: Path,
    out: Path | None = None,
    samples: int | None = None,
    allow_stale: bool = False,
    device: str = "auto",
    trust: str = "",
) -> None:
    """Write one HTML page about a run that has been evaluated.

    Args:
        run: Folder of a run that `sfumato evaluate` has scored.
        out: The page. Default RUN/report.html.
        samples: Number of draws of a stochastic method for the images shown. Default: as in the evaluation.
        allow_stale: Show scores that are older than the run; the page says so.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
    """
    from sfumato.evaluation import FILE, Evaluation, evaluated_data
    from sfumato.registry import Trust
    from sfumato.report import write_report
    from sfumato.runs import Run
    from sfumato.storage import check_writable

    found = Evaluation.load(run / FILE)
    opened = Run.open(run, device=device, trust=Trust.of(trust))
    path = out or run / "report.html"
    if not path.parent.is_dir():
        raise MissingFileError(f"{path.parent} is not a folder: make it first, or choose another --out")
    check_writable(path)
    inside, outside = evaluated_data(opened, found)
    write_report(opened, found, inside, path, ood=outside, samples=samples, allow_stale=allow_stale)
    echo(f"The report is {path}")
