"""The run that a student learned from."""

from __future__ import annotations

from pathlib import Path

from sfumato.runs import Run
from sfumato.runs.plan import FILE


def teacher_of(run: Run) -> Run | None:
    """The run that taught this one, on the same device and with the same trust.

    If the student has one task, this is the teacher as a run of that task. It is None if no run taught this one, or if
    the teacher's folder is gone.
    """
    folder = Path(run.config.teacher)
    if not run.config.teacher or not (folder / FILE).exists():
        return None
    teacher = Run.open(folder, device=run.device, trust=run.plan.trust)
    return teacher if run.config.tasks else teacher.select_task(run.config.task)
