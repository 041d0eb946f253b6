"""The path of a camera from files, by OpenCV's flow or a run, and depth from files or a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.geometry import check_poses, read_kitti, read_tum, relative_pose_errors
from sfumato.geometry.pose import inverse, log
from sfumato.runs import Predictor, RunBackend
from sfumato.serving.camera_path import camera_path, depth_of_files, depth_of_run, dis_flow_of, flow_of_run
from sfumato.tasks import Depth, Flow

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """Two frames of a generated scene, the depth of both (that of the second is not used), and the camera matrix."""
    folder = tmp_path_factory.mktemp("sequence")
    sample = Scenes(1, size=(96, 128), seed=3, views=True)[0]
    counts = (1000 * sample["depth_true"][0]).round().clamp(0, 65534).numpy().astype(np.uint16)
    for number, name in enumerate(("image", "next")):
        pixels = (255 * sample[name]).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(folder / f"frame_{number}.png")
        (folder / "depth").mkdir(exist_ok=True)
        Image.fromarray(counts).save(folder / "depth" / f"frame_{number}.png")
    np.savetxt(folder / "camera.txt", sample["intrinsics"].numpy())
    poses = [check_poses(sample[f"world_from_{name}"]) for name in ("camera", "next")]
    return folder, sample, inverse(poses[0]) @ poses[1]


def exact_flow(sample):
    """The true flow, which is uncertain where it is not known."""
    variance = torch.where(sample["flow_valid"], 0.01, 1e4)
    return lambda first, second: (sample["flow"], variance * torch.eye(2)[:, :, None, None])


def test_the_path_of_exact_flow_and_depth_is_the_true_one(sequence):
    folder, sample, truth = sequence
    depth = depth_of_files(str(folder / "depth"), 0.001)
    path = camera_path(str(folder / "*.png"), sample["intrinsics"], exact_flow(sample), depth)
    assert path.times.tolist() == [0, 1]
    assert log(truth @ inverse(path.world_from_camera[1])).abs().max() < 2e-3
    assert path.position_covariance[1].trace().sqrt() < 5e-3


def test_the_command_finds_the_path_by_opencv_and_writes_both_formats(sequence, tmp_path, capsys):
    pytest.importorskip("cv2")
    folder, _, truth = sequence
    words = ["egomotion", "dis", str(folder / "*.png"), f"--depth={folder / 'depth'}",
             f"--intrinsics={folder / 'camera.txt'}"]  # fmt: skip
    assert main([*words, f"--out={tmp_path / 'path.txt'}"]) == 0
    assert "2 poses are in" in capsys.readouterr().out
    path = read_tum(tmp_path / "path.txt")
    moved = truth[:3, 3].norm().item()
    assert (path.world_from_camera[1, :3, 3] - truth[:3, 3]).norm() < 0.2 * moved
    covariances = np.loadtxt(tmp_path / "path_covariance.txt")
    assert covariances.shape == (2, 37)
    assert (np.linalg.eigvalsh(covariances[1, 1:].reshape(6, 6)) > 0).all()
    kitti = [f"--out={tmp_path / 'kitti.txt'}", "--format=kitti", f"--truth={tmp_path / 'kitti.txt'}"]
    assert main([*words, kitti[0], kitti[1]]) == 0
    assert main([*words, *kitti]) == 0
    assert "median: 0.0000 m, 0.000 degrees" in capsys.readouterr().out
    assert relative_pose_errors(read_kitti(tmp_path / "kitti.txt"), path, 1).meters.max() < 1e-6


def test_runs_of_flow_and_depth_give_their_covariances(make_run):
    flow = make_run(task="flow", inputs=("image", "next"), tasks={"flow": Flow()}, likelihood="laplace-full")
    depth = make_run(task="depth", tasks={"depth": Depth(1.0, 80.0, "m")}, likelihood="gaussian")
    vectors, covariance = flow_of_run(Predictor(RunBackend(flow)))(*2 * [torch.rand(1, 3, 16, 24)])
    assert vectors.shape == (2, 16, 24)
    assert (torch.linalg.eigvalsh(covariance.movedim((0, 1), (-2, -1))) > 0).all()
    found, variance = depth_of_run(Predictor(RunBackend(depth)))(0, torch.rand(1, 3, 16, 24))
    assert found.shape == variance.shape == (1, 16, 24)
    assert (variance > 0).all()
    with pytest.raises(ConfigError, match="run is of depth, expected a run of flow"):
        flow_of_run(Predictor(RunBackend(depth)))
    with pytest.raises(ConfigError, match="run is of flow, expected a run of depth"):
        depth_of_run(Predictor(RunBackend(flow)))


def test_a_static_video_is_a_path_that_stays(sequence, tmp_path):
    pytest.importorskip("cv2")
    folder, sample, _ = sequence
    for number in range(3):
        Image.open(folder / "frame_0.png").save(tmp_path / f"frame_{number}.png")
        (tmp_path / "depth").mkdir(exist_ok=True)
        Image.open(folder / "depth" / "frame_0.png").save(tmp_path / "depth" / f"frame_{number}.png")
    depth = depth_of_files(str(tmp_path / "depth"), 0.001)
    path = camera_path(str(tmp_path / "*.png"), sample["intrinsics"], dis_flow_of, depth)
    assert path.world_from_camera[:, :3, 3].abs().max() < 1e-3
    far = camera_path(str(tmp_path / "*.png"), sample["intrinsics"], dis_flow_of, depth, gap=2)
    assert far.times.tolist() == [0, 2]


def test_what_cannot_be_a_path_is_refused(sequence, tmp_path):
    folder, sample, _ = sequence
    flow, depth = exact_flow(sample), depth_of_files(str(folder / "depth"), 0.001)
    frames, camera = str(folder / "*.png"), sample["intrinsics"]
    with pytest.raises(ConfigError, match="gap is 0"):
        camera_path(frames, camera, flow, depth, gap=0)
    with pytest.raises(DataError, match="no two frames"):
        camera_path(frames, camera, flow, depth, gap=2)
    with pytest.raises(DataError, match=r"frames 0 and 1 of .*: half of the points .* millimeters"):
        camera_path(frames, camera, flow, depth_of_files(str(folder / "depth"), 1.0))
    with pytest.raises(DataError, match="principal point"):
        camera_path(frames, torch.tensor([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]]), flow, depth)
    for number in (0, 1, 3):
        (tmp_path / f"frame_{number}.png").write_bytes((folder / "frame_0.png").read_bytes())
    with pytest.raises(MissingFileError, match="lacks frames"):
        camera_path(str(tmp_path), camera, flow, depth)
    (tmp_path / "frame_3.png").rename(tmp_path / "frame_2.png")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "frame_0.png").write_bytes((folder / "depth" / "frame_0.png").read_bytes())
    with pytest.raises(DataError, match="depth of 1 frames"):
        camera_path(str(tmp_path / "*.png"), camera, flow, depth_of_files(str(tmp_path / "one"), 0.001))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth=depth"], "--intrinsics is missing"),
        (["--intrinsics=camera.txt"], "--depth is missing"),
        (["--depth=depth", "--intrinsics=camera.txt", "--format=evo"], "expected tum or kitti"),
    ],
)
def test_the_command_says_what_is_missing(sequence, monkeypatch, capsys, words, message):
    monkeypatch.chdir(sequence[0])
    assert main(["egomotion", "dis", "*.png", *words]) == 2
    assert message in capsys.readouterr().err
