"""Make a run of a network that is already trained, without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sfumato.contracts import Task
from sfumato.data.loading import SelectedDataset
from sfumato.data.transforms import to_float
from sfumato.data.views import Samples, entries_of, subset
from sfumato.errors import ConfigError, RunExistsError, SfumatoError
from sfumato.registry import NO_TRUST, Trust
from sfumato.runs import (
    Config,
    Plan,
    Run,
    build_network,
    load_weights,
    save_weights,
    task_and_likelihood,
    weights_path,
)
from sfumato.runs.checkpoint import load_checkpoint
from sfumato.sections import one_line
from sfumato.tasks import MultiTask
from sfumato.training.folder import PLAN, check_output_dir, locked
from sfumato.training.input_range import AUTO, Labeled, choose, fits, normalizations
from sfumato.training.prepare import make_plan

IMAGES = 8  # labeled images on which the network is checked
VALUES = "l1"  # the likelihood of a network that returns values alone


def wrap(
    config: Config,
    folder: str | Path,
    *,
    network: nn.Module | None = None,
    weights: str | Path = "",
    normalization: str = AUTO,
    method: str = "",
    train: Samples | None = None,
    val: Samples | None = None,
    trust: Trust | bool | str = NO_TRUST,
    progress: bool = True,
) -> tuple[Run, tuple[str, ...]]:
    """Make a run of a trained network. Nothing is trained: only statistics of the images are read.

    The network is tried on a few labeled images. So its channels, its input range, the order of its classes and
    probabilities in the place of logits are noticed.

    Args:
        config: Data, task, network and its arguments, ``output``, ``size``, ``samples``. Other fields are not used.
        folder: Folder of the run. It must not hold a run.
        network: The trained network, on any device, if it exists already; then ``config.network`` names what makes an
            equal one, and may be empty if the class of the network does so without further arguments. None to make it
            by ``config.network``. Default None.
        weights: A checkpoint of another program, see :func:`~sfumato.runs.checkpoint.read_checkpoint`. Empty for
            the weights that the network is made with.
        normalization: How images are given to the network: ``imagenet`` (standardized), ``unit`` ([0, 1]),
            ``symmetric`` ([−1, 1]), ``bytes`` ([0, 255]), ``data`` (standardized by the training images), or ``auto``
            for the one with which the network fits the labeled images best. Default ``auto``.
        method: Name of a method. Empty for ``mc-dropout`` if the network has dropout, else ``deterministic``.
        train: Training images. None to load them by ``config.data``.
        val: Validation images, if ``train`` is given. None for none; then training images are used for the check.
        trust: Further class paths outside this package that may be imported. Those in ``config`` are trusted.
        progress: Whether a bar is shown. Default True.

    Returns:
        The run, on the device of the network, and what was found, one sentence each.

    Raises:
        ConfigError: If the network cannot be made, or its output does not fit the task.
        DataError: If the checkpoint or the data cannot be read.
        RunError: If the checkpoint is of another network.
        RunExistsError: If the folder holds a run.
    """
    folder, trusted = Path(folder), Trust.of(trust)
    if (folder / PLAN).exists():
        raise RunExistsError(f"{folder} holds a run already: choose another folder with --out")
    if config.tasks:
        raise ConfigError("tasks is given: a network of several tasks cannot be wrapped, name one with --task")
    if network is not None and not config.network:
        config = replace(config, network=f"{type(network).__module__}.{type(network).__qualname__}")
    if not config.network:
        raise ConfigError("no network is named: give its class path, as in --network my_package.Net")
    config = replace(config, method=method or "deterministic", members=1, epochs=1, init_from="")
    place = torch.device("cpu") if network is None else _device(network)
    with _on_cpu(network):
        run, notes = _made(config, folder, network, weights, normalization, method, train, val, trusted, progress)
    return run.to(place), notes


def _made(
    config: Config,
    folder: Path,
    network: nn.Module | None,
    weights: str | Path,
    normalization: str,
    method: str,
    train: Samples | None,
    val: Samples | None,
    trusted: Trust,
    progress: bool,
) -> tuple[Run, tuple[str, ...]]:
    """The run on the CPU, where the network is tried. Arguments as of :func:`wrap`."""
    plan, train, val = make_plan(config, train, val, trusted, "cpu", progress, network=network, value_likelihood=VALUES)
    check_output_dir(plan, folder, resume=False)
    plan = replace(plan, facts=replace(plan.facts, scales={}))  # the output is the value, not a standardized one
    task, likelihood = task_and_likelihood(plan)
    assert not isinstance(task, MultiTask)
    made = build_network(plan, likelihood, network).network
    unused = load_checkpoint(made, weights) if weights else ()
    notes = [f"the file holds weights that the network lacks, such as {unused[0]} ({len(unused)})"] if unused else []
    images = subset(val if val is not None and len(val) else train, IMAGES)
    labeled = _labeled(plan, task, images)
    found = fits(plan, made, labeled)
    name, more = choose(found, normalization, task)
    chosen = method or ("mc-dropout" if _has_dropout(made) else "deterministic")
    facts = replace(plan.facts, normalization=normalizations(plan)[name])
    plan = replace(plan, config=replace(plan.config, method=chosen), facts=facts)
    whole = build_network(plan, likelihood, made).eval()
    with locked(folder):
        check_output_dir(plan, folder, resume=False)
        save_weights(whole, weights_path(folder, 0))
        plan.save(folder / PLAN)
    run = Run(folder, plan, task, likelihood, (whole,))
    again = [] if network is None else _opened_again(run, labeled[0][0])
    return run, (*notes, *more, f"the method is {chosen}", *again)


def _device(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))


@contextmanager
def _on_cpu(network: nn.Module | None) -> Iterator[None]:
    """Keep a network on the CPU, and take it back to its device afterwards."""
    if network is None:
        yield
        return
    place = _device(network)
    try:
        network.to("cpu")
        yield
    finally:
        network.to(place)


def _opened_again(run: Run, inputs: tuple[Tensor, ...]) -> list[str]:
    """What a person should know if the network that the plan names, with the stored weights, is not the one wrapped."""
    if run.config.network.startswith("__main__."):
        return [f"only this script can open {run.folder}, because the class of the network is in it: give it a module"]
    advice = 'name a function that makes this network, as in network="my_package.make"'
    try:
        network = build_network(run.plan, run.likelihood).eval()
        load_weights(network, weights_path(run.folder, 0))
        with torch.no_grad():
            same = torch.allclose(network(*inputs), run.networks[0](*inputs), rtol=1e-3, atol=1e-3)
    except (SfumatoError, RuntimeError) as error:
        return [f"{run.folder} cannot be opened again, use the run that is returned, or {advice} ({one_line(error)})"]
    other = f"{run.folder} opens as another network, because {run.config.network} made anew differs: {advice}"
    return [] if same else [other]


def _labeled(plan: Plan, task: Task, images: Samples) -> Labeled:
    """Inputs, target and mask of images, at the size that the network sees."""
    kinds, found = entries_of(images, [task]), []
    for sample in (SelectedDataset(images, plan.facts.inputs, [task])[index] for index in range(len(images))):
        ready = to_float({key: value[None] for key, value in sample.items() if isinstance(value, Tensor)}, kinds)
        target, valid = task.target_and_mask(ready)
        found.append((tuple(ready[name] for name in plan.facts.inputs), target, valid))
    return found


def _has_dropout(network: nn.Module) -> bool:
    return any(isinstance(module, _DropoutNd) and module.p > 0 for module in network.modules())
