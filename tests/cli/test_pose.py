"""Camera poses from the command line: a model of a user's images, and everything that a run of poses can do."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.evaluation import Evaluation
from sfumato.geometry import read_tum
from sfumato.predictions import PosePrediction
from sfumato.runs import Run

Rotation = pytest.importorskip("scipy.spatial.transform").Rotation
pytest.importorskip("roma")
pytestmark = pytest.mark.filterwarnings("ignore")
COUNT = 60
QUIET = ["--quiet", "--device=cpu"]
FIT = ["fit", *QUIET, "--workers=0", "--task=pose", "--size=24x32", "--epochs=1", "--samples=3", "--logger=csv",
       '--network-args={"widths": [4, 8], "hidden": 8}']  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A COLMAP model of a camera that moves along a wall of colors."""
    root = tmp_path_factory.mktemp("place")
    (root / "images").mkdir()
    lines = []
    for number in range(COUNT):
        shift, turn = number / COUNT, 0.4 * np.sin(number / 5)
        y, x = np.mgrid[:24, :32] / 32
        pixels = np.stack([np.sin(6 * (x + shift)), np.cos(5 * (y + turn)), x * y], -1)
        Image.fromarray((127 + 120 * pixels).clip(0, 255).astype(np.uint8)).save(
            root / f"images/frame-{number:03d}.png"
        )
        back = Rotation.from_euler("y", turn).inv()
        qx, qy, qz, qw = back.as_quat()
        tx, ty, tz = -back.apply([2 * shift, 0.1, 0.2])
        lines += [f"{number + 1} {qw} {qx} {qy} {qz} {tx} {ty} {tz} 1 frame-{number:03d}.png", ""]
    (root / "cameras.txt").write_text("1 PINHOLE 32 24 30 30 16 12\n")
    (root / "images.txt").write_text("\n".join(lines) + "\n")
    return root


def fit(place, out, *words):
    return main([*FIT, "--data=colmap", f"--root={place}", f"--out={out}", *words])


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pose"
    assert fit(place, folder, "--method=mc-dropout") == 0
    return folder


def scores(run, *words):
    assert main(["evaluate", str(run), *QUIET, "--workers=0", "--samples=3", *words]) == 0
    return {name: each.value for name, each in Evaluation.load(run / "evaluation.json").tasks["pose"].scores.items()}


def test_a_run_of_poses_is_scored_calibrated_predicted_and_reported(run, place, tmp_path, capsys):
    plan = (run / "plan.yaml").read_text()
    assert "gaussian-full" in plan
    assert "pose-net" in plan
    before = scores(run)
    assert before["images"] == 12
    assert before["position_std"] > 0
    assert np.isfinite(
        [before[name] for name in ("position_median", "rotation_mean", "nll", "position_spearman")]
    ).all()
    assert main(["calibrate", str(run), *QUIET, "--split=val[:50%]"]) == 0
    assert scores(run, "--split=val[50%:]")["images"] == 6
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Path of the camera" in page
    assert "<svg" in page
    assert "probability of the ellipsoid" in page
    out = tmp_path / "out"
    words = [str(run), str(place / "images"), "--out", str(out), "--filter", "0.05", "2", "--samples=3", *QUIET]
    assert main(["predict", *words]) == 0
    path, smooth = (read_tum(out / f"trajectory{name}.txt") for name in ("", "_filtered"))
    assert len(path) == len(smooth) == COUNT
    assert path.times.tolist() == list(range(COUNT))
    about = json.loads((out / "frame-007.json").read_text())["pose"]
    stored = PosePrediction.load(out / "frame-007.safetensors")
    assert path.world_from_camera[7, :3, 3].tolist() == pytest.approx(about["position"], abs=1e-6)
    assert torch.tensor(about["covariance"]).numpy() == pytest.approx(stored.covariance[0].numpy(), rel=1e-5, abs=1e-9)
    assert stored.draws == 3
    pixels = torch.from_numpy(np.array(Image.open(place / "images/frame-007.png"))).movedim(-1, 0)
    again = Run.open(run).predict(pixels[None], samples=3, index=7)
    assert again.mean.numpy() == pytest.approx(stored.mean.numpy(), abs=1e-5)
    table = (out / "trajectory_covariance.txt").read_text().splitlines()
    assert len(table) == 1 + COUNT
    assert len(table[1].split()) == 37


@pytest.mark.parametrize(
    "words",
    [
        ["--method=deterministic", "--likelihood=laplace-full", "--objective=posenet"],
        ["--method=ensemble", "--members=2", "--likelihood=gaussian", "--objective=posenet-learned"],
    ],
)
def test_other_methods_likelihoods_and_losses(place, tmp_path, words):
    assert fit(place, tmp_path / "run", *words) == 0
    found = scores(tmp_path / "run")
    assert found["images"] == 12
    opened = Run.open(tmp_path / "run")
    prediction = opened.predict(torch.rand(2, 3, 24, 32))
    assert isinstance(prediction, PosePrediction)
    assert bool((prediction.epistemic > 0).all()) is ("--members=2" in words)


def test_laplace_makes_draws_of_poses(run):
    assert main(["posthoc", str(run), "laplace", *QUIET]) == 0
    assert scores(run.with_name("pose-laplace"))["images"] == 12
    prediction = Run.open(run.with_name("pose-laplace")).predict(torch.rand(1, 3, 24, 32))
    assert prediction.epistemic.item() > 0


def test_unusual_images_are_flagged(run):
    parts = ["--split=val[50%:75%]", "--on=val[75%:]"]  # another test may have calibrated the run on the first half
    assert main(["decide", "flag", str(run), "--rate=0.9", "--samples=3", *parts, *QUIET]) == 0


def test_feature_density_gives_a_novelty_that_is_scored(run):
    assert main(["posthoc", str(run), "feature-density", *QUIET]) == 0
    assert -1 <= scores(run.with_name("pose-feature-density"))["novelty_spearman"] <= 1


def test_bad_input_gets_one_line(run, place, tmp_path, capsys):
    def refused(words, message):
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error

    capsys.readouterr()
    refused([*FIT, "--data=colmap", f"--root={place}", f"--out={tmp_path / 'a'}", "--crop=8x8"], "part of an image")
    refused([*FIT, "--data=colmap", f"--root={place}", f"--out={tmp_path / 'a'}", "--network=unet",
             '--network-args={"widths": [4, 8]}'], "a pose is one value for each image")  # fmt: skip
    refused([*FIT, "--data=colmap", f"--root={place}", f"--out={tmp_path / 'a'}", "--objective=posenet-geometric"],
            "no 'depth'")  # fmt: skip
    refused([*FIT, "--data=colmap", f"--root={tmp_path}", f"--out={tmp_path / 'a'}"], "holds no COLMAP model")
    refused(["predict", str(run), str(place / "images"), "--out", str(tmp_path / "b"), "--filter", "-1", "2", *QUIET],
            "both above 0")  # fmt: skip
    refused(["calibrate", str(run), *QUIET, "--method=conformal", "--split=val[50%:]"], "not for poses")
    refused(["predict", str(run), str(place / "images"), "--out", str(tmp_path / "b"), "--video=overlay", *QUIET],
            "no map to draw")  # fmt: skip
    refused(["export", str(run)], "cannot be exported")
    assert not (tmp_path / "b").exists()


def test_frames_that_training_has_seen_are_labeled_as_leakage(run, capsys):
    scores(run, "--split=train")
    error = capsys.readouterr().err
    assert "leakage: 45 of 45 images" in error
