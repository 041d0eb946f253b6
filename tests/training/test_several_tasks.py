"""Runs of several tasks: one network, one set of draws, a loss for each."""

import csv
import math

import pytest
import torch
from torch.utils.data import Dataset

from sfumato.data import Scenes
from sfumato.data.loading import SelectedDataset
from sfumato.errors import ConfigError, DataError
from sfumato.objectives import build_objective
from sfumato.runs import Config, Run, build_network, task_and_likelihood
from sfumato.training import TrainingModule, fit, make_plan

SMALL = {"widths": (4, 6), "dropout": 0.2}
pytestmark = pytest.mark.filterwarnings("ignore")


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(train=None, **choices):
    usual = {"tasks": "classes,centers,depth", "network_args": SMALL, "epochs": 2, "samples": 2, "scale": (1.0, 1.0),
             "color": 0.0, "batch": 2, "precision": "32-true"}  # fmt: skip
    return make_plan(Config(**{**usual, **choices}), train or scenes(), device="cpu")[0]


def fitted(folder, known, train=None, val=None):
    return fit(known, train or scenes(), val, folder, progress=False, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return fitted(folder, plan(likelihood="categorical,l1,gaussian"), val=scenes(2, 1))


def log_variances(run):
    return {name: float(s.detach()) for name, s in run.networks[0].network.log_variances.items()}


def test_a_run_is_opened_and_predicts_every_task(run):
    assert run.config.weighting == "uncertainty"
    image = scenes(1, 5)[0]["image"][None]
    first, second = (r.predict(image, seed=3) for r in (run, Run.open(run.folder)))
    for name in ("classes", "centers", "depth"):
        assert torch.equal(first[name].total, second[name].total)
        assert torch.allclose(first[name].total, run.per_task[name].predict(image, seed=3).total)
    assert first["centers"].unit == "px"
    assert set(log_variances(run)) == {"classes", "centers"}
    assert all(s != 0 for s in log_variances(run).values())


def test_weights_losses_and_scores_of_each_task_are_logged(run):
    with (run.folder / "log/member-0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for name in ("classes", "centers", "depth"):
        assert all(float(row[f"weight_{name}"]) > 0 for row in rows)
        assert all(math.isfinite(float(row[f"loss_{name}"])) for row in rows)
        assert math.isfinite(float(rows[-1][f"val_{name}_nll"]))


class Patchy(Dataset):
    """Scenes some of which lack tasks."""

    def __init__(self, lacks):
        self.whole, self.lacks = scenes(), lacks
        self.tasks = self.whole.tasks

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return {k: v for k, v in sample.items() if not k.startswith(self.lacks.get(index, ("nothing",)))}


def test_a_task_is_learned_from_the_samples_that_have_it(tmp_path):
    train = Patchy({0: ("depth", "centers"), 1: ("classes",)})
    likelihood = "categorical,l1,laplace"
    run = fitted(tmp_path / "run", plan(train, likelihood=likelihood), train)
    assert sum(run.facts.counts) < sum(plan(likelihood=likelihood).facts.counts)
    assert all(math.isfinite(s) and s != 0 for s in log_variances(run).values())
    assert all(p.isfinite().all() for p in run.networks[0].parameters())


def test_a_batch_without_targets_leaves_the_weight_where_it_was():
    """Though the momentum of Adam would change it."""
    known = plan(likelihood="categorical,l1,gaussian")
    task, likelihood = task_and_likelihood(known)
    objective = build_objective(known, task, likelihood)
    module = TrainingModule(build_network(known, likelihood), objective, known, 0, {})
    optimizer = torch.optim.AdamW(module.parameters())
    sample = SelectedDataset(scenes(), ("image",), list(task.parts.values()))[0]
    batch = {key: value[None] for key, value in sample.items() if key != "name"}
    seen = []
    for absent in (False, True):
        given = batch | ({"centers_valid": torch.zeros_like(batch["centers_valid"])} if absent else {})
        optimizer.zero_grad()
        objective(module.network, given)[0]["nll"].backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        seen.append({name: float(s.detach()) for name, s in module.network.network.log_variances.items()})
    assert seen[0]["centers"] != 0
    assert seen[1]["centers"] == seen[0]["centers"]
    assert seen[1]["classes"] != seen[0]["classes"]


def test_a_task_that_no_sample_has_is_refused():
    with pytest.raises(DataError, match="no pixel of the training images that were read has a valid centers"):
        plan(Patchy(dict.fromkeys(range(4), ("centers",))))


class Millimeters(Dataset):
    def __init__(self):
        self.whole = scenes()
        self.tasks = self.whole.tasks

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return sample | {"inverse_depth": sample["inverse_depth"] / 1000}


@pytest.mark.parametrize("weighting", ["uncertainty", "uw-so"])
def test_depth_in_other_units_trains_the_same_network(tmp_path, weighting):
    choices = {"tasks": "classes,inverse_depth", "likelihood": "categorical,l1", "weighting": weighting}
    runs = [
        fitted(tmp_path / str(n), plan(train, **choices), train) for n, train in enumerate((scenes(), Millimeters()))
    ]
    meters, millimeters = (r.facts.scales["inverse_depth"][1] for r in runs)
    assert meters == pytest.approx(1000 * millimeters)
    weights = [r.networks[0].state_dict() for r in runs]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-5)
    image = scenes(1, 5)[0]["image"][None]
    first, second = (r.predict(image)["inverse_depth"].mean for r in runs)
    torch.testing.assert_close(first, 1000 * second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighting", ["equal", "fixed", "dwa", "log1p"])
def test_every_weighting_trains(tmp_path, weighting):
    choices = {"likelihood": "categorical,l1,l1", "tasks": "classes,centers,inverse_depth", "weighting": weighting}
    known = plan(**choices, weights=(1.0, 0.5, 2.0) if weighting == "fixed" else ())
    assert all(s != 0 for s in log_variances(fitted(tmp_path / "run", known)).values())


def test_a_network_with_all_heads_in_one_tensor_serves(tmp_path):
    known = plan(network="unet", network_args=SMALL | {"channels_out": "CHANNELS"}, epochs=1)
    assert fitted(tmp_path / "run", known).predict(torch.rand(1, 3, 16, 24))["depth"].draws == 2


def test_an_ensemble_of_several_tasks(tmp_path):
    run = fitted(tmp_path / "run", plan(method="ensemble", likelihood="categorical,l1,laplace", members=2))
    found = run.predict(torch.rand(1, 3, 16, 24))
    assert all(prediction.epistemic.mean() > 0 for prediction in found.values())
    assert len({float(n.network.log_variances["centers"].detach()) for n in run.networks}) == 2


@pytest.mark.parametrize("method", ["swag", "snapshot", "variational", "concrete-dropout", "batch-ensemble"])
def test_every_method_trains_and_draws_several_tasks(tmp_path, method):
    """All tasks come from one set of draws, and the parts add up. Two predictions of the same seed agree."""
    members = {"members": 3} if method in ("snapshot", "batch-ensemble") else {}
    epochs = 40 if method == "swag" else 3
    known = plan(
        method=method, likelihood="categorical,l1,laplace", epochs=epochs, **members, batch=3 if members else 2
    )
    run = fitted(tmp_path / "run", known)
    image = torch.rand(2, 3, 16, 24)
    found, again = (Run.open(run.folder).predict(image, samples=3) for _ in range(2))
    for name, prediction in found.items():
        assert prediction.draws == 3
        assert prediction.epistemic.mean() > 0, name
        assert torch.allclose(prediction.total, prediction.aleatoric + prediction.epistemic, atol=1e-5)
        assert torch.equal(prediction.total, again[name].total)


@pytest.mark.parametrize(("method", "message"), [("multi-head", "batch-ensemble"), ("latent", "for one task")])
def test_methods_for_one_task_are_refused(tmp_path, method, message):
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path / "run", plan(method=method, likelihood="categorical,l1,laplace", batch=4))
    assert not (tmp_path / "run").exists()
