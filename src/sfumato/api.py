"""The whole package in a few calls: fit, evaluate, calibrate, predict, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from torch import nn

from sfumato import runs
from sfumato.contracts import DataSet
from sfumato.errors import ConfigError
from sfumato.registry import Trust
from sfumato.runs import Config
from sfumato.storage import check_writable

if TYPE_CHECKING:
    from sfumato.evaluation import CalibrationReport, Comparison, Evaluation

__all__ = ["Run", "compare", "fit", "wrap"]

Data = str | Path | DataSet
Option = Any
"""An argument that is passed on to the function that the docstring names, which declares its type."""


class Run(runs.Run):
    """A finished run, with what can be done with it as methods. Its fields are those of :class:`sfumato.runs.Run`."""

    def evaluate(
        self, data: Data = "", *, split: str = "val", ood: Data | None = None, **options: Option
    ) -> Evaluation:
        """Score every valid pixel of a data set once, and store the result in the folder of the run.

        Args:
            data: A data set, its name, or a folder with ``sfumato.yaml``. Empty for the run's own data.
            split: Which part of the data, if it is given by name. Default ``val``.
            ood: A data set out of distribution to compare with, or ``DATA:SPLIT``. Default: none.
            **options: Arguments of :func:`sfumato.evaluation.evaluate`.

        Returns:
            The scores of each task, with 95 % intervals.
        """
        from sfumato.evaluation import FILE, evaluate, ood_dataset

        check_writable(self.folder / FILE)
        dataset, recorded = self._data(data, split)
        other = ood_dataset(self, str(ood)) if isinstance(ood, str | Path) else ood
        if isinstance(ood, str | Path):
            recorded["ood_name"] = str(ood)
        found = evaluate(self, dataset, ood=other, **{**recorded, **options})
        if found is None:
            raise ConfigError("evaluate returned nothing in this process: only the process of rank 0 has the result")
        found.save(self.folder / FILE)
        return found

    def calibrate(
        self, data: Data = "", method: str = "", *, split: str = "val[:50%]", **options: Option
    ) -> CalibrationReport:
        """Fit a calibrator on held-out images and store it with the run. Open the run again to use it.

        Args:
            data: As of :meth:`evaluate`.
            method: Name of the calibrator. Empty for the first one of the task.
            split: Which part of the data, if it is given by name. Default ``val[:50%]``.
            **options: Arguments of :func:`sfumato.evaluation.calibrate`.

        Returns:
            Scores before and after, on images that the calibrator was not fitted on.
        """
        from sfumato.evaluation import calibrate

        return calibrate(self, self._data(data, split)[0], method, **options)[1]

    def calibrated_copy(self) -> Self:
        """The same run with the calibrator and the conformal sets that are stored in its folder now."""
        return self.with_fitted().to(self.device)

    def fit_conformal(
        self, data: Data = "", level: float = 0.9, *, split: str = "val[:50%]", **options: Option
    ) -> Self:
        """Fit conformal sets or intervals on held-out images and store them with the run.

        Args:
            data: As of :meth:`evaluate`.
            level: 1 − the allowed risk. Default 0.9.
            split: Which part of the data, if it is given by name. Default ``val[:50%]``.
            **options: Arguments of :func:`sfumato.evaluation.fit_conformal`.

        Returns:
            The run with its conformal sets.
        """
        from sfumato.evaluation import fit_conformal

        return cast(Self, fit_conformal(self, self._data(data, split)[0], level, **options))

    def report(self, path: str | Path = "", **options: Option) -> Path:
        """Write one HTML page about the run, which must have been evaluated.

        Args:
            path: The page. Empty for ``report.html`` in the folder of the run.
            **options: Arguments of :func:`sfumato.report.write_report`.

        Returns:
            The path of the page.
        """
        from sfumato.evaluation import FILE, Evaluation, evaluated_data
        from sfumato.report import write_report

        found = Evaluation.load(self.folder / FILE)
        dataset, ood = evaluated_data(self, found)
        return write_report(self, found, dataset, Path(path or self.folder / "report.html"), ood=ood, **options)

    def distill(self, out: str | Path, data: Data = "", **options: Option) -> Self:
        """Train a student that gives this run's uncertainty in one pass.

        Args:
            out: Folder of the student.
            data: Training images. Empty for the run's own.
            **options: Arguments of :func:`sfumato.distillation.distill`.

        Returns:
            The student.
        """
        from sfumato.distillation import distill

        train = self._data(data, "train")[0]
        student = distill(self, train, None, out, **options)
        return type(self).open(student.folder, device=self.device, trust=self.plan.trust)

    def export(self, path: str | Path = "", **options: Option) -> Path:
        """Write the run as one ONNX file that needs neither torch nor this package.

        Args:
            path: The file. Empty for ``model.onnx`` in the folder of the run.
            **options: Arguments of :func:`sfumato.serving.export`.

        Returns:
            The path of the file.
        """
        from sfumato.serving import export

        path = Path(path or self.folder / "model.onnx")
        export(self, path, **options)
        return path

    def predictor(self) -> runs.Predictor:
        """What predicts inputs of any size."""
        return runs.Predictor(runs.RunBackend(self))

    def _data(self, data: Data, split: str) -> tuple[DataSet, dict[str, str]]:
        from sfumato.evaluation import dataset_for

        if not isinstance(data, str | Path):
            return data, {}
        return dataset_for(self, str(data), "", split), {"data": str(data) or self.config.data, "split": split}


def fit(
    data: Data | tuple[DataSet, DataSet | None] = "scenes",
    *,
    out: str | Path,
    trust: Trust | bool | str = "",
    **choices: Option,
) -> Run:
    """Train a network, or an ensemble of them, and leave a run.

    Args:
        data: Name of a data set, a folder with ``sfumato.yaml``, a data set, or a pair of data sets for training and
            validation. Default: generated scenes.
        out: Folder of the run. It must not hold a run yet.
        trust: Class paths outside this package that may be imported beside those named here. Default: none.
        **choices: ``task``, ``likelihood``, ``method`` and all other fields of :class:`sfumato.runs.Config`; and
            arguments of :func:`sfumato.training.fit` such as ``resume``, ``device``, ``progress``, ``workers``.

    Returns:
        The run.

    Raises:
        ConfigError: For a choice that does not exist or cannot be met.
        RunExistsError: If ``out`` holds a run and ``resume`` is not True.
    """
    from sfumato import training

    train, val = data if isinstance(data, tuple) else (data, None)
    named = isinstance(train, str | Path)
    known = {field.name for field in fields(Config)}
    config = Config(
        data=str(train) if named else type(train).__name__,
        **{name: value for name, value in choices.items() if name in known},
    )
    options = {name: value for name, value in choices.items() if name not in known}
    plan, train, val = training.make_plan(
        config, None if named else train, val, Trust.of(trust), options.get("device", "auto")
    )
    found = training.fit(plan, train, val, Path(out), **options)
    return Run.open(found.folder, device=found.device, trust=plan.trust)


def wrap(
    network: nn.Module | str,
    data: Data | tuple[DataSet, DataSet | None],
    *,
    out: str | Path,
    weights: str | Path = "",
    normalization: str = "auto",
    method: str = "",
    trust: Trust | bool | str = "",
    progress: bool = True,
    **choices: Option,
) -> Run:
    """Make a run of a network that is already trained, without training it.

    What was found out about the network is printed, one line each.

    Args:
        network: The trained network, or the class path of one. Opening the run again makes the network anew by its
            class path, so a network that needs arguments is named by a function: ``network="my_package.make"``.
        data: Name of a data set, a folder with ``sfumato.yaml``, a data set, or a pair of data sets for training and
            validation. Its images are read, not trained on.
        out: Folder of the run. It must not hold a run yet.
        weights: Checkpoint of the network. Empty for the weights that it has.
        normalization: As of :func:`sfumato.training.wrap`. Default ``auto``.
        method: As of :func:`sfumato.training.wrap`.
        trust: Class paths outside this package that may be imported beside those named here. Default: none.
        progress: Whether a bar is shown. Default True.
        **choices: ``task``, ``output``, ``size``, ``samples`` and other fields of :class:`sfumato.runs.Config`.

    Returns:
        The run.

    Raises:
        ConfigError: If the network's output does not fit the task.
        RunError: If the checkpoint is of another network.
    """
    from sfumato import training

    train, val = data if isinstance(data, tuple) else (data, None)
    named = isinstance(train, str | Path)
    module = None if isinstance(network, str) else network
    config = Config(
        data=str(train) if named else type(train).__name__,
        network=network if isinstance(network, str) else "",
        **choices,
    )
    found, notes = training.wrap(
        config, out, network=module, weights=weights, normalization=normalization, method=method,
        train=None if named else train, val=val, trust=trust, progress=progress,
    )  # fmt: skip
    for note in notes:
        training.print_rank_zero(note)
    return Run(**{field.name: getattr(found, field.name) for field in fields(found)})


def compare(
    candidates: Sequence[runs.Run] | Mapping[str, runs.Run | Sequence[runs.Run]],
    data: Data = "",
    *,
    split: str = "val",
    **options: Option,
) -> Comparison:
    """Score several runs on the same images and compare each with the first.

    Args:
        candidates: The runs, by name or in a sequence. A name may stand for several runs that differ in their seed.
        data: A data set, its name, or a folder with ``sfumato.yaml``. Empty for the data of the first run.
        split: Which part of the data, if it is given by name. Default ``val``.
        **options: Arguments of :func:`sfumato.evaluation.compare`.

    Returns:
        Scores with intervals, and differences to the first run with paired intervals by image.
    """
    from sfumato import evaluation

    named = next(iter(candidates.values())) if isinstance(candidates, Mapping) else candidates[0]
    first = named if isinstance(named, runs.Run) else named[0]
    dataset = evaluation.dataset_for(first, str(data), "", split) if isinstance(data, str | Path) else data
    return evaluation.compare(candidates, dataset, **options)
