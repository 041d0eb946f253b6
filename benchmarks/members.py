"""The networks of several runs as one run, an ensemble."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sfumato.runs import Plan


def weights_of(folder: Path) -> Path:
    return folder / "weights-0.safetensors"


def gather_members(sources: Sequence[Path], folder: Path) -> None:
    """The networks of several runs as one run, an ensemble."""
    folder.mkdir(parents=True, exist_ok=True)
    for member, source in enumerate(sources):
        shutil.copy(weights_of(source), folder / f"weights-{member}.safetensors")
    plan = Plan.load(sources[0] / "plan.yaml")
    config = replace(plan.config, method="ensemble", members=len(sources))
    replace(plan, config=config).save(folder / "plan.yaml")
