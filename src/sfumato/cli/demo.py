"""``sfumato demo``."""

from __future__ import annotations

import shutil
from pathlib import Path


def demo(out: Path = Path("runs/demo"), epochs: int = 6, seed: int = 0) -> None:
    """Train on generated scenes, score in and out of distribution, end at a report: about three minutes on 2 cores.

    Args:
        out: folder of the run; an earlier run there is replaced.
        epochs: passes over the training scenes.
        seed: of the training.
    """
    from sfumato.cli.evaluate import evaluate
    from sfumato.cli.fit import fit
    from sfumato.cli.report import report

    if (out / "plan.yaml").exists():
        shutil.rmtree(out)
    fit(task="classes", likelihood="logit-normal", samples=6, epochs=epochs, seed=seed, out=out)
    evaluate(out, ood="scenes:novel")
    report(out)
