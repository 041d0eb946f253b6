"""Training as a new user wants it: rare classes, a limit of time, logs that other programs show, and the report."""

import csv

import pytest

from sfumato.data import Scenes
from sfumato.runs import Config
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(train=None, **choices):
    usual = {"network_args": {"widths": (4, 8), "dropout": 0.2}, "epochs": 2, "batch": 2, "samples": 2, "color": 0.0}
    return make_plan(Config(**{**usual, **choices}), train or scenes(), device="cpu")[0]


def fitted(folder, known, val=None, **how):
    return fit(known, scenes(), val, folder, device="cpu", **{"progress": False, **how})


def rows(folder, member=0):
    with (folder / f"log/member-{member}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("objective", "arguments", "losses"),
    [
        ("weighted-nll", {}, {"train_weighted_nll"}),
        ("sum", {"nll": 1, "dice": 1, "focal": 1}, {"train_nll", "train_dice_loss", "train_focal"}),
    ],
)
def test_objectives_for_rare_classes_train_by_name(tmp_path, objective, arguments, losses):
    known = plan(objective=objective, objective_args=arguments, likelihood="logit-normal")
    found = fitted(tmp_path / "run", known).predict(scenes(1, 5)[0]["image"][None])
    assert found.total.isfinite().all()
    assert losses < set(rows(tmp_path / "run")[0])
