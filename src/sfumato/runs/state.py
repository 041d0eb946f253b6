"""A digest of everything that the predictions of a run depend on, by which results know whether they are outdated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sfumato.runs.run import Run

PREDICTION_FILES = ("plan.yaml", "weights-*.safetensors", "*method.safetensors", "*calibrator.safetensors")
STATE_FILES = (*PREDICTION_FILES, "*conformal.safetensors")


def run_state(run: Run) -> str:
    """A digest of plan, weights, method, calibrators and conformal sets of a run, as they are stored now."""
    return folder_state(run.folder)


def prediction_state(run: Run) -> str:
    """The same without conformal sets, which change no prediction."""
    return folder_state(run.folder, PREDICTION_FILES)


def folder_state(folder: Path, patterns: Sequence[str] = STATE_FILES) -> str:
    """A digest of the files of a run with these names. Default: all that its state depends on."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
