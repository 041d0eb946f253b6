"""``sfumato fit``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.training.plan import Plan

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def fit(
    *,
    out: Path | None = None,
    resume: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    parallel_members: int = 1,
    quiet: bool = False,
    **plan: Any,
) -> None:
    """Train a network, or an ensemble of them, and leave a run: a folder with a plan, weights and logs.

    Args:
        out: folder of the run; runs/DATA-METHOD-LIKELIHOOD if not given, of several tasks runs/DATA-METHOD-WEIGHTING.
        resume: go on with an interrupted run.
        devices: processes or GPUs on this node.
        num_nodes: how many nodes.
        parallel_members: members of an ensemble that are trained at the same time, in processes of their own.
        quiet: show no progress bar.
        **plan: the choices to make by hand; what is left out is derived from the data.
    """
    known, train, val = planned(Plan(**plan))
    folder = out or Path("runs") / f"{Path(known.data).name}-{known.method}-{known.weighting or known.likelihood}"
    from sfumato import training

    training.fit(
        known, train, val, folder, resume=resume, devices=devices, num_nodes=num_nodes, parallel_members=parallel_members,
        progress=not quiet,
    )  # fmt: skip
    training.print_rank_zero(f"The run is in {folder}. Next: sfumato evaluate {folder}")


def planned(plan: Plan) -> tuple[Plan, Dataset, Dataset | None]:
    """The plan with every empty entry derived, the training data and, if there is any, what to validate on."""
    from sfumato.data import load
    from sfumato.training import METHODS, derive, question, resolve_tasks, subset, with_target_statistics, working_size

    if plan.method not in METHODS:
        raise ValueError(f"method is {plan.method!r}, expected one of {sorted(METHODS)}")
    if plan.members > 1 and METHODS[plan.method].members == 1:
        raise ValueError(f"members is {plan.members} but the method is {plan.method}: pass --method ensemble")
    first = load(plan.data, root=plan.root, split="train")[0]["image"]
    native = (first.shape[-2], first.shape[-1])
    size = plan.size if any(plan.size) else working_size(native)
    train = load(plan.data, root=plan.root, split="train", size=size)
    has_val = "val" in getattr(train, "splits", ("val",))
    val = load(plan.data, root=plan.root, split="val", size=size) if has_val else None
    known = replace(
        resolve_tasks(plan, train.tasks),
        members=plan.members or METHODS[plan.method].members,
        original_size=native,
        root=str(Path(plan.root).absolute()) if plan.root else "",
    )
    task, _ = question(known)  # an unknown likelihood is refused before any image is read
    kept = subset(train, task)
    return with_target_statistics(derive(kept, task, known, getattr(train, "augmentation", None)), kept), train, val
