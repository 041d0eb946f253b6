"""`sfumato fuse` from a folder to a mesh, and the folders that it refuses."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.errors import MissingDependencyError
from sfumato.fusion import Volume, fuse_frames, mesh_of
from sfumato.predictions import ClassPrediction, JointPrediction, ValuePrediction, entropy
from sfumato.report.fused import write_fused
from sfumato.runs import Predicted
from sfumato.tasks import Depth, Semantic

CAMERA = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def write_frames(folder, count=4):
    """A wall at 1.5 m, with a hole in the depth, from a camera that moves to the side."""
    folder.mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", CAMERA)
    for number in range(count):
        pose, depth = np.eye(4), np.full((48, 64), 1500 + 4 * number, np.uint16)
        pose[0, 3] = 0.02 * number
        depth[:8, :8], depth[-8:, -8:] = 0, 65535
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / f"frame-{number:06d}.color.png")
        Image.fromarray(depth).save(folder / f"frame-{number:06d}.depth.png")
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", pose)
    return folder


def test_a_folder_becomes_a_mesh_a_volume_and_pictures(tmp_path, capsys):
    frames, out = write_frames(tmp_path / "frames"), tmp_path / "room"
    assert main(["fuse", str(frames), "--out", str(out), "--voxel", "0.04", "--views", "2", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "4 frames of" in printed
    assert "mm of the frames" in printed
    assert {path.name for path in out.iterdir()} == {
        "mesh.ply", "volume.safetensors", "frame-000001_view.png", "frame-000003_view.png"
    }  # fmt: skip
    volume = Volume.load(out / "volume.safetensors")
    assert volume.frames == 4
    assert np.asarray(Image.open(out / "frame-000001_view.png")).shape[0] > 100
    header = (out / "mesh.ply").read_bytes().partition(b"end_header")[0].decode()
    assert "property float sigma\n" in header


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--voxel", "0"], "voxel is 0"),
        (["--voxel", "0.00001"], "check the units"),
        (["--truncation", "0.01"], "at least 2 voxels"),
        (["--gate", "2"], "gate is 2"),
        (["--step", "0"], "step is 0"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, capsys, options, message):
    frames = write_frames(tmp_path / "frames", 2)
    assert main(["fuse", str(frames), "--out", str(tmp_path / "out"), "--quiet", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def damage_pose(folder):
    (folder / "frame-000001.pose.txt").write_text("1 0 0 0\n0 -1 0 0\n0 0 1 0\n0 0 0 1\n")


def damage_depths(folder):
    for path in folder.glob("*.depth.png"):
        Image.fromarray(np.zeros((48, 64), np.uint16)).save(path)


def damage_intrinsics(folder):
    (folder / "camera-intrinsics.txt").write_text("600 0 320\n0 600 240\n0 0 1\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_pose, "frame-000001: .* mirrors"),
        (damage_depths, "no frame has valid depth"),
        (damage_intrinsics, "frame-000000: .*scale the intrinsics"),
        (lambda folder: (folder / "frame-000001.depth.png").unlink(), "frame-000001.depth.png"),
    ],
)
def test_bad_folders_are_one_line(tmp_path, capsys, damage, message):
    frames = write_frames(tmp_path / "frames", 2)
    damage(frames)
    assert main(["fuse", str(frames), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


class Predicts:
    """Stands for a run of depth and classes of one image."""

    class backend:
        inputs = ("image",)
        tasks = {"depth": Depth(0.5, 6.0), "classes": Semantic(("wall", "floor"), ((9, 9, 9), (200, 9, 9)))}  # noqa: RUF012

    def __call__(self, image, index=0):
        mean = torch.full((1, 1, *image.shape[-2:]), 2.0)
        probs = torch.tensor([0.8, 0.2])[None, :, None, None].expand(1, 2, *image.shape[-2:])
        depth = ValuePrediction(mean, 0.0004 + 0 * mean, 0 * mean, "m")
        return Predicted(JointPrediction({"depth": depth, "classes": ClassPrediction(probs, entropy(probs))}), {})


def test_predictions_of_a_run_take_the_place_of_the_camera(tmp_path):
    fused = fuse_frames(write_frames(tmp_path / "frames", 3), Predicts(), voxel=0.04)
    assert fused.task.names == ("wall", "floor")
    near = fused.volume.blocks.find(torch.tensor([0, 0, 50]))  # at 2 m, not at 1.5 m
    assert fused.volume.sums("count")[near] == 3
    assert fused.volume.blocks.find(torch.tensor([0, 0, 37])) < 0
    rows = fused.volume.rows(near[None])
    probs, _ = fused.volume.class_moments(rows).pooled(independent=False)
    assert probs[0].tolist() == pytest.approx([0.8, 0.2], abs=1e-5)


def test_views_show_the_classes_of_a_run(tmp_path):
    fused = fuse_frames(write_frames(tmp_path / "frames", 3), Predicts(), voxel=0.04)
    mesh = write_fused(fused, tmp_path / "room", views=1)
    assert mesh.classes.label.unique().tolist() == [0]
    assert (tmp_path / "room" / "frame-000001_view.png").is_file()
    header = (tmp_path / "room" / "mesh.ply").read_bytes().partition(b"end_header")[0].decode()
    assert "property int label\nproperty float confidence\n" in header


def test_a_mesh_without_its_library_is_refused(tmp_path, monkeypatch):
    fused = fuse_frames(write_frames(tmp_path / "frames", 1), voxel=0.04)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(MissingDependencyError, match=r"sfumato\[fusion\]"):
        mesh_of(fused.volume)
