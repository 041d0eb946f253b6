"""Calibrate the boxes of a run on held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from sfumato.boxes import BoxBounds, BoxCalibrator, Boxes
from sfumato.data.views import Samples, names_of
from sfumato.errors import ConfigError, DataError
from sfumato.evaluation.calibrate import CalibrationReport
from sfumato.evaluation.evaluate import selected
from sfumato.evaluation.one import predict_sample
from sfumato.runs import BoxFinder, Run, image_key
from sfumato.runs.boxes import BOX_BOUNDS, BOX_CALIBRATOR, boxes_digest, maps_digest
from sfumato.storage import check_writable, write_all

if TYPE_CHECKING:
    from sfumato.metrics import BoxScores

BOXES = "boxes"
CHECKED = ("laece0", "box_nll_tp", "energy_tp")


def calibrate_boxes(
    run: Run, dataset: Samples, kind: str = "", *, samples: int | None = None, seed: int = 0, progress: bool = True
) -> tuple[BoxCalibrator, CalibrationReport]:
    """Fit scores and standard deviations of boxes on held-out images, and store both with the run.

    Bounds that were fitted before are deleted. If anything fails, the files of the run stay as they were.

    Args:
        run: A run that predicts boxes.
        dataset: Images that the run was not trained on, at their original sizes.
        kind: ``isotonic`` or ``linear``. Empty for ``isotonic``.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default True.

    Returns:
        The calibrator, and scores before and after on the half of the images that it was not fitted on.

    Raises:
        ConfigError: If the run does not predict boxes, or there is no such kind.
        DataError: If there are too few boxes to fit.
    """
    check_writable(run.folder / BOX_CALIBRATOR)
    finder = _required(run)
    held, keys = _held(run, replace(finder, calibrator=None), dataset, samples, seed, progress)
    fitted = BoxCalibrator.fit([(found, true) for found, true, _ in held], len(finder.classes), kind or "isotonic")
    report = _check(held, len(finder.classes), kind or "isotonic")
    fitted = replace(fitted, fitted_on=keys, rests_on=maps_digest(run.folder))
    write_all({run.folder / BOX_CALIBRATOR: fitted.write_to}, delete=[run.folder / BOX_BOUNDS])
    return fitted, report


def fit_box_bounds(
    run: Run,
    dataset: Samples,
    level: float = 0.9,
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> BoxBounds:
    """Fit inner and outer bounds of boxes on held-out images, and store them with the run, which may be calibrated.

    Args:
        run: A run that predicts boxes.
        dataset: Images that the run was neither trained nor calibrated on, at their original sizes.
        level: Expected share of found true boxes of an image that lie between the bounds, in (0, 1). Default 0.9.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default True.

    Raises:
        ConfigError: If the run does not predict boxes, or the level is out of range.
        DataError: If the images are too few.
        RunError: If a calibrator of the run was fitted on one of the images.
    """
    check_writable(run.folder / BOX_BOUNDS)
    finder = _required(run)
    run.check_calibration_leak(selected(run, dataset), box_bounds=False)
    held, keys = _held(run, finder, dataset, samples, seed, progress)
    bounds = BoxBounds.fit([(found, true) for found, true, _ in held], level)
    bounds = replace(bounds, fitted_on=keys, rests_on=boxes_digest(run.folder))
    bounds.save(run.folder / BOX_BOUNDS)
    return bounds


Held = tuple[Boxes, Tensor, tuple[int, int]]
"""Predicted boxes, true boxes and the size of an image."""


def _required(run: Run) -> BoxFinder:
    finder = run.box_finder
    if finder is None:
        raise ConfigError(f"{run.folder} has the tasks {', '.join(run.per_task)}: boxes need objects and distances")
    return finder


def _held(
    run: Run, finder: BoxFinder, dataset: Samples, samples: int | None, seed: int, progress: bool
) -> tuple[list[Held], tuple[str, ...]]:
    """The boxes of all images, and the keys of the images."""
    from rich.progress import track

    read = selected(run, dataset, (BOXES,))
    if not len(read):
        raise DataError("the data set to calibrate on is empty: check --data, --root and --split")
    found: list[Held] = []
    keys: list[str] = []
    for index in track(range(len(read)), "predict", disable=not progress, transient=True):
        sample, prediction = predict_sample(run, read, index, samples=samples, seed=seed)
        true = sample.get(BOXES)
        if not isinstance(true, Tensor):
            raise DataError(f"sample {names_of(read)[index]} has no boxes")
        assert isinstance(prediction, Mapping)
        boxes = finder(prediction)[0]
        size = prediction["objects"].total.shape[-2:]
        found.append((boxes, true.cpu(), (int(size[0]), int(size[1]))))
        keys.append(image_key(sample, run.facts.inputs))
    return found, tuple(keys)


def _check(held: Sequence[Held], classes: int, kind: str) -> CalibrationReport:
    """Scores of each half, with a calibrator that is fitted on the other half."""
    from sfumato.metrics import BoxScores  # here, because torchmetrics imports matplotlib

    before, after = BoxScores(classes), BoxScores(classes)
    half = len(held) // 2
    parts = list(held[:half]), list(held[half:])
    if not all(parts):
        return CalibrationReport({}, {})
    try:
        fitted = [BoxCalibrator.fit([each[:2] for each in part], classes, kind) for part in reversed(parts)]
    except DataError:  # one half alone has too few boxes
        return CalibrationReport({}, {})
    for part, calibrator in zip(parts, fitted):
        for found, true, size in part:
            before.update([found], [true], size)
            after.update([calibrator(found)], [true], size)
    return CalibrationReport(_measured(before), _measured(after))


def _measured(scores: BoxScores) -> dict[str, float]:
    found = scores.compute()
    return {name: float(found[name]) for name in CHECKED if not bool(found[name].isnan())}
