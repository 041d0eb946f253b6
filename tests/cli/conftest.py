"""Few scenes, and run folders made by hand or by one short training."""

from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch

from sfumato.cli import main
from sfumato.data.scenes import dataset
from sfumato.runs import Config, Facts, Plan, build_network, save_weights, task_and_likelihood, weights_path

SIZE = (16, 24)
QUICK = ["--size=16x24", "--epochs=1", "--limit=6", "--batch=3", "--samples=2", "--quiet", "--device=cpu",
         "--workers=0", '--network-args={"widths": [4, 8], "dropout": 0.2}']  # fmt: skip


@contextmanager
def fewer():
    """The same scenes, fewer of them."""
    with pytest.MonkeyPatch.context() as patch:
        for split, choices in dataset.SPLITS.items():
            patch.setitem(dataset.SPLITS, split, replace(choices, count=8))
        yield


@pytest.fixture(autouse=True)
def few_scenes():
    """Few scenes for each test, and all of them for the tests of other folders."""
    with fewer():
        yield


def write_run(folder, tasks=("classes",), likelihoods=("categorical",), **choices):
    """A run that was never trained."""
    known = dataset.Scenes(1, size=SIZE).tasks
    named = {"tasks": ",".join(tasks), "weighting": "equal"} if len(tasks) > 1 else {"task": tasks[0]}
    config = Config(
        **named, likelihood=",".join(likelihoods), network_args={"widths": (4, 8), "dropout": 0.2}, method="mc-dropout",
        members=1, samples=2, size=SIZE, crop=SIZE, epochs=1, precision="32-true", scale=(1.0, 1.0), color=0.0,
    )  # fmt: skip
    colors = {"image": {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}
    facts = Facts(
        normalization=colors, original_size=SIZE, images=8, counts=(1,), task_args={n: asdict(known[n]) for n in tasks}
    )
    plan = Plan(replace(config, **choices), facts)
    folder.mkdir(parents=True)
    plan.save(folder / "plan.yaml")
    for member in range(plan.networks):
        torch.manual_seed(member)
        save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, member))
    return folder


@pytest.fixture
def make_run(tmp_path):
    """Makes a run folder by hand: ``make_run(name, **choices)``."""
    return lambda name="run", **how: write_run(tmp_path / name, **how)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run that the command line trained for one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with fewer():
        assert main(["fit", "--likelihood", "logit-normal", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture(scope="session")
def trained_boxes(tmp_path_factory):
    """A run of boxes that the command line trained for one epoch by the energy score."""
    folder = tmp_path_factory.mktemp("runs") / "boxes"
    with fewer():
        assert main(["fit", "--task", "boxes", "--objective", "energy", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def quick():
    """Options of a training that takes a moment."""
    return QUICK


@pytest.fixture
def errors(capsys):
    """The lines that the command line printed to the standard error."""
    return lambda: [line for line in capsys.readouterr().err.splitlines() if line.startswith("sfumato:")]
