"""A user's own folder of stereo pairs, or of pictures with optical flow."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Folder
from sfumato.data.motion_files import write_disparity, write_flow
from sfumato.data.survey import survey
from sfumato.data.views import inputs_of
from sfumato.errors import DataError, MissingFileError

H, W = 6, 8
CAMERA = "camera: {focal: 10, center: [3.5, 2.5], baseline: 0.5}\n"


def pair(root, name="a", value=4.0):
    for place, seed in (("left", 0), ("right", 1), ("next", 2)):
        (root / place).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / place / f"{name}.png")
    for place in ("disparity", "flow"):
        (root / place).mkdir(exist_ok=True)
    known = torch.ones(H, W, dtype=torch.bool)
    known[0] = False
    write_disparity(root / "disparity" / f"{name}.pfm", torch.full((H, W), value), known)
    write_flow(root / "flow" / f"{name}.flo", torch.full((2, H, W), -2.0), known)


STEREO = """splits:
  train: {images: left, right: right, disparity: disparity}
  bare: {images: left, right: right}
disparity: {maximum: 16}
"""
FLOW = """splits:
  train: {images: left, next: next, flow: flow}
flow: {reach: 7}
"""


def folder(root, text, split="train", **options):
    pair(root)
    (root / "sfumato.yaml").write_text(text)
    return Folder(root, split, **options)


def test_stereo_pairs(tmp_path):
    data = folder(tmp_path, STEREO)
    assert inputs_of(data, data.tasks.values()) == ("image", "right")
    assert data.tasks["disparity"].maximum == 16
    (sample,) = data
    assert sample.keys() == {"name", "image", "right", "disparity", "disparity_valid"}
    assert sample["disparity"].unique().tolist() == [0, 4]
    assert sample["disparity_valid"].sum() == (H - 1) * W
    assert len(data.files(0)) == 3
    half = Folder(tmp_path, size=(H // 2, W // 2))[0]
    assert half["right"].shape == (3, H // 2, W // 2)
    assert half["disparity"].max() == 2


def test_pairs_without_labels_and_in_a_list(tmp_path):
    (sample,) = folder(tmp_path, STEREO, "bare")
    assert sample.keys() == {"name", "image", "right"}
    (tmp_path / "train.txt").write_text("left/a.png right/a.png disparity/a.pfm\n")
    (sample,) = folder(tmp_path, STEREO.replace("{images: left, right: right, disparity: disparity}", "train.txt"))
    assert sample["disparity"].max() == 4
    (tmp_path / "train.txt").write_text("left/a.png disparity/a.pfm\n")
    with pytest.raises(DataError, match="holds 2 names, expected `image right disparity`"):
        Folder(tmp_path)


def test_optical_flow(tmp_path):
    data = folder(tmp_path, FLOW)
    assert inputs_of(data, data.tasks.values()) == ("image", "next")
    assert data.tasks["flow"].reach == 7
    assert data[0]["flow"].unique().tolist() == [-2, 0]
    assert not data[0]["flow_valid"][0].any()


def test_later_frames_beside_labels(tmp_path):
    pair(tmp_path)
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "labels" / "a.png")
    text = "splits:\n  train: {images: left, next: next, labels: labels}\nclasses: [road, car]\n"
    (tmp_path / "sfumato.yaml").write_text(text)
    data = Folder(tmp_path)
    assert inputs_of(data, data.tasks.values()) == ("image",)
    assert {"next", "classes", "classes_valid"} <= data[0].keys()
    assert not data[0]["next"].equal(data[0]["image"])


def test_units_and_masks(tmp_path):
    pair(tmp_path)
    (tmp_path / "bytes").mkdir()
    Image.fromarray(np.full((H, W), 8, np.uint8)).save(tmp_path / "bytes" / "a.png")
    (tmp_path / "mask").mkdir()
    inside = np.ones((H, W), np.uint8)
    inside[:, 0] = 0
    Image.fromarray(inside).save(tmp_path / "mask" / "a.png")
    text = STEREO.replace("disparity: disparity}", "disparity: bytes, mask: mask}").replace("16}", "16, unit: 0.25}")
    (sample,) = folder(tmp_path, text)
    assert sample["disparity"].unique().tolist() == [0, 2]
    assert not sample["disparity_valid"][:, 0].any()
    assert sample["right"][:, :, 0].any()  # a mask says nothing about pictures


def test_a_camera_gives_meters(tmp_path):
    data = folder(tmp_path, STEREO + CAMERA + "depth: {minimum: 0.5, maximum: 10}\n")
    assert set(data.tasks) == {"disparity", "depth"}
    (sample,) = data
    assert sample["depth"].unique().tolist() == [0, 10 * 0.5 / 4]
    assert torch.equal(sample["depth_valid"], sample["disparity_valid"])
    assert sample["intrinsics"].tolist() == [[10, 0, 3.5], [0, 10, 2.5], [0, 0, 1]]
    assert sample["world_from_right"][0, 3] == 0.5
    (sample,) = folder(tmp_path, STEREO + CAMERA + "depth: {minimum: 2, maximum: 10}\n")
    assert not sample["depth_valid"].any()
    (sample,) = folder(tmp_path, STEREO + CAMERA, "bare")
    assert sample.keys() == {"name", "image", "right", "intrinsics", "world_from_camera", "world_from_right"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STEREO + "depth: {minimum: 1, maximum: 9}\n", "that needs `disparity` and `camera"),
        (FLOW + CAMERA + "depth: {minimum: 1, maximum: 9}\n", "that needs `disparity` and `camera"),
        (
            STEREO + CAMERA.replace(", baseline: 0.5", "") + "depth: {minimum: 1, maximum: 9}\n",
            "that needs `disparity`",
        ),
        (STEREO.replace("right: right, ", ""), r"split train is .* expected \{images: FOLDER, right: FOLDER"),
        (STEREO.replace("16}", "0}"), "maximum is 0.0 px"),
        (STEREO.replace("16}", "16, unit: 0}"), "disparity has unit 0.0"),
        (STEREO.replace("{maximum: 16}", "16"), "disparity is 16, expected"),
        (FLOW.replace("{reach: 7}", "{reach: -1}"), "reach is -1.0 px"),
        (FLOW.replace("{reach: 7}", "7"), "flow is 7, expected"),
        (STEREO + "camera: {focal: 10}\n", "camera is .* expected"),
        (STEREO + "camera: {focal: 10, center: 3}\n", "center 3, expected"),
        (STEREO + "camera: {focal: -1, center: [3, 2]}\n", "focal -1 and baseline 0"),
        (STEREO + "camera: {focal: x, center: [3, 2]}\n", "could not convert"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"sfumato\.yaml: .*{message}") as caught:
        folder(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit(tmp_path):
    data = folder(tmp_path, STEREO + CAMERA.replace("3.5", "35"))
    with pytest.raises(DataError, match=r"sfumato\.yaml: the principal point"):
        data[0]
    (tmp_path / "right" / "a.png").unlink()
    with pytest.raises(DataError, match="right is empty"):
        Folder(tmp_path)
    pair(tmp_path)
    pair(tmp_path, "b")
    (tmp_path / "disparity" / "b.pfm").unlink()
    with pytest.raises(MissingFileError, match=r"b\.png has no disparity in .*disparity \(ending in \.pfm"):
        Folder(tmp_path)


def test_check_names_pairs_of_different_sizes(tmp_path):
    pair(tmp_path)
    Image.fromarray(np.zeros((H, W + 1, 3), np.uint8)).save(tmp_path / "right" / "a.png")
    (tmp_path / "sfumato.yaml").write_text(STEREO)
    found = survey(str(tmp_path))
    assert any(f"{H} × {W} pixels but right has {H} × {W + 1}" in line for line in found.problems)
