"""Small runs with random weights: all that evaluating and calibrating needs."""

from pathlib import Path

import pytest
import torch

from sfumato.data import Scenes
from sfumato.runs import Config, Facts, Plan, Run, build_network, save_weights, task_and_likelihood, task_arguments
from sfumato.runs.network import weights_path
from sfumato.runs.plan import FILE

SIZE = (16, 24)


def scenes(count, seed, **choices):
    return Scenes(count, size=SIZE, seed=seed, **choices)


def make_run(folder, tasks=("classes",), likelihoods=("categorical",), **choices):
    """A run that was never trained: its plan, and the weights that it starts from."""
    several = {"tasks": ",".join(tasks), "weighting": "equal"} if len(tasks) > 1 else {"task": tasks[0]}
    network = {"network_args": {"widths": (4, 8), "dropout": 0.2}} if len(tasks) == 1 else {}
    config = Config(**several, **network, likelihood=",".join(likelihoods), method="mc-dropout", members=1, samples=3,
                    size=SIZE, crop=SIZE, epochs=1)  # fmt: skip
    known = scenes(1, 0).tasks
    facts = Facts(original_size=SIZE, images=6, task_args={name: task_arguments(known[name]) for name in tasks},
                  normalization={"image": {"mean": (0.5,) * 3, "std": (0.25,) * 3}})  # fmt: skip
    plan = Plan(Config(**{**vars(config), **choices}), facts)
    folder = Path(folder)
    folder.mkdir(parents=True)
    plan.save(folder / FILE)
    _, likelihood = task_and_likelihood(plan)
    for member in range(plan.networks):
        with torch.random.fork_rng():
            torch.manual_seed(member)
            save_weights(build_network(plan, likelihood), weights_path(folder, member))
    return Run.open(folder)


@pytest.fixture
def make(tmp_path):
    """Makes a run in a folder of its own: ``make(name, tasks, likelihoods)``."""
    return lambda name="run", *args, **choices: make_run(tmp_path / name, *args, **choices)


@pytest.fixture
def run(make):
    """A run of classes."""
    return make()


@pytest.fixture
def images():
    """Makes small scenes: ``images(count, seed, **choices)``."""
    return scenes
