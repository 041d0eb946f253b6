"""Calibrate a run on held-out images, and keep the result in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from sfumato import storage
from sfumato.training.run import CALIBRATOR, CONFORMAL, Run


def calibrate(
    run: Run, dataset: Dataset, name: str = "", *, samples: int | None = None, seed: int = 0, progress: bool = True
) -> Run:
    """Fit a calibrator on every image of ``dataset`` and keep it with the run; a guarantee kept before is void.

    Args:
        run: as it was trained; a calibrator it has is replaced.
        dataset: images it was not trained on, at the size of the run's plan.
        name: one of the task's ``calibrators``; empty for the first.
        samples: of MC dropout; None for the plan's.
        seed: of the draws.
        progress: whether to show a bar.

    Returns:
        The run with its calibrator.

    Raises:
        ValueError: for an unknown name, or data that nothing can be learned from.
    """
    known = run.task.calibrators
    if name and name not in known:
        raise ValueError(f"{name!r} is not a calibrator of {run.plan.task}: expected one of {', '.join(known)}")
    names: list[str] = []
    bare = replace(run, calibrator=None, conformal=None)
    fitted = run.task.calibrator(name or known[0]).fit(held(bare, dataset, names, samples, seed, progress))
    forget(run)
    return replace(bare, calibrator=kept(fitted, names, run.file(CALIBRATOR)))


def fit_conformal(
    run: Run,
    dataset: Dataset,
    level: float = 0.9,
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **arguments: Any,
) -> Run:
    """Fit the sets or intervals of a run, as it is calibrated, on every image of ``dataset`` and keep them with it.

    Args:
        run: with the calibrator it has, if any.
        dataset: images neither trained nor calibrated on.
        level: 1 − the risk allowed.
        samples: of MC dropout; None for the plan's.
        seed: of the draws.
        progress: whether to show a bar.
        **arguments: of the guarantee's ``fit``.

    Returns:
        The run with its guarantee.

    Raises:
        ValueError: if images are too few, or the calibrator has seen them.
    """
    names: list[str] = []
    fitted = run.task.conformal.fit(held(run, dataset, names, samples, seed, progress), level, **arguments)
    return replace(run, conformal=kept(fitted, names, run.file(CONFORMAL)))


def forget(run: Run) -> Run:
    """The run as it was trained: its calibrator and its guarantee are deleted."""
    for name in (CALIBRATOR, CONFORMAL):
        run.file(name).unlink(missing_ok=True)
    return replace(run, calibrator=None, conformal=None)


def kept(fitted: Any, names: list[str], path: Path) -> Any:
    """The same with the names of the images it has seen, saved."""
    fitted = replace(fitted, fitted_on=tuple(names))
    storage.save(fitted, path)
    return fitted


def held(
    run: Run, dataset: Dataset, names: list[str], samples: int | None, seed: int, progress: bool
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Predictions, targets and masks of one image after another, whose names are added to ``names``."""
    every = range(len(dataset))  # pyright: ignore[reportArgumentType]
    for index in track(every, "predict", disable=not progress, transient=True):
        sample = dataset[index]
        names.append(run.check_calibration_leak(sample["name"], sample["image"]))
        target, valid = run.task.target_and_mask(run.task.entries(sample))
        prediction = run.predict(sample["image"][None], samples=samples, seed=seed, index=index)
        yield prediction, target[None], valid[None]
