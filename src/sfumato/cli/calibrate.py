"""``sfumato calibrate``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.calibration import ConformalIntervals, ConformalSets
    from sfumato.data.views import Samples
    from sfumato.runs import Run

CONFORMAL = "conformal"
BOXES = "boxes"
IMAGE = "image"
LEVEL = 0.9


def calibrate(
    run: Path,
    method: str = "",
    data: str = "",
    root: str = "",
    split: str = "val[:50%]",
    level: float = LEVEL,
    delta: float = 0.0,
    class_: str = "",
    unit: str = "image",
    task: str = "",
    reset: bool = False,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Calibrate a run on held-out images; evaluate, predict, report and export then use what was fitted.

    Args:
        run: Folder of a run.
        method: temperature (the default for classes), class-temperature, vector, local or isotonic; scale (the default
            for values) or quantile; conformal for sets of classes or intervals of values with a bounded risk. With
            --task boxes: isotonic (the default) or linear for scores and standard deviations of boxes, and conformal
            for inner and outer bounds.
        data: Other data than the run's own.
        root: Folder where that data lies.
        split: Which images to fit on. Evaluate on others, such as val[50%:]. Default val[:50%].
        level: For conformal, 1 − the allowed risk: the share of pixels whose set lacks the true class or whose
            interval lacks the value, as a mean over images. Default 0.9.
        delta: For conformal, how often the risk may be larger. Default 0, which bounds the expected risk.
        class_: For conformal, the class whose risk is bounded: the share of its pixels whose set lacks it. Default:
            all classes.
        unit: For conformal, what is exchangeable: image, or sequence for data that are video. Names of the images of
            one sequence differ in their last number. Default image.
        task: Which task, for a run of several; boxes for the boxes that are found.
        reset: Remove all calibration of the run.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        seed: Seed of the draws. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import evaluation
    from sfumato.registry import Trust
    from sfumato.runs import Run

    if method != CONFORMAL and (level != LEVEL or delta or class_ or unit != IMAGE):
        raise ConfigError("level, delta, class and unit are for --method conformal: add it, or leave them out")
    if reset and (method or data or root or class_):
        raise ConfigError("--reset removes all calibration of the run: leave out the other options")
    opened = Run.open(run, device=device, trust=Trust.of(trust).naming(method, data))
    if reset:
        evaluation.reset(opened)
        echo(f"{run} is as it was trained: all calibration is removed")
        return
    view = opened if task == BOXES else opened.select_task(task)
    if split.startswith("train") and data in ("", view.config.data):
        raise ConfigError(f"{run} was trained on these images: calibrate on others, as in --split 'val[:50%]'")
    dataset = evaluation.dataset_for(view, data, root, split)
    if task == BOXES:
        if unit != IMAGE:
            raise ConfigError(f"unit is {unit!r}, which is not for boxes: leave it out")
        _boxes(opened, dataset, method, level, delta, class_, samples, seed, quiet)
    elif method == CONFORMAL:
        found = evaluation.fit_conformal(
            view, dataset, level, delta=delta, class_name=class_, unit=unit, samples=samples, seed=seed,
            progress=not quiet,
        )  # fmt: skip
        echo(_conformal_text(found.conformal, getattr(view.single_task, "names", ())))
    else:
        found, report = evaluation.calibrate(view, dataset, method, samples=samples, seed=seed, progress=not quiet)
        images = f"{len(dataset)} images of {data or view.config.data}, {split}"
        echo(f"{type(found.calibrator).__name__} fitted on {images}")
        echo(report.text)
    trusted = f" --trust {trust}" if trust else ""
    echo(f"It is stored in {run}. Next, on other images: sfumato evaluate {run}{_other_images(split)}{trusted}")


def _boxes(
    run: Run,
    dataset: Samples,
    method: str,
    level: float,
    delta: float,
    class_: str,
    samples: int | None,
    seed: int,
    quiet: bool,
) -> None:
    """Calibrate the boxes of a run, or fit their bounds."""
    from sfumato import evaluation

    if delta or class_:
        raise ConfigError("delta and class are not for boxes: leave them out")
    if method == CONFORMAL:
        found = evaluation.fit_box_bounds(run, dataset, level, samples=samples, seed=seed, progress=not quiet)
        echo(
            f"BoxBounds fitted on {found.images} images: of the true boxes of an image that are found, {level:.0%} are "
            f"expected between the edges ± {found.factor:.3g} standard deviations"
        )
        return
    fitted, report = evaluation.calibrate_boxes(run, dataset, method, samples=samples, seed=seed, progress=not quiet)
    echo(f"BoxCalibrator ({fitted.kind}) fitted on {len(dataset)} images")
    echo(report.text)


def _other_images(split: str) -> str:
    part = re.fullmatch(r"(.+)\[.*:(\d+%)\]", split)
    return f" --split '{part[1]}[{part[2]}:]'" if part else " --split OTHERS"


def _conformal_text(found: ConformalSets | ConformalIntervals, names: Sequence[str]) -> str:
    from sfumato.calibration import risk_statement

    kind, stated = type(found).__name__, risk_statement(found, names)
    return f"{kind} fitted on {found.images} {found.unit}s. Risk for {found.unit}s like these: {stated}"
