"""Data sets by name."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from sfumato.data import CamVid, Folder, Scenes, load
from sfumato.errors import ConfigError, PluginError, UntrustedCodeError


def test_scenes_need_no_files():
    train, val, novel = (load("scenes", split=split, size=(12, 16)) for split in ("train", "val", "novel"))
    assert isinstance(train, Scenes)
    assert (len(train), len(val)) == (512, 100)
    assert train[0]["image"].shape == (3, 12, 16)
    assert train[0]["name"] != val[0]["name"]
    assert novel[0]["name"] == val[0]["name"]
    assert not val[0]["novel"].any()


def test_scenes_under_a_shift():
    plain, dark = (load("scenes", split=split, size=(12, 16))[0]["image"] for split in ("val", "darkness-3"))
    assert dark.mean() < 0.9 * plain.mean()


def test_parts_are_blocks_that_share_nothing():
    whole, first, last = (load("scenes", split=split, size=(12, 16)) for split in ("val", "val[:50%]", "val[50%:]"))
    assert (len(first), len(last)) == (50, 50)
    assert first.tasks.keys() == whole.tasks.keys()
    assert [first[49]["name"], last[0]["name"]] == [whole[49]["name"], whole[50]["name"]]
    assert len(load("scenes", split="val[25%:30%]")) == 5


def test_files(tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / folder / "a.png")
    assert isinstance(load("camvid", tmp_path), CamVid)
    (tmp_path / "sfumato.yaml").write_text("splits: {train: {images: train, labels: trainannot}}\nclasses: [road, car]")
    assert isinstance(load(str(tmp_path)), Folder)
    assert isinstance(load(tmp_path.name, tmp_path.parent), Folder)


def test_faults(tmp_path):
    with pytest.raises(ValueError, match="50% to 50% of 100 images holds none"):
        load("scenes", split="val[50%:50%]")
    with pytest.raises(
        ValueError, match=r"data is 'citiscapes', expected scenes, .*textures, camvid, .*cityscapes, nyuv2, .* or"
    ):
        load("citiscapes")
    with pytest.raises(ValueError, match="camvid is read from files: name their folder with --root"):
        load("camvid")
    with pytest.raises(ValueError, match="split of scenes is 'test', expected one of train, val, novel, fog-1"):
        load("scenes", split="test")
    with pytest.raises(FileNotFoundError, match=r"sfumato\.yaml does not exist"):
        load(str(tmp_path))


@pytest.fixture
def module(monkeypatch):
    """A module of somebody else."""
    found = types.ModuleType("my_roads")

    class Roads:
        inputs, tasks, splits, things, augmentation = ("image",), {}, ("train",), (3,), {"flip": False}

        def __init__(self, root, split, size):
            self.names = [f"{root}-{split}-{size}-{i}" for i in range(4)]

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"name": self.names[index]}

    found.Roads, found.nothing, found.number = Roads, lambda root, split, size: [], 3
    Roads.__module__ = "my_roads"
    monkeypatch.setitem(sys.modules, "my_roads", found)
    return found


def test_a_class_of_somebody_else(module):
    with pytest.raises(UntrustedCodeError, match="--trust my_roads"):
        load("my_roads.Roads")
    data = load("my_roads.Roads", "here", "train", (3, 4), trust="my_roads")
    assert data.names[0] == "here-train-(3, 4)-0"
    half = load("my_roads.Roads", "here", "train[50%:]", (3, 4), trust=("my_roads.Roads",))
    assert list(half.names) == list(data.names)[2:]
    assert (half.things, half.augmentation, half.inputs, half.splits) == ((3,), {"flip": False}, ("image",), ("train",))


def test_classes_that_are_no_data_sets(module):
    with pytest.raises(PluginError, match=r"my_roads\.nothing has no inputs, tasks, names: see help"):
        load("my_roads.nothing", trust=True)
    with pytest.raises(PluginError, match=r"my_roads\.number is a int, expected a class of data sets"):
        load("my_roads.number", trust=True)
    with pytest.raises(PluginError, match=r"my_roads\.missing cannot be imported"):
        load("my_roads.missing", trust=True)


def test_every_built_in_name_says_its_splits():
    assert load("scenes").splits[:3] == ("train", "val", "novel")
    assert load("scenes", split="val[:10%]").splits[-1] == "noise-5"
    with pytest.raises(ConfigError, match="cityscapes is read from files"):
        load("cityscapes")


def test_a_folder_named_like_a_built_in_data_set_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    with pytest.raises(ConfigError, match=r"with --root FOLDER, or write \./camvid for the folder of this name"):
        load("camvid")
