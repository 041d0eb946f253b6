"""Readers of images with poses, on small files made here, and splits that leak."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import CambridgeLandmarks, Colmap, load
from sfumato.data.posed import check_blocks, frames_between
from sfumato.errors import ConfigError, DataError, MissingFileError

Rotation = pytest.importorskip("scipy.spatial.transform").Rotation
pytest.importorskip("roma")
RNG = np.random.default_rng(0)


def poses(count):
    """World from camera (N, 4, 4)."""
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, :3, :3] = Rotation.from_rotvec(RNG.normal(0, 0.6, (count, 3))).as_matrix()
    found[:, :3, 3] = RNG.normal(0, 3, (count, 3))
    return found


def picture(path, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def wxyz(rotation):
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return w, x, y, z


@pytest.fixture
def cambridge(tmp_path):
    truth = {}
    for file, sequence, count in (("dataset_train.txt", "seq1", 12), ("dataset_test.txt", "seq2", 5)):
        lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X, Y, Z, W, P, Q, R]", ""]
        for number, pose in enumerate(poses(count), 1):
            name = f"{sequence}/frame{number:05d}.png"
            truth[name] = pose
            picture(tmp_path / name)
            numbers = (*pose[:3, 3], *wxyz(pose[:3, :3].T))
            lines.append(" ".join([name, *(f"{n:.9f}" for n in numbers)]))
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    return tmp_path, truth


def test_cambridge_rotations_are_from_the_world_to_the_camera(cambridge):
    root, truth = cambridge
    for split, count in (("train", 12), ("val", 5)):
        found = CambridgeLandmarks(root, split, (3, 4))
        assert len(found) == count
        for sample in found:
            assert sample["world_from_camera"].numpy() == pytest.approx(truth[sample["name"]], abs=1e-5)
            rotvec = Rotation.from_matrix(truth[sample["name"]][:3, :3]).as_rotvec()
            assert sample["pose"].numpy() == pytest.approx([*truth[sample["name"]][:3, 3], *rotvec], abs=1e-5)
            assert sample["image"].shape == (3, 3, 4)


def test_cambridge_lists_with_mistakes_are_refused(cambridge):
    root, _ = cambridge
    path = root / "dataset_train.txt"
    good = path.read_text()
    lines = good.splitlines()
    for line, message in (
        ("seq1/frame00001.png 1 2 3", "line 5: expected the name"),
        ("seq1/frame00001.png 1 2 3 0.5 0 0 0", "quaternion has the length 0.5"),
        ("seq1/frame00001.png 1 2 nan 1 0 0 x", "line 5"),
    ):
        path.write_text("\n".join([*lines[:4], line, *lines[5:]]))
        with pytest.raises(DataError, match=message):
            CambridgeLandmarks(root)
    path.write_text(good.replace("frame00003", "frame00099"))
    with pytest.raises(MissingFileError, match="frame00099"):
        CambridgeLandmarks(root)
    millimeters = [f"{w[0]} {' '.join(str(5e5 * float(n)) for n in w[1:4])} {' '.join(w[4:])}"
                   for w in (line.split() for line in lines[3:])]  # fmt: skip
    path.write_text("\n".join([*lines[:3], *millimeters]))
    with pytest.raises(DataError, match="millimeters"):
        _ = CambridgeLandmarks(root).tasks
    (root / "dataset_test.txt").unlink()
    with pytest.raises(MissingFileError, match=r"dataset_test\.txt"):
        CambridgeLandmarks(root)


def write_text_model(folder, names, truth, camera="1 PINHOLE 8 6 7.0 7.5 4.0 3.0"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"# cameras\n{camera}\n")
    lines = ["# images"]
    for number, (name, pose) in enumerate(zip(names, truth), 1):
        back = np.linalg.inv(pose)
        numbers = (*wxyz(back[:3, :3]), *back[:3, 3])
        lines += [" ".join([str(number), *(f"{n:.12f}" for n in numbers), "1", name]), "" if number % 2 else "1 2 -1"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


def write_binary_model(folder, names, truth):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 8, 6, 7.0, 7.5, 4.0, 3.0))
    content = struct.pack("<Q", len(names))
    for number, (name, pose) in enumerate(zip(names, truth), 1):
        back = np.linalg.inv(pose)
        content += struct.pack("<I7dI", number, *wxyz(back[:3, :3]), *back[:3, 3], 1) + name.encode() + b"\0"
        content += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1, 2, -1, 3, 4, 7)
    (folder / "images.bin").write_bytes(content)


NAMES = [f"room/{number:03d}.png" for number in range(40)]


@pytest.fixture
def truth():
    return poses(40)


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_models_give_world_from_camera_and_blocks(tmp_path, truth, binary):
    for name in NAMES:
        picture(tmp_path / "images" / name)
    (write_binary_model if binary else write_text_model)(tmp_path / "sparse" / "0", NAMES, truth)
    train, val = (Colmap(tmp_path, split) for split in ("train", "val"))
    assert train.names == NAMES[:30]
    assert val.names == NAMES[32:]
    for number, sample in zip(range(32, 40), val):
        assert sample["world_from_camera"].numpy() == pytest.approx(truth[number], abs=1e-5)
        assert sample["intrinsics"].tolist() == [[7.0, 0.0, 3.5], [0.0, 7.5, 2.5], [0.0, 0.0, 1.0]]
    task = load("colmap", tmp_path).tasks["pose"]
    assert task.center == pytest.approx(truth[:30, :3, 3].mean(0), abs=1e-5)
    (tmp_path / "images" / NAMES[35]).unlink()
    with pytest.raises(MissingFileError, match=r"035\.png"):
        Colmap(tmp_path, "val")


def test_a_lens_that_distorts_has_no_intrinsics(tmp_path, truth):
    for name in NAMES:
        picture(tmp_path / "images" / name)
    write_text_model(tmp_path, NAMES, truth, "1 OPENCV 8 6 7.0 7.5 4.0 3.0 0.1 0 0 0")
    assert "intrinsics" not in Colmap(tmp_path)[0]


@pytest.mark.parametrize("binary", [True, False])
def test_a_model_without_images_is_refused_in_one_line(tmp_path, binary):
    (write_binary_model if binary else write_text_model)(tmp_path, [], [])
    with pytest.raises(DataError, match=r"\A[^\n]*without images[^\n]*\Z"):
        Colmap(tmp_path)
    (tmp_path / f"images.{'bin' if binary else 'txt'}").unlink()
    with pytest.raises(MissingFileError, match="holds no COLMAP model"):
        Colmap(tmp_path)


def test_damaged_models_are_refused(tmp_path, truth):
    write_binary_model(tmp_path, NAMES, truth)
    whole = (tmp_path / "images.bin").read_bytes()
    for cut in (4, 60, len(whole) // 2, len(whole) - 1):
        (tmp_path / "images.bin").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"images\.bin is cut off"):
            Colmap(tmp_path)
    (tmp_path / "images.bin").write_bytes(whole.replace(b"room/000.png", b"../../00.png"))
    with pytest.raises(DataError, match="outside of its folder"):
        Colmap(tmp_path)
    (tmp_path / "images.bin").unlink()
    write_text_model(tmp_path, NAMES, truth)
    (tmp_path / "cameras.bin").unlink()
    text = (tmp_path / "images.txt").read_text()
    (tmp_path / "images.txt").write_text(text.replace(text.split()[3], "9", 1))
    with pytest.raises(DataError, match="quaternion of the length 1"):
        Colmap(tmp_path)
    with pytest.raises(ConfigError, match="split is 'test'"):
        Colmap(tmp_path, "test")


def test_lists_that_interleave_frames_are_refused(tmp_path, truth):
    for name in NAMES:
        picture(tmp_path / "images" / name)
    write_text_model(tmp_path, NAMES, truth)
    (tmp_path / "train.txt").write_text("\n".join(NAMES[::2]))
    (tmp_path / "val.txt").write_text("\n".join(NAMES[1::2]))
    with pytest.raises(DataError, match=r"19 of 20 test images.*leaks"):
        Colmap(tmp_path)
    (tmp_path / "train.txt").write_text("\n".join(NAMES[:20]))
    (tmp_path / "val.txt").write_text("\n".join(NAMES[25:]))
    assert len(Colmap(tmp_path, "val")) == 15


def test_frames_between_training_frames():
    train = [f"frame-{number:06d}" for number in (*range(100), 150)]
    assert frames_between(train, ["frame-000050", "frame-000105", "frame-000120", "frame-000150"]) == [
        "frame-000050", "frame-000150",
    ]  # fmt: skip
    assert frames_between(["seq1/1", "seq1/3"], ["seq2/2", "other"]) == []
    check_blocks(train, ["frame-000120"] * 10 + ["frame-000099"], "here")  # the end of a block is allowed
    with pytest.raises(DataError, match="here: 2 of 2"):
        check_blocks(train, ["frame-000003", "frame-000004"], "here")


def test_poses_that_are_no_rotations_are_refused(tmp_path):
    from sfumato.data import SevenScenes

    def write(change):
        for number in range(3):
            stem = tmp_path / f"frame-{number:06d}"
            picture(tmp_path / f"{stem.name}.color.png")
            Image.fromarray(np.full((6, 8), 1000, np.uint16)).save(f"{stem}.depth.png")
            pose = np.eye(4)
            pose[0, 3] = number
            change(pose)
            np.savetxt(f"{stem}.pose.txt", pose)
        return SevenScenes(tmp_path)

    def mirrored(pose):
        pose[0, 0] = -1

    def sheared(pose):
        pose[0, 1] = 0.3

    def millimeters(pose):
        pose[:3, 3] *= 1000

    for change, message in ((mirrored, "left-handed"), (sheared, "no rotation"), (millimeters, "millimeters")):
        with pytest.raises(DataError, match=message):
            _ = write(change).tasks
    assert torch.equal(write(lambda pose: None)[1]["pose"], torch.tensor([1.0, 0, 0, 0, 0, 0]))
