"""Decisions that `sfumato decide` stored are outputs of the exported file, equal to those of the run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato.decisions import Abstention, Costs, Decisions, OutlierFlag
from sfumato.errors import RunError
from sfumato.predictions import ClassPrediction
from sfumato.runs import prediction_state
from sfumato.serving import Bundle, export
from sfumato.serving.exporter import compare
from sfumato.serving.graph import Graph, Outcome

pytestmark = pytest.mark.filterwarnings("ignore")
ACTIONS = ("go", "stop", "ask")


def images(count, size, seed=0):
    return np.random.default_rng(seed).integers(255, size=(count, 3, *size), dtype=np.uint8)


def matrix(classes):
    costs = torch.rand(3, classes, generator=torch.Generator().manual_seed(1)) * 10
    costs[2] = 4.5
    return costs


def abstention(run, **choices):
    middle = float(run.predict(torch.from_numpy(images(1, (16, 24)))).total.median())
    return Abstention(torch.tensor([middle]), 0.1, 0.1, rests_on=prediction_state(run), **choices)


def decide(run, **choices):
    folder = run.folder / "decisions"
    folder.mkdir(exist_ok=True)
    abstention(run, **choices).save(folder / "abstention.safetensors")
    Costs(ACTIONS, matrix(len(run.task.names))).save(folder / "costs.safetensors")


@pytest.fixture(scope="module")
def ensemble(make_run):
    run = make_run(likelihood="categorical", method="ensemble", members=2)
    decide(run)
    return run


@pytest.fixture(scope="module")
def bundle(ensemble, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    assert max(export(ensemble, path).values()) < 1e-4
    return Bundle(path, threads=1)


def test_an_exported_file_decides_as_the_run(ensemble, bundle):
    pixels = images(2, (21, 13))
    found, ours = bundle(pixels), ensemble.predict(torch.from_numpy(pixels))
    assert list(found)[-4:] == ["accepted", "action", "expected_cost", "look"]
    assert found["accepted"].dtype == bool
    assert found["action"].dtype == np.uint8
    stored = abstention(ensemble)
    far = (ours.total - stored.limit).abs() > 1e-4
    assert 0 < found["accepted"].mean() < 1
    assert np.array_equal(found["accepted"][far], stored(ours)[far])
    costs = matrix(len(ensemble.task.names)).double()
    expected = torch.einsum("ak,bkhw->bahw", costs, ours.probs.double())
    assert np.allclose(found["expected_cost"], expected.amin(1), atol=1e-3)
    assert np.allclose(expected.gather(1, torch.from_numpy(found["action"])[:, None].long())[:, 0], expected.amin(1),
                       atol=1e-3)  # fmt: skip
    # The value of looking again, from the two networks by hand.
    with torch.no_grad():
        inputs = torch.from_numpy(pixels).float() / 255
        draws = [network(inputs).softmax(1).double() for network in ensemble.networks]
    least = [torch.einsum("ak,bkhw->bahw", costs, draw).amin(1) for draw in draws]
    mean = torch.einsum("ak,bkhw->bahw", costs, (draws[0] + draws[1]) / 2).amin(1)
    assert np.allclose(found["look"], mean - (least[0] + least[1]) / 2, atol=1e-3)


def test_a_file_says_what_its_decisions_mean(ensemble, bundle):
    about = bundle.metadata["decisions"]
    assert about["costs"]["actions"] == list(ACTIONS)
    assert about["costs"]["matrix"][2] == [4.5] * len(ensemble.task.names)
    assert about["abstain"]["limit"] == pytest.approx(abstention(ensemble).limit)
    assert "at most 0.1 with probability 0.9" in about["abstain"]["promise"]
    assert "fitted_on" not in about["abstain"]


def test_torch_export_decides_too(ensemble, tmp_path):
    assert {"accepted", "action", "look"} <= export(ensemble, tmp_path / "m.pt2", format="torch-export").keys()


def test_one_pass_has_costs_but_neither_a_threshold_of_many_nor_a_value_of_looking(make_run, tmp_path):
    run = make_run(likelihood="categorical", method="mc-dropout", samples=3)
    decide(run)
    differences = export(run, tmp_path / "m.onnx", deterministic=True)
    assert {"action", "expected_cost"} <= differences.keys()
    assert not {"accepted", "look"} & differences.keys()


def test_what_needs_other_pixels_is_no_output(make_run):
    run = make_run(likelihood="categorical")
    decide(run, unit="image")
    found = Decisions.of(run)
    assert found.abstention is not None
    assert found.for_file.abstention is None


def test_a_newer_calibrator_makes_a_threshold_outdated(make_run):
    run = make_run(likelihood="categorical")
    decide(run)
    scores = torch.rand(60, dtype=torch.float64)
    flag = OutlierFlag.fit(scores, 0.05, 0.1)
    replace(flag, rests_on=prediction_state(run)).save(run.folder / "decisions" / "flag.safetensors")
    assert Decisions.of(run).outdated == ()
    (run.folder / "calibrator.safetensors").write_bytes(b"newer")
    found = Decisions.of(run)
    assert (found.abstention, found.flag) == (None, None)
    assert found.costs is not None  # costs rest on nothing
    assert found.outdated == ("abstention.safetensors", "flag.safetensors")


def test_a_damaged_file_is_named(make_run):
    run = make_run(likelihood="categorical")
    (run.folder / "decisions").mkdir()
    (run.folder / "decisions" / "costs.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match=r"costs\.safetensors is cut off .* run `sfumato decide` again"):
        Decisions.of(run)


def test_another_action_is_noticed_unless_it_is_a_tie():
    probs = torch.tensor([[0.5, 0.9], [0.5, 0.1]])[None, :, None]  # (1, 2, 1, 2)
    costs = Costs(("a", "b"), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    outcome = Outcome(ClassPrediction(probs, torch.zeros(1, 1, 2)), decisions=Decisions(costs=costs))
    outputs = dict(outcome.outputs)
    assert max(compare([outcome], [list(outputs.values())]).values()) == 0
    outputs["action"] = torch.tensor([[[1, 0]]])  # the first pixel is a tie
    assert compare([outcome], [list(outputs.values())])["action"] == 0
    outputs["action"] = torch.tensor([[[0, 1]]])
    assert compare([outcome], [list(outputs.values())])["action"] == 0.5


def test_values_are_accepted_too(make_run):
    run = make_run(task="depth", likelihood="gaussian")
    (run.folder / "decisions").mkdir()
    abstention(run, tolerance=0.5).save(run.folder / "decisions" / "abstention.safetensors")
    with torch.no_grad():
        outcome = Graph(run).outcome(torch.from_numpy(images(1, (16, 24))))
    assert 0 < float(outcome.outputs["accepted"].double().mean()) < 1
