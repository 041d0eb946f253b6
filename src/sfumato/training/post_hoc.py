"""Fit a method to a finished network, without training it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rich.progress import track
from torch import Tensor

from sfumato import registry
from sfumato.contracts import Batch, Task
from sfumato.data.catalog import load_original
from sfumato.data.fingerprint import check_recognized
from sfumato.data.loading import SelectedDataset, loader
from sfumato.data.sizes import CroppedDataset, Region, at_factors
from sfumato.data.transforms import to_float
from sfumato.data.views import Samples, entries_of, subset
from sfumato.errors import ConfigError, RunError
from sfumato.methods.training import MethodTraining
from sfumato.predictions import predict
from sfumato.runs import Plan, Run, weights_path
from sfumato.runs.run import METHOD_STATE
from sfumato.storage import check_finite, read_tensors, tensors_to_file, write_all, write_tensors
from sfumato.training.folder import PLAN, check_output_dir, locked
from sfumato.training.job import choose_workers


def fit_post_hoc(
    run: Run,
    method: str,
    folder: str | Path,
    train: Samples | None = None,
    *,
    samples: int | None = None,
    limit: int = 0,
    progress: bool = True,
) -> Run:
    """Fit a method to the network of a finished run, and leave a new run with the same weights.

    Args:
        run: A run with one network, such as one of ``deterministic`` or ``mc-dropout``. It stays as it is. A calibrator
            of it is not taken over, because the predictions of the new run are others.
        method: Name or class path of a method that needs no training of its own, see :func:`post_hoc_methods`.
        folder: Folder of the new run. It must not hold a run.
        train: The images that the run was trained on, at their original sizes. None to load them by its plan.
        samples: Number of samples of a stochastic method. None for that in the plan.
        limit: Number of training images to use, evenly spread; 0 for as many as the run was trained on. Default 0.
        progress: Whether a bar is shown. Default True.

    Raises:
        ConfigError: If the method has to be trained, takes other networks, or cannot be fitted to several tasks.
        RunError: If other images lie where the run was trained.
        RunExistsError: If the folder holds a run.
    """
    folder = Path(folder)
    trust = run.plan.trust.naming(*(path for path in [method] if "." in path))
    config = replace(run.config, method=method, members=1, samples=samples or run.config.samples)
    plan = Plan(config, run.facts, trust)
    _check(run, plan)
    if limit and not plan.training.needs_training_data:
        raise ConfigError(f"limit is {limit}, but {method} needs no training images: leave it out")
    check_output_dir(plan, folder, resume=False)
    data = train
    if data is None and plan.training.needs_training_data:
        data = load_original(config.data, config.root, "train", config.size, trust, *config.held_out)
        advice = "put those at their place, or fit the run again"
        check_recognized(data, run.facts.fingerprint, run.facts.inputs, config.data, advice)
    state = _state(run, plan, data, limit, progress)
    if data is not None:
        _try(run, plan, state, data)
    with locked(folder):
        check_output_dir(plan, folder, resume=False)
        _write(run, plan, state, folder)
    stored = read_tensors(folder / METHOD_STATE, error=RunError)[0] if state else {}  # as they will be read later
    fitted = {name: tensor.to(run.device) for name, tensor in stored.items()}
    return replace(run, folder=folder, plan=plan, method_state=fitted, calibrator=None, conformal=None)


def post_hoc_methods() -> list[str]:
    """The names of the methods that :func:`fit_post_hoc` takes."""
    found = {name: registry.load("methods", name) for name in registry.names("methods")}
    return [name for name, each in found.items() if isinstance(each, MethodTraining) and _untrained(each)]


def add_method_state(run: Run, train: Samples, progress: bool = True) -> None:
    """Fit the method of a run whose network is trained, and store in its folder what the method needs.

    Args:
        run: A run of a method that is fitted after training.
        train: The images that it was trained on.
        progress: Whether a bar is shown. Default True.

    Raises:
        ConfigError: If the method cannot be fitted to several tasks.
    """
    if run.method_state:
        return
    if state := _state(run, run.plan, train, 0, progress):
        write_tensors(run.file(METHOD_STATE), state)


class TrainingBatches:
    """Batches of crops of training images for a fit: inputs, target and mask on the device of a run.

    Each iteration reads them anew. A crop is as large as those in training, and its place is always the same.

    Args:
        run: The run, whose inputs, task, crop and batch size count.
        dataset: Training images at their original sizes.
        progress: Whether a bar is shown.
    """

    def __init__(self, run: Run, dataset: Samples, progress: bool) -> None:
        self._run, self._task, self._progress = run, run.single_task, progress
        self._kinds = entries_of(dataset, [self._task])
        selected = SelectedDataset(at_factors(dataset, run.plan.factors), run.facts.inputs, [self._task])
        region = Region.of(run.config.crop, 1.0, run.config.size, run.config.seed)
        cropped = CroppedDataset(selected, region, self._kinds)
        self._loader = loader(cropped, run.config.batch, workers=choose_workers(dataset), device=run.device)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in track(self._loader, "fit", len(self), disable=not self._progress, transient=True):
            ready = {key: value.to(self._run.device) for key, value in to_float(batch, self._kinds).items()}
            target, valid = self._task.target_and_mask(ready)
            yield tuple(ready[name] for name in self._run.facts.inputs), target, valid


def _untrained(training: MethodTraining) -> bool:
    """Whether a method takes a network as any training leaves it."""
    hooks = (training.attach, training.penalty, training.after, training.finish, training.loss)
    return training.members == 1 and not training.shared and all(each is None for each in hooks)


def _check(run: Run, plan: Plan) -> None:
    method = plan.config.method
    if not _untrained(plan.training):
        raise ConfigError(
            f"{method} is trained, not fitted to a finished network: use `sfumato fit --method {method}`, or one of "
            f"{', '.join(post_hoc_methods())}"
        )
    if run.prefix:
        raise ConfigError(f"{run.folder} is seen as one of its tasks: give the run of all its tasks")
    if len(run.networks) > 1 or not _untrained(run.plan.training):
        raise ConfigError(
            f"{run.folder} was trained for {run.config.method} and has {len(run.networks)} networks: {method} takes "
            "one network, of a run of deterministic or mc-dropout"
        )


def _state(run: Run, plan: Plan, train: Samples | None, limit: int, progress: bool) -> dict[str, Tensor]:
    """What the method of the plan needs beside the network of the run."""
    training, (network,) = plan.training, run.networks
    if training.fit is None:
        return {}
    batches: Iterable[Batch] = ()
    if training.needs_training_data:
        if run.config.tasks:
            raise ConfigError(
                f"{plan.config.method} is fitted to the targets of one task, but {run.folder} has the tasks "
                f"{run.config.tasks}: train a run of one task"
            )
        assert train is not None
        batches = TrainingBatches(run, subset(train, limit or plan.config.limit), progress)
    state = training.fit(network, batches, run.likelihood, plan.config.samples)
    check_finite(state, f"the method {plan.config.method} for {run.folder}")
    return state


def _try(run: Run, plan: Plan, state: Mapping[str, Tensor], dataset: Samples) -> None:
    """Predict one image, so that a method that finds nothing in the network is refused before anything is written."""
    tasks: list[Task] = list(run.task.parts.values())
    selected = SelectedDataset(at_factors(dataset, run.plan.factors), run.facts.inputs, tasks)
    inputs = run.prepare(*run.inputs_of(selected[0]))
    predict(plan.training.build(run.networks, 1, state), *inputs, likelihood=run.likelihood)


def _write(run: Run, plan: Plan, state: Mapping[str, Tensor], folder: Path) -> None:
    """All files or none. The plan gets its name last, because a folder with a plan is a run."""
    writers: dict[Path, Callable[[Path], object]] = {
        folder / PLAN: plan.save,
        weights_path(folder, 0): lambda part: shutil.copyfile(weights_path(run.folder, 0), part),
    }
    if state:
        writers[folder / METHOD_STATE] = lambda part: tensors_to_file(state, part)
    write_all(writers)
