"""Instances of a run that predicts classes and center offsets."""

import torch

from sfumato.data import Scenes
from sfumato.evaluation.instances import InstanceTally
from sfumato.instances import Instances
from sfumato.predictions import ClassPrediction, ValuePrediction


def test_true_offsets_give_the_true_instances():
    data = Scenes(2, size=(96, 128), seed=3)
    classes = len(data.tasks["classes"].names)
    tally = InstanceTally(classes, data.things)
    for index in range(2):
        sample = data[index]
        batch = {key: value[None] for key, value in sample.items() if isinstance(value, torch.Tensor)}
        probs = torch.nn.functional.one_hot(batch["classes"], classes).movedim(-1, 1).float().clamp(1e-4, 1)
        little = torch.full_like(batch["centers"], 1e-2)
        label = ClassPrediction(probs / probs.sum(1, keepdim=True), torch.zeros(1, 96, 128))
        tally.update({"centers": ValuePrediction(batch["centers"], little, little, "px"), "classes": label}, batch)
    found = tally.panoptic.compute() | tally.each.compute()
    assert float(found["pq_stuff"]) > 0.95
    assert float(found["rq"]) > 0.8
    assert float(found["ap50"]) > 0.6  # an object of a few pixels is not found as an instance
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


def test_a_run_without_both_tasks_has_none(run, images):
    assert InstanceTally.for_run(run, images(1, 1).things) is None
