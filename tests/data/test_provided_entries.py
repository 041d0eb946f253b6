"""Data sets that make further views on request, and tasks that say which views the network takes."""

import pytest
import torch
from torch.utils.data import Subset

from sfumato.data import DatasetSlice, Scenes, SelectedDataset
from sfumato.data.views import inputs_of, providing
from sfumato.errors import DataError
from sfumato.runs import Config
from sfumato.tasks import Depth, Disparity, Flow
from sfumato.training import make_plan

SIZE = (24, 32)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ((), ("image",)),
        ((Depth(),), ("image",)),
        ((Disparity(),), ("image", "right")),
        ((Depth(), Flow()), ("image", "next")),
        ((Disparity(), Flow()), ("image", "right", "next")),
    ],
)
def test_tasks_name_their_inputs(tasks, expected):
    assert inputs_of(Scenes(1, SIZE), tasks) == expected


def test_views_are_made_where_something_needs_them():
    scenes = Scenes(4, SIZE)
    assert providing(scenes, ("image", "depth")) is scenes
    for whole in (scenes, DatasetSlice(scenes, 0.5, 1.0), Subset(scenes, [2, 3])):
        found = providing(whole, ("right",))
        assert len(found) == len(whole)
        assert found[0]["right"].shape == (3, *SIZE)
        assert found[0]["name"] == whole[0]["name"]
        assert "right" not in whole[0]


def test_selected_entries_are_provided():
    sample = SelectedDataset(Scenes(1, SIZE), ("image", "right"), [Disparity()], ["world_from_right"])[0]
    assert sample.keys() == {"name", "image", "right", "disparity", "disparity_valid", "world_from_right"}
    assert sample["disparity_valid"].any()


class Pairs(torch.utils.data.Dataset):
    inputs, tasks, names = ("image",), {"disparity": Disparity()}, ["a"]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"name": "a", "image": torch.zeros(3, *SIZE)}


class Stacked(torch.nn.Module):
    def __init__(self, bands, channels):
        super().__init__()
        self.layer = torch.nn.Conv2d(bands, channels, 1)

    def forward(self, *images):
        return self.layer(torch.cat(images, 1))


def test_data_without_the_other_view_are_refused():
    with pytest.raises(DataError, match="no tensor 'right', which is an input"):
        SelectedDataset(Pairs(), inputs_of(Pairs(), [Disparity()]), [Disparity()])[0]


@pytest.mark.parametrize(
    ("task", "inputs", "channels"),
    [("disparity", ("image", "right"), 2), ("flow", ("image", "next"), 4), ("depth", ("image",), 2)],
)
def test_a_plan_takes_the_inputs_of_its_task(task, inputs, channels):
    config = Config(task=task, size=SIZE, limit=2, crop=SIZE)
    network = Stacked(3 * len(inputs), channels)
    plan, train, val = make_plan(config, Scenes(2, SIZE), Scenes(1, SIZE), network=network)
    assert plan.facts.inputs == inputs
    assert {*plan.facts.normalization} == {*inputs}
    assert all(set(inputs) <= each[0].keys() for each in (train, val))
