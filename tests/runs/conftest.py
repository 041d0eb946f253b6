"""Run folders made by hand, without training."""

from dataclasses import replace

import pytest
import torch

from sfumato.data import Scenes
from sfumato.runs import Config, Facts, Plan, build_network, save_weights, task_and_likelihood, weights_path

NORMAL = {"image": {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}


def plan_for(task="classes", **choices):
    """The plan of a small network on small scenes."""
    scenes = Scenes(4, size=(16, 24))
    facts = Facts(
        normalization=NORMAL,
        original_size=(16, 24),
        images=4,
        counts=(1, 1),
        fingerprint="0",
        task_args={task: vars(scenes.tasks[task])},
    )
    known = {"network_args": {"widths": (4, 8), "dropout": 0.2}, "size": (16, 24), "crop": (16, 24), "epochs": 1}
    config = Config(task=task, members=choices.pop("members", 1), samples=3, **{**known, **choices})
    return Plan(replace(config, likelihood=config.likelihood or scenes.tasks[task].default_likelihood), facts)


def written(plan, folder):
    """A run folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    plan.save(folder / "plan.yaml")
    _, likelihood = task_and_likelihood(plan)
    for member in range(plan.networks):
        torch.manual_seed(member)
        save_weights(build_network(plan, likelihood), weights_path(folder, member))
    return folder


@pytest.fixture
def make_plan():
    return plan_for


@pytest.fixture
def make_run(tmp_path):
    def make(task="classes", name="run", **choices):
        return written(plan_for(task, **choices), tmp_path / name)

    return make


@pytest.fixture
def write_run():
    return written
