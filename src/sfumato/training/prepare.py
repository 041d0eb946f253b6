"""From what a person chose to a complete plan and the data to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.progress import track
from torch import nn

from sfumato.contracts import Likelihood, Task
from sfumato.data.catalog import absolute_place, load_original
from sfumato.data.checks import absent_line
from sfumato.data.fingerprint import fingerprint
from sfumato.data.loading import SelectedDataset
from sfumato.data.posed import check_blocks
from sfumato.data.sizes import at_factors
from sfumato.data.stereo_check import check_views
from sfumato.data.views import (
    Samples,
    augmentation_of,
    entries_of,
    folds_of,
    inputs_of,
    lacking_of,
    names_of,
    providing,
    splits_of,
    subset,
    tasks_of,
)
from sfumato.errors import ConfigError, DataError
from sfumato.methods.training import MethodTraining
from sfumato.objectives import build_objective
from sfumato.predictions import TaskPrediction
from sfumato.registry import NO_TRUST, Trust
from sfumato.runs import Config, Facts, Plan, probe_network, resolve_tasks, task_and_likelihood
from sfumato.runs.network import network_arguments
from sfumato.runs.resolve import build_likelihood, build_task
from sfumato.tasks.boxes import GROUPS
from sfumato.training.devices import default_crop, default_size, fast_precision
from sfumato.training.folder import warn_rank_zero
from sfumato.training.job import movable, probe
from sfumato.training.statistics import MOST_IMAGES, Statistics, range_scales, read_statistics

IMAGES_SEEN = 12_000  # the number of images that a default training reads, however many there are
SCALE, COLOR = (0.75, 1.5), 0.2  # augmentation that suits photographs, unless the data set declares another

Prepared = tuple[Plan, Samples, "Samples | None"]


def make_plan(
    config: Config,
    train: Samples | None = None,
    val: Samples | None = None,
    trust: Trust | bool | str = NO_TRUST,
    device: str = "auto",
    progress: bool = False,
    network: nn.Module | None = None,
    value_likelihood: str = "",
) -> Prepared:
    """The complete plan of a training, and its data.

    What the configuration leaves empty is filled in: sizes, normalization, task and likelihood, epochs, precision. At
    most 200 images, evenly spread, are read for it.

    Args:
        config: What a person chose. The class paths in it are trusted.
        train: Training images of any sizes. None to load them by ``config.data``.
        val: Validation images, if ``train`` is given; None for none.
        trust: Further class paths outside this package that may be imported. Default: none.
        device: Where training will run, which decides on size and precision. Default ``auto``.
        progress: Whether a bar is shown. Default False.
        network: The network, if it exists already. None to make it by ``config.network``. Default None.
        value_likelihood: Likelihood of a single task of values, if ``config`` names none. Empty for that of the task.

    Returns:
        The plan, the training data and the validation data (None for none), at the size that the network sees.

    Raises:
        ConfigError: For a choice that does not exist or cannot be met.
        DataError: If no pixel has a target.
        UntrustedCodeError: If the data name code outside this package that is not trusted.
    """
    trusted = Trust.of(trust).naming(*config.code_paths())
    config = _with_members(_absolute(config), trusted)
    _check_used(config, Plan(config, Facts(), trusted).training)
    config, original, train, val = _opened(config, train, val, trusted, device)
    config = _with_group(config, tasks_of(train))
    known = _known_tasks(config, train, trusted)
    _check_videos(config, known, train, val)
    config, task_args = resolve_tasks(_with_likelihood(config, known, value_likelihood), known)
    inputs = inputs_of(train, [known[name] for name in config.task_names])
    config = _told(config, known, trusted) if network is None else config
    facts = Facts(inputs=inputs, original_size=original, images=len(train), task_args=task_args)
    plan = Plan(config, facts, trusted)
    task, likelihood = task_and_likelihood(plan)  # an unknown likelihood or objective is refused before images are read
    objective = build_objective(plan, task, likelihood, trusted)
    read = (*inputs, *task.parts, *objective.further)
    train, val = providing(train, read), None if val is None else providing(val, read)
    if "right" in read:
        check_views(train[0])
    found = _statistics(plan, task.parts, train, progress)
    _check_counts(task.parts, found, train, objective.needs_targets)
    _check_planes(plan, task.parts, found)
    facts = replace(
        facts,
        normalization=found.normalization,
        counts=tuple(next(iter(found.counts.values())).tolist()),
        scales=found.scales if objective.needs_targets else range_scales(task.parts, _likelihoods(plan, task.parts)),
        fingerprint=fingerprint(train, facts.inputs),
    )
    config = _completed(_unmoved(config, objective.moves, movable(task)), train, device)
    plan = replace(plan, config=config, facts=facts)
    return with_network_facts(plan, train, network), train, val


def with_network_facts(plan: Plan, train: Samples, network: nn.Module | None = None) -> Plan:
    """The plan with what its network takes and returns, see :func:`sfumato.runs.probe_network`.

    Raises:
        ConfigError: If the network cannot be made, takes no image, or returns what no likelihood reads.
    """
    task, likelihood = task_and_likelihood(plan)
    inputs = probe(train, entries_of(train, list(task.parts.values())), plan)
    found, notes = probe_network(plan, likelihood, inputs, network)
    for note in notes:
        warn_rank_zero(note)
    return found


def _absolute(config: Config) -> Config:
    """The configuration with absolute paths, so that the run can be opened from any folder."""
    data, root = absolute_place(config.data, config.root)
    paths = {name: str(Path(path).absolute()) for name in ("init_from", "teacher") if (path := getattr(config, name))}
    return replace(config, data=data, root=root, **paths)


def _with_members(config: Config, trust: Trust) -> Config:
    usual = Plan(config, Facts(), trust).training.members
    if config.members > 1 and usual == 1:
        raise ConfigError(
            f"members is {config.members}, but {config.method} has one network: leave it out, or use --method ensemble"
        )
    return replace(config, members=config.members or usual)


def _check_used(config: Config, training: MethodTraining) -> None:
    """Refuse choices that the method or the number of tasks would leave without effect.

    Raises:
        ConfigError: If there is one.
    """
    usual = Config()
    if config.weight_decay != usual.weight_decay and training.penalty is not None:
        raise ConfigError(f"weight_decay is {config.weight_decay}, but {config.method} has a prior in its place")
    if config.ema != usual.ema and training.rate is not None:
        raise ConfigError(
            f"ema is {config.ema}, but {config.method} does not average weights in that way: leave it out"
        )
    if config.log_variance and not config.tasks:
        raise ConfigError(f"log_variance is {config.log_variance}, which is for several tasks: leave it out")


def _opened(
    config: Config, train: Samples | None, val: Samples | None, trust: Trust, device: str
) -> tuple[Config, tuple[int, int], Samples, Samples | None]:
    """The configuration with its size, the original size, and the data at that size."""
    if train is None:
        train = load_original(config.data, config.root, "train", config.size, trust, *config.held_out)
        if config.fold < 0 and folds_of(train):
            warn_rank_zero(
                f"{config.data} has the folds 0 to {folds_of(train) - 1}: without --fold all images are trained on, "
                "and none is left to evaluate on"
            )
        has_val = "val" in (splits_of(train) or ("val",))
        val = load_original(config.data, config.root, "val", config.size, trust, *config.held_out) if has_val else None
    elif config.fold >= 0:
        raise ConfigError("fold is for data that are opened by name: give the images of the fold as val")
    original = _size(train)
    size = config.size if any(config.size) else default_size(original)
    if size != original and not any(config.size):
        warn_rank_zero(
            f"the images are large ({original[0]} × {original[1]}): the network sees them at {size[0]} × {size[1]}. "
            "Scores and predictions are of the original size. Choose another size with --size HEIGHT WIDTH"
        )
    factors = size[0] / original[0], size[1] / original[1]
    val = None if val is None else at_factors(val, factors)
    return replace(config, size=size), original, at_factors(train, factors), val


def _size(dataset: Samples) -> tuple[int, int]:
    """Height and width of the first input that is a map."""
    if not len(dataset):
        raise DataError("the training data hold no image: check --data and --root")
    sample, entries = dataset[0], entries_of(dataset)
    for name in inputs_of(dataset):
        value = sample.get(name)
        if name in entries and entries[name].is_map and value is not None and not isinstance(value, str):
            return value.shape[-2], value.shape[-1]
    raise DataError(f"the first training sample has no map among the inputs {', '.join(inputs_of(dataset))}")


def _known_tasks(config: Config, train: Samples, trust: Trust) -> Mapping[str, Task]:
    """The tasks of the data. Data that declare none can be given the tasks that the configuration names."""
    names = [name for name in config.task_names if name]
    if known := tasks_of(train):
        for name, reason in lacking_of(train).items():
            if name in names and name not in known:
                raise ConfigError(f"{config.data} has no task {name!r}: {reason}")
        return known
    if not names:
        raise ConfigError("the data declare no task: name one with --task, or give the data set the attribute tasks")
    return {name: build_task(name, {}, trust) for name in names}


def _with_group(config: Config, known: Mapping[str, Task]) -> Config:
    """The configuration with several tasks in the place of a name that stands for them, such as ``boxes``.

    Data whose first task is one of such a group are learned with the whole group, unless a task is named.
    """
    first = next(iter(known), "")
    unnamed = not (config.task or config.tasks)
    for name, members in GROUPS.items():
        if config.task == name or (unnamed and first in members):
            return replace(config, task="", tasks=",".join(members))
    return config


def _with_likelihood(config: Config, known: Mapping[str, Task], value_likelihood: str) -> Config:
    """The configuration with this likelihood, if it names none and its only task is one of values."""
    task = known.get(config.task) if config.task else next(iter(known.values()), None)
    fits = task is not None and task.kind == "value" and not (config.likelihood or config.tasks)
    return replace(config, likelihood=value_likelihood) if fits else config


def _check_videos(config: Config, known: Mapping[str, Task], train: Samples, val: Samples | None) -> None:
    """Refuse to validate poses on frames that lie between training frames of a video."""
    names = [name for name in config.task_names if name] or list(known)[:1]
    if val is not None and not all(getattr(known[name].target, "movable", True) for name in names if name in known):
        check_blocks(names_of(train), names_of(val), config.data or "the data")


def _told(config: Config, known: Mapping[str, Task], trust: Trust) -> Config:
    """The configuration with the network of its task, if it names none, and with what its tasks tell the network.

    Tasks tell the number of planes, for example, to a network that has such an argument.
    """
    if not config.network and not config.tasks:
        config = replace(config, network=getattr(known[config.task], "default_network", ""))
    offered = {
        key: value for name in config.task_names for key, value in getattr(known[name], "network_args", {}).items()
    }
    taken = {key: offered[key] for key in network_arguments(config, trust) if key in offered}
    return replace(config, network_args={**taken, **config.network_args})


def _check_planes(plan: Plan, tasks: Mapping[str, Task], found: Statistics) -> None:
    """Refuse a network with fewer planes than the data need."""
    planes = plan.config.network_args.get("planes")
    for name, task in tasks.items():
        largest = found.largest.get(name, 0.0)
        if hasattr(task, "planes") and isinstance(planes, int) and largest > planes - 1:
            raise ConfigError(
                f"the training images have {name} up to {largest:.1f}, but the network has {planes} planes, from 0 to "
                f"{planes - 1}: declare the largest {name} in the data, or make the images smaller with --size"
            )


def _statistics(plan: Plan, tasks: Mapping[str, Task], train: Samples, progress: bool) -> Statistics:
    facts = plan.facts
    used = subset(train, plan.config.limit)
    read = SelectedDataset(subset(used, MOST_IMAGES), facts.inputs, list(tasks.values()))
    samples = (read[index] for index in track(range(len(read)), "read images", disable=not progress, transient=True))
    entries = entries_of(train, list(tasks.values()))
    return read_statistics(samples, facts.inputs, tasks, _likelihoods(plan, tasks), entries)


def _likelihoods(plan: Plan, tasks: Mapping[str, Task]) -> dict[str, Likelihood[TaskPrediction]]:
    """The likelihood of each task, not standardized."""
    config = plan.config
    names = dict(zip(config.task_names, config.likelihood_names, strict=True))
    return {
        name: build_likelihood(names[name], task, plan.trust, taught=bool(config.teacher))
        for name, task in tasks.items()
    }


def _check_counts(tasks: Mapping[str, Task], found: Statistics, train: Samples, needed: bool) -> None:
    """Refuse a task without a target, and name classes without a pixel."""
    for name, task in tasks.items():
        if needed and not int(found.counts[name].sum()):
            raise DataError(f"no pixel of the training images that were read has a valid {name}: check the labels")
        if line := absent_line(task, found.counts[name], train):
            warn_rank_zero(line)


def _unmoved(config: Config, moves: bool, whole: bool) -> Config:
    """The configuration without a zoom if the objective knows where cameras are, and without crops for poses.

    Args:
        config: The configuration.
        moves: Whether the objective allows zoomed images.
        whole: Whether targets are known in zoomed and cut images.

    Raises:
        ConfigError: If it has a zoom or a crop that is not possible.
    """
    if (not moves or not whole) and config.scale not in ((0.0, 0.0), (1.0, 1.0)):
        raise ConfigError(
            f"scale is {config.scale}, but {config.objective or config.task} knows where cameras are, and none of them "
            "sees a zoomed image: leave it out"
        )
    if not whole and any(config.crop) and config.crop != config.size:
        raise ConfigError(
            f"crop is {config.crop}, but the {config.task} of a part of an image is not known: leave it out"
        )
    config = config if moves and whole else replace(config, scale=(1.0, 1.0))
    return config if whole else replace(config, crop=config.size)


def _completed(config: Config, train: Samples, device: str) -> Config:
    suits = augmentation_of(train)
    used = min(config.limit, len(train)) or len(train)
    return replace(
        config,
        crop=config.crop if any(config.crop) else default_crop(config.size, device),
        scale=config.scale if any(config.scale) else cast("tuple[float, float]", tuple(suits.get("scale", SCALE))),  # pyright: ignore[reportArgumentType] # data sets declare two numbers
        color=config.color if config.color >= 0 else float(cast(float, suits.get("color", COLOR))),
        epochs=config.epochs or max(1, round(IMAGES_SEEN / used)),
        precision=config.precision or fast_precision(device),
    )
