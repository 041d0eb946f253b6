"""CamVid in the SegNet layout: small files made here, and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import CamVid

REAL = Path(os.environ.get("SFUMATO_DATA", "data")) / "camvid"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there: set SFUMATO_DATA")


@pytest.fixture
def root(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for split in ("train", "val"):
        for folder, array in ((split, np.stack([labels] * 3, -1)), (f"{split}annot", labels)):
            (tmp_path / folder).mkdir()
            Image.fromarray(array).save(tmp_path / folder / "0001.png")
    return tmp_path


def test_eleven_is_void(root):
    sample = CamVid(root)[0]
    assert sample["name"] == "0001"
    assert sample["classes"].flatten().tolist() == [*range(11), 0]
    assert sample["classes_valid"].flatten().tolist() == [True] * 11 + [False]


def test_names_and_colors():
    task = CamVid.tasks["classes"]
    assert task.names == ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
                          "bicyclist")  # fmt: skip
    assert task.color(torch.tensor([[0, 3, 10]])).tolist() == [[[128, 128, 128], [128, 64, 128], [0, 128, 192]]]


def test_faults(root):
    with pytest.raises(ValueError, match=r"split is 'all', expected one of \['train', 'val', 'test'\]"):
        CamVid(root, "all")
    with pytest.raises(FileNotFoundError, match="test is not a folder"):
        CamVid(root, "test")
    (root / "valannot" / "0001.png").unlink()
    with pytest.raises(ValueError, match="valannot is empty"):
        CamVid(root, "val")


@needs_files
def test_the_real_files():
    train, val = CamVid(REAL), CamVid(REAL, "val", size=(90, 120))
    assert (len(train), len(val)) == (367, 101)
    assert not {train[i]["name"] for i in (0, 366)} & {val[i]["name"] for i in (0, 100)}
    sample = train[0]
    assert sample["image"].shape == (3, 360, 480)
    # The sky lies above the road, and it is brighter.
    rows = torch.arange(360.0)[:, None].expand(-1, 480)
    sky, road = ((sample["classes"] == c) & sample["classes_valid"] for c in (0, 3))
    assert rows[sky].mean() < rows[road].mean()
    assert sample["image"].mean(0)[sky].mean() > sample["image"].mean(0)[road].mean()
    small = val[0]
    assert small["image"].shape == (3, 90, 120)
    assert small["classes"].shape == small["classes_valid"].shape == (90, 120)
