"""``sfumato demo``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sfumato.errors import RunExistsError

MARKER = ".sfumato-demo"
# The files of a run, of its evaluation and its report. Nothing else is ever deleted.
MADE = re.compile(
    r"(\.sfumato-demo|plan\.yaml|fit\.lock|evaluation\.json|report\.html|weights-\d+\.safetensors|member-\d+\.ckpt"
    r"|log(/member-\d+(/(metrics\.csv|events\.out\.tfevents\..*))?)?)(\.\d+\.part)?"
)
# Three networks that were trained from different starts differ most on objects that none of them has seen. Small images
# keep three of them quick.
CHOICES = {"task": "classes", "method": "ensemble", "members": 3, "likelihood": "categorical", "size": (64, 96)}


def demo(out: Path = Path("runs/demo"), epochs: int = 5, seed: int = 0, device: str = "auto") -> None:
    """Train on generated scenes, score in and out of distribution, and write a report: about 4 minutes on 2 cores.

    Args:
        out: Folder of the run. An earlier demo there is replaced. Default runs/demo.
        epochs: Passes of each of the three networks over the training scenes. Default 5.
        seed: Seed of the training. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
    """
    from sfumato.cli.evaluate import evaluate
    from sfumato.cli.fit import fit
    from sfumato.cli.report import report

    clear(out)
    fit(**CHOICES, epochs=epochs, seed=seed, out=out, device=device)
    evaluate(out, ood="scenes:novel", device=device)
    report(out, device=device)


def clear(folder: Path) -> None:
    """Remove an earlier demo, and mark the folder as one of a demo. Links are not followed.

    Raises:
        RunExistsError: If the folder holds anything that the demo did not make.
    """
    found = _content(folder)
    if found and not (folder / MARKER).is_file():
        raise RunExistsError(f"{folder} holds files that are not of a demo: choose another folder with --out")
    for path in found:
        if not MADE.fullmatch(path.relative_to(folder).as_posix()) or path.is_symlink():
            raise RunExistsError(f"the demo did not make {path}: move it, or choose another folder with --out")
    for path in found:
        path.rmdir() if path.is_dir() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    from sfumato.storage import atomic_write  # here, because it imports torch

    with atomic_write(folder / MARKER) as part:
        part.write_text("`sfumato demo` made this folder and may delete it.\n", encoding="utf-8")


def _content(folder: Path) -> list[Path]:
    """Everything below a folder, what is in a folder before the folder itself."""
    if folder.is_file():
        raise RunExistsError(f"{folder} is a file: choose another folder with --out")
    return [Path(where, name) for where, below, files in os.walk(folder, topdown=False) for name in (*below, *files)]
