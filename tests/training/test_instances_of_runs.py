"""Instances of a run that knows classes and where centers are: scored by evaluate, outlined in the report."""

import json

import pytest
import torch

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.predictions import ClassPrediction, Instances, ValuePrediction
from sfumato.training import evaluate_each
from sfumato.training.evaluation import _Instances

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours


def test_true_vectors_give_the_true_instances():
    data = Scenes(2, size=(96, 128), seed=3)
    counted = _Instances(len(data.tasks["classes"].names), data.things)
    for index in range(2):
        sample = data[index]
        batch = {key: value[None] for key, value in sample.items() if isinstance(value, torch.Tensor)}
        probs = torch.nn.functional.one_hot(batch["classes"], len(data.tasks["classes"].names))
        probs = probs.movedim(-1, 1).float().clamp(1e-4, 1)
        little = torch.full_like(batch["centers"], 1e-2)
        law = ClassPrediction(probs / probs.sum(1, keepdim=True), torch.zeros(1, 96, 128))
        counted.update(ValuePrediction(batch["centers"], little, little, "px"), law, batch)
    found = counted.panoptic.compute() | counted.each.compute()
    assert float(found["pq_stuff"]) > 0.95
    assert float(found["rq"]) > 0.8
    assert float(found["ap50"]) > 0.6  # what covers a few pixels is no instance of its own
    assert float(found["center_error"]) < 2


def test_outlines_are_the_outermost_pixels():
    ids = torch.zeros(5, 6, dtype=torch.int64)
    ids[1:4, 1:4] = 1
    ids[1:4, 4] = 2
    none = torch.zeros(2)
    outline = Instances(ids, none.long(), none, torch.zeros(2, 2), none, none).outline
    inside = torch.zeros_like(outline)
    inside[2, 2] = True
    assert torch.equal(outline, (ids > 0) & ~inside)


def test_evaluate_and_report_know_of_instances(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["fit", "--data=scenes", "--tasks=classes,centers", "--size=[32,48]", "--limit=4", "--epochs=1",
               "--batch=2", f"--out={run}", "--quiet"]  # fmt: skip
    assert main(command) == 0
    assert main(["evaluate", str(run), "--split=val[:3%]", "--quiet"]) == 0
    assert "pq_things" in capsys.readouterr().out
    told = json.loads((run / "evaluation.json").read_text())["tasks"]["centers"]["scores"]
    assert 0 <= told["pq"][0] <= 1
    assert "ap50" in told
    assert main(["report", str(run)]) == 0
    assert "panoptic quality" in (run / "report.html").read_text()


def test_data_without_things_have_no_instances(tmp_path):
    from sfumato.training import Run

    run = tmp_path / "run"
    command = ["fit", "--data=scenes", "--tasks=classes,centers", "--size=[32,48]", "--limit=2", "--epochs=1",
               "--batch=2", f"--out={run}", "--quiet"]  # fmt: skip
    assert main(command) == 0
    samples = [Scenes(2, size=(32, 48), seed=1)[i] for i in range(2)]
    found = evaluate_each(Run.open(run), samples, progress=False)  # a list says nothing of things
    assert found["centers"].instances == ()
