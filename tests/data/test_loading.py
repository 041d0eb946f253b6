"""What training reads: selected, checked, in batches, from worker processes."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler, Subset

from sfumato.data import DatasetView, Scenes, SelectedDataset, subset
from sfumato.data.loading import loader
from sfumato.data.views import augmentation_of, entries_of, inputs_of, names_of, tasks_of, things_of
from sfumato.errors import DataError, ResourceError
from sfumato.targets import ENTRIES, Image, ScalarMap, Stacked
from sfumato.tasks import Depth, Semantic

SEMANTIC = Semantic(("road", "car"), ((0, 0, 0), (1, 1, 1)))


class Plain(Dataset):
    """A plain torch data set: a list of samples."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        found = self.samples[index]
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found


def sample(name="a", size=(3, 4), **more):
    return {"name": name, "image": torch.full((3, *size), 7, dtype=torch.uint8), **more}


def classes(size=(3, 4), value=1):
    return {"classes": torch.full(size, value), "classes_valid": torch.ones(size, dtype=torch.bool)}


def refused(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*{match}[^\n]*\Z")


# Defaults


def test_a_plain_data_set_has_defaults():
    data = Plain(sample("a"), {"image": torch.zeros(3, 1, 1)})
    assert inputs_of(data) == ("image",)
    assert tasks_of(data) == {}
    assert entries_of(data) == ENTRIES
    assert things_of(data) == ()
    assert augmentation_of(data) == {}
    assert list(names_of(data)) == ["a", "1"]


def test_parts_keep_what_the_whole_declares():
    scenes = Scenes(6, (12, 16))
    for part in (subset(scenes, 3), Subset(scenes, [0, 2, 4]), DatasetView(scenes, [0, 2, 4])):
        assert list(names_of(part)) == ["scene-0-000000", "scene-0-000002", "scene-0-000004"]
        assert [part[i]["name"] for i in range(3)] == list(names_of(part))
        assert tasks_of(part).keys() == scenes.tasks.keys()
        assert things_of(part) == scenes.things
        assert augmentation_of(part) == scenes.augmentation
        assert entries_of(part)["class_probs"] == ScalarMap(dims=8)
    assert list(names_of(Subset(subset(scenes, 3), [1]))) == ["scene-0-000002"]


def test_entries_of_tasks_and_of_the_data_set():
    class Snow(Depth):
        key = "snow"
        target = ScalarMap("cm")

    data = Plain(sample())
    assert entries_of(data, [Snow()])["snow"] == ScalarMap("cm")
    data.entries = {"snow": Stacked(((ScalarMap(), 1),))}
    assert entries_of(data, [Snow()])["snow"] == data.entries["snow"]


# Selection and checks


def test_only_what_is_read_is_kept():
    data = Plain(sample(**classes(), depth=torch.zeros(1, 3, 4), instances=torch.zeros(3, 4).long(), notes="x"))
    found = SelectedDataset(data, ("image",), [SEMANTIC], ("instances", "novel"))[0]
    assert found.keys() == {"name", "image", "classes", "classes_valid", "instances"}
    assert found["image"].dtype == torch.uint8


def test_a_missing_target_is_nowhere_valid():
    found = SelectedDataset(Plain(sample()), ("image",), [SEMANTIC])[0]
    assert found["classes"].shape == (3, 4)
    assert not found["classes_valid"].any()


@pytest.mark.parametrize(
    ("inputs", "given", "match"),
    [
        (("image", "lidar"), sample(), "sample 'a' has no tensor 'lidar', which is an input: it holds name, image"),
        (("image", "lidar"), sample(lidar=torch.zeros(1, 3, 4)), "'lidar' has no known kind: declare it"),
        (("image", "depth"), sample(depth=torch.zeros(1, 5, 6)),
         "sample 'a': image has 3 × 4 pixels but depth has 5 × 6"),
        (("image",), sample() | {"image": torch.full((3, 2, 2), torch.nan)}, "image of sample 'a' holds NaN"),
        (("image",), sample() | {"image": torch.full((3, 2, 2), 200.0)},
         r"holds torch\.float32 from 200 to 200, expected uint8, or floats from 0 to 1"),
        (("image",), sample() | {"image": torch.zeros(1, 2, 2, dtype=torch.uint8)},
         r"has the shape \(1, 2, 2\), expected \(3, height, width\)"),
        (("image",), (torch.zeros(3, 2, 2), 1), "sample 0 is a tuple, expected a dict with the entries image"),
        (("image", "depth"), sample(depth=torch.full((1, 3, 4), torch.inf)), "depth of sample 'a' holds NaN or inf"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used(inputs, given, match):
    with refused(match):
        SelectedDataset(Plain(given), inputs)[0]


@pytest.mark.parametrize(
    ("task", "entries", "match"),
    [
        (SEMANTIC, classes((2, 2)), "sample 'a': image has 3 × 4 pixels but classes has 2 × 2"),
        (SEMANTIC, {"classes": torch.ones(3, 4).long()}, "has 'classes' but no 'classes_valid': add a bool mask"),
        (SEMANTIC, classes(value=255), "holds the class 255, but there are 2 classes, 0 to 1"),
        (SEMANTIC, classes(value=-1), "holds the class -1, but there are 2 classes"),
        (SEMANTIC, classes() | {"classes_valid": torch.ones(3, 4)}, r"type torch\.float32, expected torch\.bool"),
        (Depth(), {"depth": torch.full((1, 3, 4), torch.nan), "depth_valid": torch.ones(3, 4).bool()},
         "depth of sample 'a' holds NaN or infinity where depth_valid is True"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_used(task, entries, match):
    with refused(match):
        SelectedDataset(Plain(sample(**entries)), ("image",), [task])[0]


def test_void_may_hold_anything():
    entries = classes(value=255) | {"classes_valid": torch.zeros(3, 4).bool()}
    depth = {"depth": torch.full((1, 3, 4), torch.nan), "depth_valid": torch.zeros(3, 4).bool()}
    SelectedDataset(Plain(sample(**entries, **depth)), ("image",), [SEMANTIC, Depth()])[0]


def test_other_channels_have_to_be_declared():
    data = Plain(sample() | {"image": torch.zeros(1, 2, 2, dtype=torch.uint8)})
    data.entries = {"image": Image(bands=1)}
    assert SelectedDataset(data, ("image",))[0]["image"].shape == (1, 2, 2)


# Batches


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_bytes_and_names(workers):
    data = SelectedDataset(Plain(*(sample(str(i), **classes()) for i in range(5))), ("image",), [SEMANTIC])
    batches = loader(data, 2, workers=workers)
    for _ in range(2):  # persistent workers serve a second epoch
        found = list(batches)
        assert [batch["name"] for batch in found] == [["0", "1"], ["2", "3"], ["4"]]
        assert found[0]["image"].dtype == torch.uint8
        assert found[0]["classes"].shape == (2, 3, 4)
    assert len(batches) == 3


def test_a_sampler_and_whole_batches():
    data = Plain(*(sample(str(i)) for i in range(5)))
    order = DistributedSampler(data, 1, 0, shuffle=True, seed=3)
    found = [name for batch in loader(data, 2, sampler=order, drop_last=True) for name in batch["name"]]
    assert len(found) == 4
    assert found == [str(i) for i in list(order)[:4]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(workers):
    data = Plain(sample("a"), DataError("b.png is broken: copy it again"))
    with pytest.raises(DataError) as caught:
        list(loader(data, 1, workers=workers))
    assert str(caught.value) == "b.png is broken: copy it again"


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_in_one_batch(workers):
    data = Plain(sample("a"), sample("b", (5, 6)))
    with refused(r"image of the samples 'a' and 'b' has the shapes \(3, 3, 4\) and \(3, 5, 6\): give all images"):
        list(loader(data, 2, workers=workers))
    with refused("only one of the samples 'a' and 'b' has depth"):
        list(loader(Plain(sample("a"), sample("b", depth=torch.zeros(1, 3, 4))), 2, workers=workers))


def test_a_killed_worker_is_one_line():
    def die():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ResourceError, match=r"was killed, perhaps because memory ran out: use fewer --workers, or 0"):
        list(loader(Plain(die), 1, workers=1))


def test_an_unexpected_error_stays_what_it_is():
    with pytest.raises(ZeroDivisionError):
        list(loader(Plain(lambda: 1 / 0), 1))


def randoms():
    numbers = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))])
    return {"name": "r", "numbers": numbers}


def test_workers_are_seeded():
    def numbers(seed):
        return torch.cat([batch["numbers"] for batch in loader(Plain(randoms, randoms), 1, workers=2, seed=seed)])

    one, again, other = numbers(1), numbers(1), numbers(2)
    assert torch.equal(one, again)
    assert (one != other).all()
    assert (one[0] != one[1]).all()  # two workers


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    list(loader(Plain(sample()), 1))
    assert torch.equal(torch.get_rng_state(), state)
