"""7-Scenes: small files made here, and the real ones where they are."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import SevenScenes
from sfumato.data.posed import frames_between

REAL = Path(os.environ.get("SFUMATO_DATA", "data")) / "sevenscenes"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there: set SFUMATO_DATA")


@pytest.fixture
def root(tmp_path):
    depth = np.array([[0, 65535, 800], [1000, 2500, 4000]], np.uint16)
    for number in (0, 399, 400, 419, 420, 499, 500):
        stem = tmp_path / f"frame-{number:06d}"
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(f"{stem}.color.png")
        Image.fromarray(depth).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", np.eye(4) + number * np.eye(4, k=3))
    return tmp_path


def test_blocks_with_a_gap(root):
    names = {split: [s["name"][6:] for s in SevenScenes(root, split)] for split in ("train", "val", "all")}
    assert names["train"] == ["000000", "000399"]
    assert names["val"] == ["000420", "000499"]
    assert len(names["all"]) == 7


def test_millimeters_and_missing(root):
    sample = SevenScenes(root)[1]
    assert sample["depth"].flatten().tolist() == pytest.approx([0, 0, 0.8, 1, 2.5, 4])
    assert sample["depth_valid"].flatten().tolist() == [False, False, True, True, True, True]
    assert sample["world_from_camera"][0, 3] == 399


def test_intrinsics(root):
    assert SevenScenes(root)[0]["intrinsics"].tolist() == [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
    np.savetxt(root / "camera-intrinsics.txt", [[500, 0, 1], [0, 500, 0.5], [0, 0, 1]])
    assert SevenScenes(root)[0]["intrinsics"].tolist() == [[500, 0, 1], [0, 500, 0.5], [0, 0, 1]]
    # The center of the image stays its center.
    assert SevenScenes(root, size=(4, 6))[0]["intrinsics"].tolist() == [[1000, 0, 2.5], [0, 1000, 1.5], [0, 0, 1]]


@pytest.mark.parametrize("text", ["", "1 2\n3", "1 2 x", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 nan"])
def test_cut_off_pose(root, text):
    (root / "frame-000000.pose.txt").write_text(text)
    with pytest.raises(ValueError, match=r"\A[^\n]*frame-000000\.pose\.txt[^\n]*copy it again\Z"):
        SevenScenes(root)[0]


@pytest.mark.parametrize("part", ["depth.png", "pose.txt"])
def test_missing_part(root, part):
    (root / f"frame-000000.{part}").unlink()
    with pytest.raises(FileNotFoundError, match=f"frame-000000.{part} does not exist"):
        SevenScenes(root)[0]


def test_faults(root, tmp_path):
    with pytest.raises(ValueError, match=r"split is 'test', expected one of \['train', 'val', 'all'\]"):
        SevenScenes(root, "test")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        SevenScenes(root / "nowhere")
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no frame"):
        SevenScenes(root / "empty")


@needs_files
def test_the_real_files():
    train, val = SevenScenes(REAL), SevenScenes(REAL, "val", size=(120, 160))
    assert (len(train), len(val), len(SevenScenes(REAL, "all"))) == (400, 80, 500)
    sample, task = train[0], train.tasks["depth"]
    depth, valid = sample["depth"][0], sample["depth_valid"]
    assert sample["image"].shape == (3, 480, 640)
    assert 0.7 < valid.float().mean() < 1
    assert task.minimum < depth[valid].min()
    assert depth[valid].max() < task.maximum
    # Unprojected into the world, the next frame's surface is where this one's is: poses, units and intrinsics agree.
    here, there = (_points(train[i]) for i in (0, 5))
    gap = torch.cdist(there[::400], here[::20]).amin(1)
    assert gap.median() < 0.02
    assert val[0]["depth"].shape == (1, 120, 160)
    assert val[0]["intrinsics"][0, 0] == pytest.approx(585 / 4)


def _points(sample):
    rows, columns = sample["depth_valid"].nonzero(as_tuple=True)
    pixels = torch.stack([columns, rows, torch.ones_like(rows)]).float()
    rays = torch.linalg.solve(sample["intrinsics"], pixels)
    points = rays * sample["depth"][0, rows, columns]
    return (sample["world_from_camera"][:3, :3] @ points + sample["world_from_camera"][:3, 3:]).T


def test_other_frames_on_request(tmp_path):
    for number in range(5):
        stem = tmp_path / f"frame-{number:06d}"
        Image.fromarray(np.full((2, 3, 3), number, np.uint8)).save(f"{stem}.color.png")
        Image.fromarray(np.full((2, 3), 1000, np.uint16)).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", np.eye(4) + number * np.eye(4, k=3))
    data = SevenScenes(tmp_path, gap=2)
    assert not {"previous", "next"} & data[2].keys()
    both = data.providing(["previous", "depth"]).providing(["world_from_next"])
    assert len(both) == 5
    found = [[int(s[name].max()) for name in ("previous", "image", "next")] for s in both]
    assert found == [[2, 0, 2], [3, 1, 3], [0, 2, 4], [1, 3, 1], [2, 4, 2]]
    poses = [[float(s[f"world_from_{name}"][0, 3]) for name in ("previous", "camera", "next")] for s in both]
    assert poses == found
    assert len(both.files(0)) == 5
    (tmp_path / "frame-000003.color.png").unlink()
    with pytest.raises(FileNotFoundError, match="lacks the frame 3, which is next of frame 1"):
        SevenScenes(tmp_path, gap=2).providing(["next"])[1]
    with pytest.raises(ValueError, match="gap is 0"):
        SevenScenes(tmp_path, gap=0)


def test_a_scene_has_the_sequences_of_its_lists(root, tmp_path):
    scene = tmp_path / "chess"
    for number in (1, 2, 3):
        shutil.copytree(root, scene / f"seq-{number:02d}", ignore=lambda folder, names: {"chess"} & set(names))
    (scene / "TrainSplit.txt").write_text("sequence1\nsequence3\n")
    (scene / "TestSplit.txt").write_text("sequence2\n")
    train, val = SevenScenes(scene), SevenScenes(scene, "val")
    assert (len(train), len(val)) == (14, 7)  # all frames of a sequence
    assert train.names[7] == "seq-03/frame-000000"
    assert val[0]["name"] == "seq-02/frame-000000"
    assert frames_between(train.names, val.names) == []
    assert val.files(0)[2] == scene / "seq-02/frame-000000.pose.txt"
    (scene / "TestSplit.txt").write_text("sequence9\n")
    with pytest.raises(FileNotFoundError, match="seq-09 does not exist"):
        SevenScenes(scene, "val")
