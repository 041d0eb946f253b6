"""Cityscapes' own layout: small files made here."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Augmentation, Cityscapes, SelectedDataset, load
from sfumato.data.cityscapes import SEMANTIC

# A car (26001) of five pixels, a crowd of persons (24), a caravan (29000), one pixel of a bicycle (33000), sky.
INSTANCES = np.array([
    [23, 23, 23, 23, 23, 23, 23, 23],
    [11, 11, 26001, 26001, 26001, 24, 24, 4],
    [7, 7, 26001, 26001, 7, 29000, 29000, 4],
    [7, 7, 7, 7, 7, 7, 33000, 0],
], np.uint16)  # fmt: skip
LABELS = np.where(INSTANCES >= 1000, INSTANCES // 1000, INSTANCES).astype(np.uint8)
DISPARITY = np.zeros((4, 8), np.uint16)
DISPARITY[1:3, 2:5] = 1 + 256 * 10
DISPARITY[3, :3] = 1, 2, 65535
CAMERA = {"intrinsic": {"fx": 400.0, "fy": 410.0, "u0": 3.5, "v0": 1.5}, "extrinsic": {"baseline": 0.25, "pitch": 0.1}}
TRAIN = {7: 0, 11: 2, 23: 10, 24: 11, 26: 13, 33: 18}


def write(root, split, name):
    city = name.split("_")[0]
    files = {
        "leftImg8bit/{}_leftImg8bit.png": np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8),
        "gtFine/{}_gtFine_labelIds.png": LABELS,
        "gtFine/{}_gtFine_instanceIds.png": INSTANCES,
        "disparity/{}_disparity.png": DISPARITY,
    }
    for pattern, array in files.items():
        path = root / pattern.format(f"{split}/{city}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    path = root / f"camera/{split}/{city}/{name}_camera.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(CAMERA))


@pytest.fixture
def root(tmp_path):
    for split, name in (
        ("train", "ulm_000001_000019"), ("train", "aachen_000000_000019"), ("val", "lindau_000000_000019"),
        ("test", "bonn_000000_000019"),
    ):  # fmt: skip
        write(tmp_path, split, name)
    return tmp_path


def file(root, kind, name="aachen_000000_000019"):
    (found,) = root.glob(f"*/train/aachen/{name}_{kind}")
    return found


def refused(kind, path, remedy):
    """Expects one line that names the file and the remedy."""
    return pytest.raises(kind, match=rf"\A[^\n]*{path.name}[^\n]*{remedy}[^\n]*\Z")


def test_splits_and_names(root):
    assert [sample["name"] for sample in (Cityscapes(root)[i] for i in (0, 1))] == [
        "aachen_000000_000019",
        "ulm_000001_000019",
    ]
    assert [len(load("cityscapes", root, split)) for split in ("train", "val", "test")] == [2, 1, 1]


def test_official_train_ids():
    names = SEMANTIC.names
    assert len(names) == 19
    assert [names[i] for i in (0, 1, 10, 13, 18)] == ["road", "sidewalk", "sky", "car", "bicycle"]
    things = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert [names[i] for i in Cityscapes.things] == things
    assert SEMANTIC.palette[13] == (0, 0, 142)


def test_classes_and_void(root):
    sample = Cityscapes(root)[0]
    evaluated = np.isin(LABELS, list(TRAIN))
    assert np.array_equal(sample["classes_valid"], evaluated)
    expected = np.vectorize(lambda i: TRAIN.get(i, 0))(LABELS)
    assert np.array_equal(sample["classes"], expected)


def test_instances_without_crowds_and_caravans(root):
    sample = Cityscapes(root)[0]
    assert sample["instances"].unique().tolist() == [0, 26001, 33000]
    assert torch.equal(sample["centers_valid"], sample["instances"] > 0)
    # The car's five pixels: x 2 3 4 2 3, y 1 1 1 2 2.
    assert sample["centers"][:, 1, 4].tolist() == pytest.approx([2.8 - 4, 1.4 - 1])
    assert sample["centers"][:, 3, 6].tolist() == [0, 0]
    assert (sample["centers"][:, sample["instances"] == 0] == 0).all()


def test_disparity_and_depth(root):
    sample = Cityscapes(root)[0]
    assert np.array_equal(sample["disparity_valid"], DISPARITY > 0)
    assert sample["disparity"][0, 3, :3].tolist() == [0, 1 / 256, 65534 / 256]
    assert sample["depth"][0, 1, 2] == pytest.approx(400 * 0.25 / 10)
    # Stored 1 is a disparity of 0, infinitely far; 2 is 25.6 km, beyond what is asked; 256 px is nearer than 1 m.
    assert sample["depth_valid"][3, :3].tolist() == [False, False, False]
    assert sample["depth"][0, ~sample["depth_valid"]].abs().max() == 0
    assert sample["inverse_depth"][0, 1, 2] == pytest.approx(0.1)
    sky = LABELS == 23
    assert np.array_equal(sample["inverse_depth_valid"], (sky | (DISPARITY > 0)) & (DISPARITY < 65535))
    assert (sample["inverse_depth"][0][sky] == 0).all()
    assert sample["intrinsics"].tolist() == [[400, 0, 3.5], [0, 410, 1.5], [0, 0, 1]]


def test_depth_is_the_same_at_another_size(root):
    full, small = Cityscapes(root)[0], Cityscapes(root, size=(2, 4))[0]
    assert small["image"].shape == (3, 2, 4)
    here = small["disparity_valid"] & small["depth_valid"]
    assert here.any()
    again = 0.25 * small["intrinsics"][0, 0] / small["disparity"][0][here]
    assert torch.allclose(again, small["depth"][0][here])
    assert set(small["depth"][0][here].tolist()) <= set(full["depth"][0].flatten().tolist())
    rows, columns = (small["instances"] == 26001).nonzero(as_tuple=True)
    votes = torch.stack([columns, rows]) + small["centers"][:, rows, columns]
    assert torch.allclose(votes, votes[:, :1].expand_as(votes))


def test_without_stereo_there_are_only_classes(root):
    for path in (root / "disparity").rglob("*.png"):
        path.unlink()
    (root / "disparity" / "val" / "lindau").rmdir()
    (root / "disparity" / "val").rmdir()
    val = Cityscapes(root, "val")
    assert list(val.tasks) == ["classes", "centers"]
    assert "depth" not in val[0]
    with pytest.raises(FileNotFoundError, match=r"aachen_000000_000019_disparity\.png does not exist, and 2 of 2"):
        Cityscapes(root)


def test_survives_augmentation(root):
    batch = torch.utils.data.default_collate([Cityscapes(root)[i] for i in (0, 1)])
    torch.manual_seed(0)
    out = Augmentation(crop=(4, 8), scale=(1.0, 1.0), color=0.0)(batch)
    assert set(out["instances"].unique().tolist()) <= {0, 26001, 33000}


@pytest.mark.parametrize("task", ["classes", "depth", "inverse_depth", "centers"])
def test_what_training_of_a_task_reads(root, task):
    data = Cityscapes(root)
    sample = SelectedDataset(data, data.inputs, [data.tasks[task]])[0]
    assert sample.keys() == {"name", "image", task, f"{task}_valid"}
    assert torch.equal(sample[f"{task}_valid"], data[0][f"{task}_valid"])


def test_names_and_files_are_known_without_reading(root):
    data = Cityscapes(root)
    assert list(data.names) == [sample["name"] for sample in (data[i] for i in range(len(data)))]
    assert all(path.is_file() for path in data.files(0))


def test_missing_folders(root):
    with pytest.raises(FileNotFoundError, match="leftImg8bit/train is not a folder: expected the folder that holds"):
        Cityscapes(root / "gtFine")
    with pytest.raises(ValueError, match=r"split is 'dev', expected one of \['train', 'val', 'test'\]"):
        Cityscapes(root, "dev")
    (root / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(ValueError, match=r"leftImg8bit/val holds no CITY/\*_leftImg8bit\.png"):
        Cityscapes(root, "val")


@pytest.mark.parametrize("kind", ["gtFine_labelIds.png", "gtFine_instanceIds.png", "disparity.png", "camera.json"])
def test_missing_annotation(root, kind):
    path = file(root, kind)
    path.unlink()
    with refused(FileNotFoundError, path, "1 of 2 images have no"):
        Cityscapes(root)


@pytest.mark.parametrize(
    "kind", ["leftImg8bit.png", "gtFine_labelIds.png", "gtFine_instanceIds.png", "disparity.png"]
)  # fmt: skip
def test_truncated(root, kind):
    path = file(root, kind)
    path.write_bytes(path.read_bytes()[:-30])
    with refused(ValueError, path, "not a whole image file"):
        Cityscapes(root)[0]


@pytest.mark.parametrize("kind", ["gtFine_labelIds.png", "gtFine_instanceIds.png", "disparity.png"])
def test_sizes_differ(root, kind):
    path = file(root, kind)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    with refused(ValueError, path, "make both the same size"):
        Cityscapes(root)[0]


@pytest.mark.parametrize(("kind", "value"), [("gtFine_labelIds.png", 255), ("gtFine_instanceIds.png", 34000)])
def test_unknown_ids(root, kind, value):
    path = file(root, kind)
    array = np.array(Image.open(path))
    array[0, 0] = value
    Image.fromarray(array).save(path)
    with refused(ValueError, path, f"holds {value}, expected .*gtFine_trainvaltest.zip"):
        Cityscapes(root)[0]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"intrinsic": {"fx": 1}}', json.dumps(CAMERA).replace("400.0", '"wide"'),
     json.dumps(CAMERA).replace("400.0", "0"), json.dumps(CAMERA).replace("3.5", "NaN")],
)  # fmt: skip
def test_broken_camera(root, text):
    path = file(root, "camera.json")
    path.write_text(text)
    with refused(ValueError, path, "unpack camera again"):
        Cityscapes(root)[0]
