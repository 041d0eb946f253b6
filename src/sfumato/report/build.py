"""From a run and its evaluation to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sfumato.calibration import risk_statement
from sfumato.contracts import DataSet, Task
from sfumato.decisions import Decisions
from sfumato.errors import RunError
from sfumato.evaluation import Evaluation, TaskEvaluation
from sfumato.report.boxes import box_section
from sfumato.report.data import OODSection, Rejection, Reliability, ReportData, ReportImage
from sfumato.report.decided import decision_texts
from sfumato.report.facts import facts_of, training_curves
from sfumato.report.images import ImageSource, groups_of
from sfumato.report.page import write_page
from sfumato.report.poses import path_section
from sfumato.runs import Run
from sfumato.tasks import CameraPose
from sfumato.training import teacher_of

STALE = (
    "The scores on this page are older than the run, which was trained or calibrated after the evaluation. The images "
    "show the run as it is now. Run `sfumato evaluate` again for scores that belong to it."
)
Columns = Mapping[str, Sequence[float]]


def write_report(
    run: Run,
    evaluation: Evaluation,
    dataset: DataSet,
    path: str | Path,
    *,
    ood: DataSet | None = None,
    samples: int | None = None,
    allow_stale: bool = False,
) -> Path:
    """Write one HTML page about a run that has been evaluated.

    Args:
        run: The run, of one or several tasks.
        evaluation: Its evaluation.
        dataset: The data set that it was evaluated on.
        path: The HTML file. Its folder must exist.
        ood: The data set of the comparison out of distribution, for example images. Default: none are shown.
        samples: Number of draws of a stochastic method for the images. None for the number of the evaluation.
        allow_stale: Whether an evaluation of an earlier state of the run may be shown; the page then says so. Default
            False.

    Returns:
        The path.

    Raises:
        RunError: If the evaluation is older than the run, or has other tasks or images.
        ResourceError: If the disk is full.
    """
    warning = _check(run, evaluation, dataset, allow_stale)
    groups = groups_of(evaluation)
    decisions = {name: Decisions.of(view) for name, view in run.per_task.items()}
    source = ImageSource(run, teacher_of(run), samples or evaluation.samples or None, evaluation.seed, decisions)
    if isinstance(run.task, CameraPose):
        report = replace(
            task_report(run, evaluation.tasks[run.config.task]), facts=facts_of(run, evaluation), warning=warning,
            history=training_curves(run.folder), subject="image",
            path=path_section(run, evaluation, dataset, groups, samples or evaluation.samples or None),
        )  # fmt: skip
        return write_page(report, path)
    shown = source.images(evaluation, dataset, groups)
    outside = {} if ood is None else source.ood_images(ood)
    facts, history = facts_of(run, evaluation), training_curves(run.folder)
    boxes = box_section(run, dataset, groups, samples or evaluation.samples or None, evaluation.seed)
    reports: dict[str, ReportData] = {}
    for name, view in run.per_task.items():
        images = shown[name]
        report = task_report(view, evaluation.tasks[name], outside.get(name, ()))
        reports[name] = replace(
            report, facts=facts, history=history, warning=warning, images=tuple(images.values()), boxes=boxes,
            decisions=decision_texts(decisions[name], view.single_task),
            groups={group: [images[i].name for i in members] for group, members in groups.items()},
        )  # fmt: skip
    return write_page(reports if run.config.tasks else next(iter(reports.values())), path)


def _check(run: Run, evaluation: Evaluation, dataset: DataSet, allow_stale: bool) -> str:
    """What the page warns of. Empty if the evaluation fits."""
    again = f"run `sfumato evaluate {run.folder}` again"
    if missing := [name for name in run.per_task if name not in evaluation.tasks]:
        raise RunError(f"the evaluation has no task {missing[0]!r}: {again}")
    if len(dataset) != evaluation.images:
        raise RunError(f"the data set has {len(dataset)} images, but {evaluation.images} were evaluated: {again}")
    if evaluation.merged:
        raise RunError(
            f"the evaluation is of frames that were merged, and the pictures of a report are of single ones: {again} "
            "without --temporal"
        )
    if evaluation.is_current(run):
        return ""
    if not allow_stale:
        raise RunError(
            f"{run.folder} was trained or calibrated after its evaluation: {again}, or show the old scores with "
            "--allow-stale"
        )
    return STALE


def task_report(run: Run, found: TaskEvaluation, outside: Sequence[ReportImage] = ()) -> ReportData:
    """What the page shows of one task, without images.

    Args:
        run: The run as that task.
        found: What was found for the task.
        outside: Example images out of distribution. Default: none.
    """
    task = run.single_task
    tables = {"uncalibrated": found.uncalibrated, "teacher": found.teacher}
    others = {name: table for name, table in tables.items() if table is not None}
    curves = {name: table.curves for name, table in others.items()}
    name, unit, meaning = _set_size(run, task)
    return ReportData(
        title=f"{run.folder.name}: uncertainty of every {'pixel' if task.target.is_map else 'image'}",
        facts={},
        task=task,
        scores={score: found.scores[score] for score in found.headline if not score.startswith("ood_")},
        other_scores={name: {k: v.value for k, v in table.scores.items()} for name, table in others.items()},
        reliability=_reliability(found.curves.get("reliability"), curves.get("uncalibrated", {}).get("reliability")),
        rejection=_rejection(found.curves.get("rejection"), curves.get("teacher", {}).get("rejection"), task),
        ood=_ood_section(found, outside),
        set_size_name=name,
        set_size_unit=unit,
        set_size_meaning=meaning,
        meanings={} if run.conformal is None else {"risk": run.conformal.risk_text(getattr(task, "names", ()))},
        per_class=found.per_class,
        class_names=found.class_names,
    )


def _set_size(run: Run, task: Task) -> tuple[str, str, str]:
    """What the sizes of conformal sets are called, their unit, and what they mean."""
    if run.conformal is None:
        return "", "", ""
    names: Sequence[str] = getattr(task, "names", ())
    stated = f"This is as large as it has to be for the risk: {risk_statement(run.conformal, names)}."
    if task.kind == "value":
        unit = getattr(task, "unit", "")
        return "interval width", unit, f"The width of the conformal interval of a pixel. {stated}"
    words = "How many classes the conformal set of a pixel holds beside the best guess; 0 is the best guess alone."
    return "further classes", "classes", f"{words} {stated}"


def _ood_section(found: TaskEvaluation, images: Sequence[ReportImage]) -> OODSection | None:
    if found.ood is None:
        return None
    scores = {name: score for name, score in found.scores.items() if name.startswith("ood_auroc")}
    return OODSection(found.ood.name, found.ood.histograms, images, scores)


def _reliability(curve: Columns | None, uncalibrated: Columns | None) -> Reliability | None:
    if curve is None:
        return None
    before = _reliability(uncalibrated, None)
    if "inside" in curve:
        return Reliability(curve["probability"], curve["inside"], (), "probability of the ellipsoid", before)
    if "confidence" in curve:
        return Reliability(curve["confidence"], curve["accuracy"], curve["count"], "confidence", before)
    return Reliability(curve["nominal"], curve["observed"], (), "quantile level", before)


def _rejection(curve: Columns | None, teacher: Columns | None, task: Task) -> Rejection | None:
    if curve is None:
        return None
    ours, theirs = _one_rejection(curve, task), None if teacher is None else _one_rejection(teacher, task)
    if theirs is None:
        return ours
    names = {
        "student": ours.risks[TOTAL],
        "teacher": theirs.risks[TOTAL],
        "oracle of the student": ours.risks["oracle"],
    }
    return replace(ours, risks=names)


TOTAL = "total uncertainty"


def _one_rejection(curve: Columns, task: Task) -> Rejection:
    kept = curve["coverage"]
    if "error" in curve:
        return Rejection(kept, {TOTAL: curve["error"], "oracle": curve["oracle"]}, "error of the position (m)")
    if "accuracy" not in curve:
        unit = getattr(task, "unit", "")
        return Rejection(kept, {TOTAL: curve["rmse"], "oracle": curve["oracle"]}, f"RMSE ({unit})" if unit else "RMSE")
    risk = [1 - accuracy for accuracy in curve["accuracy"]]
    wrong = risk[-1] if kept[-1] >= kept[0] else risk[0]  # of all pixels; the best order leaves them out first
    oracle = [max(0.0, 1 - (1 - wrong) / share) if share > 0 else 0.0 for share in kept]
    return Rejection(kept, {TOTAL: risk, "oracle": oracle}, "error rate")
