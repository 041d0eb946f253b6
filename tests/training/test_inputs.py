"""Networks with several inputs, objectives without targets, values of whole images."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, UntrustedCodeError
from sfumato.runs import Config, Run
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
CODE = '''
import torch
from torch import nn
from sfumato.objectives import BaseObjective


class Two(nn.Module):
    """Both views in one stack of channels."""

    def __init__(self, channels):
        super().__init__()
        first, last = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, channels, 1)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), last)

    def forward(self, image, right):
        return self.layers(torch.cat([image, right], 1))


class Match(BaseObjective):
    """The predicted value is the brightness of another picture of the sample: no target is needed."""

    needs_targets = False
    further = ("next",)

    def __init__(self, task, likelihood, inputs, weight=1.0):
        super().__init__(task, likelihood, inputs)
        self.weight = weight
        self.ended = 0

    def forward(self, network, batch):
        assert batch["next"].dtype == torch.float32
        mean = network(*self.inputs_of(batch))[:, :1]
        error = (mean - batch["next"].mean(1, keepdim=True)).abs().mean()
        return {"match": self.weight * error, "size": 0 * mean.mean()}, {"twice": 2 * error}

    def end_epoch(self):
        self.ended += 1
'''


@pytest.fixture(autouse=True)
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def config(**choices):
    usual = {
        "epochs": 2,
        "batch": 2,
        "samples": 2,
        "scale": (1.0, 1.0),
        "color": 0.0,
        "network_args": {"widths": (4, 6), "dropout": 0.2},
    }
    return Config(**{**usual, **choices})


def fitted(folder, chosen, train, val=None):
    plan, train, val = make_plan(chosen, train, val, device="cpu")
    return fit(plan, train, val, folder, progress=False, device="cpu")


class Stereo(Dataset):
    inputs = ("image", "right")
    tasks = Scenes(1, size=(16, 24)).tasks

    def __init__(self, count=4, lacks=()):
        self.whole, self.lacks = Scenes(count, size=(16, 24), views=True), lacks

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        return {key: value for key, value in self.whole[index].items() if not key.startswith(self.lacks or ("-",))}


def test_a_network_with_two_inputs(tmp_path):
    run = fitted(tmp_path / "run", config(network="own_code.Two", network_args={}), Stereo(), Stereo(2))
    assert run.facts.inputs == ("image", "right")
    opened = Run.open(run.folder, trust="own_code")
    sample = Stereo()[0]
    found = opened.predict(*opened.inputs_of(sample), seed=1)
    assert torch.equal(found.probs, run.predict(*run.inputs_of(sample), seed=1).probs)
    other = opened.predict(sample["image"][None], sample["image"][None], seed=1)
    assert not torch.equal(found.probs, other.probs)
    with pytest.raises(UntrustedCodeError):
        Run.open(run.folder)


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(DataError, match="has no tensor 'right'"):
        fitted(tmp_path / "run", config(network="own_code.Two", network_args={}), Stereo(lacks=("right",)))


class Frames(Dataset):
    """Pairs of frames, and nothing else."""

    def __init__(self, count=4):
        self.whole = Scenes(count, size=(16, 24), views=True)

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return {key: sample[key] for key in ("name", "image", "next")}


CHOICES = {
    "task": "inverse_depth",
    "likelihood": "l1",
    "objective": "own_code.Match",
    "objective_args": {"weight": 3.0},
}


def test_an_objective_that_needs_no_targets(tmp_path):
    run = fitted(tmp_path / "run", config(**CHOICES, epochs=25, learning_rate=0.03), Frames(), Frames(2))
    rows = (run.folder / "log/member-0/metrics.csv").read_text().splitlines()
    first, last = (dict(zip(rows[0].split(","), row.split(","))) for row in (rows[1], rows[-1]))
    assert float(last["train_match"]) < 0.5 * float(first["train_match"])
    assert float(last["train_loss"]) == pytest.approx(float(last["train_match"]))
    assert float(last["twice"]) == pytest.approx(2 * float(last["train_match"]) / 3, rel=1e-4)
    assert float(last["val_match"]) > 0
    assert run.facts.scales["inverse_depth"] == pytest.approx((0.5, 12**-0.5))  # a uniform one over the task's range
    assert "val_nll" not in last


def test_an_objective_that_needs_targets_refuses_data_without(tmp_path):
    with pytest.raises(DataError, match=r"no pixel.*valid inverse_depth"):
        fitted(tmp_path / "run", config(**{**CHOICES, "objective": "", "objective_args": {}}), Frames())


def test_arguments_of_an_objective_are_checked(tmp_path):
    with pytest.raises(ConfigError, match=r"Match cannot be built with.*power"):
        fitted(tmp_path / "run", config(**{**CHOICES, "objective_args": {"power": 2}}), Frames())
    with pytest.raises(ConfigError, match=r"expected a subclass of sfumato.objectives.BaseObjective"):
        fitted(tmp_path / "run", replace(config(**CHOICES), objective="own_code.Two"), Frames())
