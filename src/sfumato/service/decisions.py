"""Decisions about an image that a service gives: those that ``sfumato decide`` stored for the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfumato.decisions import Decisions
from sfumato.predictions import ClassPrediction, TaskPrediction
from sfumato.runs import Backend, RunBackend
from sfumato.sections import Json
from sfumato.serving import OnnxBackend

LARGEST = 1e30  # a threshold above which everything is accepted


def decisions_of(backend: Backend, path: Path) -> Mapping[str, Decisions]:
    """The decisions for each task: in the folder ``decisions`` of a run, or beside an exported file.

    Raises:
        RunError: If a file is damaged.
    """
    if isinstance(backend, RunBackend):
        return {name: Decisions.of(view) for name, view in backend.run.per_task.items()}
    state = backend.bundle.metadata.get("prediction_state") if isinstance(backend, OnnxBackend) else ""
    return {name: Decisions.in_folder(path.parent, str(state)) for name in backend.tasks}


def decided(decisions: Decisions, prediction: TaskPrediction, epistemic: Tensor) -> dict[str, Json]:
    """What is decided about a prediction of one image.

    Args:
        decisions: What was fitted.
        prediction: The prediction.
        epistemic: Its epistemic uncertainty (1, *event), which takes a while to compute.

    Returns:
        ``score``: mean epistemic uncertainty, or that of the flag. ``p_value`` and ``flagged``: null without a flag.
        ``accepted``: share of the pixels, null without an abstention. ``decision``: flagged, accepted, partly accepted
        or abstained, null if nothing was fitted. ``measure`` and ``threshold`` of the abstention, in nats or unit².
        ``actions``: share of the pixels for each action of the costs, null without costs.
    """
    flag, abstention = decisions.flag, decisions.abstention
    scores = epistemic.double().mean() if flag is None else flag.score(prediction)
    flagged = None if flag is None else bool(flag(scores))
    accepted = None if abstention is None else float(abstention(prediction).double().mean())
    limit = LARGEST if abstention is None else abstention.limit
    return {
        "score": float(scores),
        "p_value": None if flag is None else float(flag.p_values(scores)),
        "flagged": flagged,
        "accepted": accepted,
        "decision": _word(flagged, accepted),
        "measure": None if abstention is None else abstention.measure,
        "threshold": limit if limit < LARGEST else None,
        "actions": _actions(decisions, prediction),
    }


def _actions(decisions: Decisions, prediction: TaskPrediction) -> dict[str, Json] | None:
    costs = decisions.costs
    if costs is None or not isinstance(prediction, ClassPrediction):
        return None
    counts = torch.bincount(costs.best(prediction.probs)[0].flatten(), minlength=len(costs.actions))
    return dict(zip(costs.actions, (counts / counts.sum()).tolist()))


def _word(flagged: bool | None, accepted: float | None) -> str | None:
    if flagged:
        return "flagged"
    if accepted is None:
        return None if flagged is None else "accepted"
    return "accepted" if accepted == 1 else "abstained" if accepted == 0 else "partly accepted"
