"""Fit calibrators and conformal sets on held-out images, and store them with the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from torch import Tensor

from sfumato.calibration import conformal_for
from sfumato.contracts import Calibrator, Score
from sfumato.data.frames import sequence_name
from sfumato.data.views import Samples, names_of
from sfumato.errors import ConfigError, DataError
from sfumato.evaluation.evaluate import selected
from sfumato.evaluation.held import HeldOut, HeldPredictions
from sfumato.predictions import TaskPrediction
from sfumato.runs import Run, calibrator_classes
from sfumato.runs.boxes import BOX_BOUNDS, BOX_CALIBRATOR
from sfumato.runs.run import CALIBRATOR, CONFORMAL
from sfumato.storage import check_writable, digest, write_all

MEASURES = ("nll", "ece", "quantile_calibration")


class StoredCalibrator(Calibrator[TaskPrediction], Protocol):
    """A calibrator that is a dataclass, so that a run can store it."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]

    def to(self, device: torch.device | str) -> Self:
        """The same calibrator on another device."""
        ...

    def write_to(self, path: Path) -> None:
        """Write it to a file."""
        ...


class CalibratorClass(Protocol):
    """What the class of a calibrator offers beside the calibrator itself."""

    def fit(self, held: Iterable[HeldOut]) -> StoredCalibrator:
        """A calibrator that is fitted on these images."""
        ...


@dataclass(frozen=True)
class CalibrationReport:
    """Scores before and after a calibration, on images that the calibrator was not fitted on.

    The images are divided into two halves. Each half is scored with a calibrator that is fitted on the other half.

    Args:
        before: ``nll`` and, for classes, ``ece``, or for values ``quantile_calibration``, without a calibrator. Empty
            if the images are too few for two halves.
        after: The same with it.

    >>> CalibrationReport({"nll": 0.5, "ece": 0.1}, {"nll": 0.4, "ece": 0.02}).harms
    False
    """

    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def worse(self) -> list[str]:
        """The scores that are worse with the calibrator: a larger ``nll``, or another one that is a tenth larger."""
        allowed = {name: value if name == "nll" else 1.1 * value + 1e-3 for name, value in self.before.items()}
        return [name for name, most in allowed.items() if not self.after[name] <= most]

    @property
    def harms(self) -> bool:
        """Whether a score is worse with the calibrator than without it."""
        return bool(self.worse)

    @property
    def text(self) -> str:
        """Lines to print."""
        if not self.before:
            return "The images are too few to check the calibration on other images than it was fitted on"
        changes = ", ".join(f"{name} {old:.4g} → {self.after[name]:.4g}" for name, old in self.before.items())
        line = f"On images that it was not fitted on (two halves): {changes}"
        warning = f"\nThe calibration makes {', '.join(self.worse)} worse: use more images, or undo it with --reset"
        return line + warning * self.harms


def calibrate(
    run: Run, dataset: Samples, name: str = "", *, samples: int | None = None, seed: int = 0, progress: bool = True
) -> tuple[Run, CalibrationReport]:
    """Fit a calibrator on held-out images and store it with the run. It replaces the one that the run has.

    Conformal sets that were fitted before are deleted, because they are only valid for the predictions as they were.
    If anything fails, the files of the run stay as they were.

    Args:
        run: The run, of one task.
        dataset: Images that the run was not trained on, at their original sizes.
        name: Name of the calibrator. Empty for the task's default: ``temperature`` for classes, ``scale`` for values.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default True.

    Returns:
        The run with its calibrator, and scores before and after.

    Raises:
        ConfigError: If there is no such calibrator for the task.
        DataError: If there is nothing to calibrate on.
        ResourceError: If the disk is full.
    """
    known = calibrator_classes(run.single_task)
    if name and name not in known:
        raise ConfigError(f"{name!r} is not a calibrator of {run.config.task}: expected one of {', '.join(known)}")
    kind = cast(CalibratorClass, known[name or next(iter(known))])
    check_writable(run.file(CALIBRATOR))
    uncalibrated = replace(run, calibrator=None, conformal=None)
    held = _held(uncalibrated, dataset, samples, seed, progress, original=False)
    report = _check(held, kind, run)
    fitted = replace(kind.fit(held.of(range(len(held)))), fitted_on=tuple(held.keys))
    write_all({run.file(CALIBRATOR): fitted.write_to}, delete=[run.file(CONFORMAL)])
    return replace(uncalibrated, calibrator=fitted.to(run.device)), report


def fit_conformal(
    run: Run,
    dataset: Samples,
    level: float = 0.9,
    *,
    delta: float = 0.0,
    class_name: str = "",
    unit: str = "image",
    samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Run:
    """Fit conformal sets or intervals on held-out images and store them with the run, which may be calibrated.

    Args:
        run: The run, of one task.
        dataset: Images that the run was neither trained nor calibrated on, at their original sizes.
        level: 1 − the risk that is allowed, in (0, 1). Default 0.9.
        delta: How often the risk itself may be larger, in (0, 1). Default 0: the expected risk is bounded.
        class_name: The class whose risk is bounded: the share of its pixels whose set lacks it. Empty for all
            classes.
        unit: What is exchangeable: ``image``, or ``sequence`` for data that are video, where names of images end with
            the number of a frame. Default image.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default True.

    Returns:
        The run with its conformal sets or intervals.

    Raises:
        ConfigError: If there is no such class, or a level is out of range.
        DataError: If the images are too few.
        RunError: If the calibrator of the run was fitted on one of the images.
        ResourceError: If the disk is full.
    """
    if unit not in ("image", "sequence"):
        raise ConfigError(f"unit is {unit!r}, expected image or sequence")
    arguments: dict[str, Any] = {"class_index": class_index(run, class_name)} if class_name else {}
    if unit == "sequence":
        arguments["sequences"] = [sequence_name(name) for name in names_of(dataset)]
    check_writable(run.file(CONFORMAL))
    before = replace(run, conformal=None)
    held = _held(before, dataset, samples, seed, progress, original=True)
    before.check_calibration_leak(held.dataset)
    images = cast("Iterator[tuple[Any, Tensor, Tensor]]", held.of(range(len(held))))  # predictions of this kind
    found = conformal_for(run.single_task.kind).fit(images, level, delta, **arguments)
    fitted = replace(found, fitted_on=tuple(held.keys), rests_on=digest(run.file(CALIBRATOR)))
    write_all({run.file(CONFORMAL): fitted.write_to})
    return replace(run, conformal=fitted.to(run.device))


def reset(run: Run) -> Run:
    """The run as it was trained: the calibrators and conformal sets of all its tasks are deleted."""
    for view in (run, *run.per_task.values()):
        for name in (CONFORMAL, CALIBRATOR):  # conformal sets never stay without the calibrator they rest on
            view.file(name).unlink(missing_ok=True)
    for name in (BOX_BOUNDS, BOX_CALIBRATOR):
        (run.folder / name).unlink(missing_ok=True)
    return replace(run, calibrator=None, conformal=None)


def _held(
    run: Run, dataset: Samples, samples: int | None, seed: int, progress: bool, *, original: bool
) -> HeldPredictions:
    if not len(dataset):
        raise DataError("the data set to calibrate on is empty: check --data, --root and --split")
    return HeldPredictions(run, selected(run, dataset), samples, seed, progress, original)


def class_index(run: Run, name: str) -> int:
    """The number of a class of a run by its name.

    Raises:
        ConfigError: If there is no such class.
    """
    names: tuple[str, ...] = getattr(run.task, "names", ())
    if name not in names:
        raise ConfigError(f"there is no class {name!r}: expected one of {', '.join(names) or 'none, values have none'}")
    return names.index(name)


def _check(held: HeldPredictions, kind: CalibratorClass, run: Run) -> CalibrationReport:
    """Scores of each half, with a calibrator that is fitted on the other half."""
    before, after = run.single_task.scores(), run.single_task.scores()
    halves = range(len(held) // 2), range(len(held) // 2, len(held))  # blocks, because frames resemble their neighbors
    if not all(halves):
        return CalibrationReport({}, {})
    try:
        fitted = [kind.fit(held.of(numbers)) for numbers in reversed(halves)]
    except DataError:  # one half alone has nothing to fit on
        return CalibrationReport({}, {})
    for numbers, calibrator in zip(halves, fitted):
        _score(held.of(numbers), calibrator, before, after)
    return CalibrationReport(_measures(before), _measures(after))


def _score(held: Iterator[HeldOut], calibrator: StoredCalibrator, before: Score, after: Score) -> None:
    for prediction, target, valid in held:
        before.update(prediction, target, valid)
        after.update(calibrator(prediction), target, valid)


def _measures(scores: Score) -> dict[str, float]:
    return {name: float(value) for name, value in scores.compute().items() if name in MEASURES}
