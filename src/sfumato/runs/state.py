"""A digest of everything that the predictions of a run depend on, by which results know whether they are outdated."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sfumato.runs.run import Run

STATE_FILES = (
    "plan.yaml", "weights-*.safetensors", "*method.safetensors", "*calibrator.safetensors", "*conformal.safetensors",
)  # fmt: skip


def run_state(run: Run) -> str:
    """A digest of plan, weights, method, calibrators and conformal sets of a run, as they are stored now."""
    return folder_state(run.folder)


def folder_state(folder: Path) -> str:
    """The same for the folder of a run."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in STATE_FILES for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
