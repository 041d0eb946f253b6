"""A package of somebody else adds a task with two inputs, and every command works with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FIT = ["fit", "--data", "toy-pairs", "--network", "toy-stereo-net", "--method", "weight-noise", "--objective",
       "photometric", "--samples", "4", "--batch", "4", "--workers", "0", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed package."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"
    shutil.copytree(HERE / "toy_stereo", source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture(scope="module")
def sfumato(site, tmp_path_factory):
    """Runs a command and returns what it prints."""
    work = tmp_path_factory.mktemp("work")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*arguments, code=0):
        command = [sys.executable, "-W", "ignore", "-m", "sfumato", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work)
        assert found.returncode == code, found.stderr + found.stdout
        return found.stdout + found.stderr

    run.work = work
    return run


@pytest.fixture(scope="module")
def trained(sfumato):
    sfumato(*FIT, "--epochs", "2", "--out", "run")
    return sfumato.work / "run"


def test_plugins_are_listed(sfumato):
    printed = sfumato("plugins")
    for name in (
        "toy_disparity",
        "toy-pairs",
        "student-t",
        "weight-noise",
        "photometric",
        "bad-pixels",
        "toy-stereo-net",
    ):
        assert name in printed
    assert "toy-stereo" in printed


def test_a_run_is_trained_without_labels(trained):
    plan = (trained / "plan.yaml").read_text()
    assert "objective: photometric" in plan
    assert "likelihood: student-t" in plan
    assert "- right" in plan
    assert (trained / "weights-0.safetensors").exists()


def test_it_is_evaluated_with_its_own_score(trained, sfumato):
    sfumato("evaluate", trained, "--scores", "bad-pixels", "--split", "val[50%:]", "--quiet")
    scores = json.loads((trained / "evaluation.json").read_text())["tasks"]["toy_disparity"]["scores"]
    assert 0 <= scores["bad1"]["value"] <= 1
    assert scores["epe"]["value"] > 0


def test_it_is_calibrated_and_reported(trained, sfumato, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    sfumato("calibrate", run, "--split", "val[:50%]", "--quiet")
    sfumato("evaluate", run, "--split", "val[50%:]", "--quiet")
    sfumato("report", run)
    page = (run / "report.html").read_text()
    assert "VarianceScaling" in page
    assert "weight-noise" in page


def test_pairs_of_files_are_predicted(trained, sfumato, tmp_path):
    from PIL import Image

    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            Image.new("RGB", (40, 30), (90, 120, 30)).save(tmp_path / side / f"{name}.png")
    sfumato("predict", trained, tmp_path / "left", tmp_path / "right", "--out", tmp_path / "maps")
    assert {"a.safetensors", "b.safetensors"} <= {path.name for path in (tmp_path / "maps").rglob("*")}


def test_it_is_exported(trained, sfumato, tmp_path):
    sfumato("export", trained, "--out", tmp_path / "model.onnx", "--deterministic")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["image", "right"]


def test_a_run_whose_plugin_is_missing_says_so(trained):
    command = [sys.executable, "-W", "ignore", "-m", "sfumato", "evaluate", str(trained)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert found.stderr.startswith("sfumato: ")
    assert found.stderr.count("\n") == 1
    assert "toy_disparity" in found.stderr or "student-t" in found.stderr or "weight-noise" in found.stderr
