"""Data sets by name."""

import numpy as np
import pytest
from PIL import Image

from sfumato.data import CamVid, Folder, Scenes, load


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
        ValueError, match=r"data is 'citiscapes', expected scenes, camvid, cityscapes, nyuv2, sevenscenes or a folder"
    ):
        load("citiscapes")
    with pytest.raises(ValueError, match="camvid lies in files: say where with --root"):
        load("camvid")
    with pytest.raises(ValueError, match="split of scenes is 'test', expected one of train, val, novel, fog-1"):
        load("scenes", split="test")
    with pytest.raises(FileNotFoundError, match=r"sfumato\.yaml does not exist"):
        load(str(tmp_path))
