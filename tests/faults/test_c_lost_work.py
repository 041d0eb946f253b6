"""Work that is done stays, whatever stops a command; and two trainings of the same plan leave the same files."""

import csv
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato import storage
from sfumato.cli import main
from sfumato.data.scenes import Scenes, dataset
from sfumato.errors import RunExistsError
from sfumato.runs import Config, Facts, Plan, Run, build_network, save_weights, task_and_likelihood, weights_path
from sfumato.storage import write_all
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (16, 24)
COLORS = {"image": {"mean": (0.5,) * 3, "std": (0.25,) * 3}}
QUIET = ["--device=cpu", "--quiet"]
SMALL = ['--network-args={"widths": [4, 8]}', "--method=deterministic", "--batch=2", *QUIET]


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """The same scenes, fewer of them."""
    for split, choices in dataset.SPLITS.items():
        monkeypatch.setitem(dataset.SPLITS, split, replace(choices, count=8))


@pytest.fixture
def run(tmp_path):
    """A run that was never trained."""
    task = Scenes(1, size=SIZE).tasks["classes"]
    config = Config(task="classes", likelihood="categorical", network_args={"widths": (4, 8)}, method="deterministic",
                    members=1, size=SIZE, crop=SIZE, epochs=1, precision="32-true")  # fmt: skip
    facts = Facts(normalization=COLORS, original_size=SIZE, images=8, counts=(1,), task_args={"classes": asdict(task)})
    plan = Plan(config, facts)
    folder = tmp_path / "run"
    folder.mkdir()
    plan.save(folder / "plan.yaml")
    torch.manual_seed(0)
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    return folder


def calibrated(run, *words):
    return main(["calibrate", str(run), *words, *QUIET])


# C18: delete, then write


class Killed(BaseException):
    """The end of the process."""


@contextmanager
def stopped_at(step, error, patch):
    """Raise ``error`` at one of the changes of the disk: 1 is the first."""
    done = []

    def counted(function):
        def call(*args, **kwargs):
            done.append(function)
            if len(done) == step:
                raise error
            return function(*args, **kwargs)

        return call

    with patch.context() as inside:
        inside.setattr(storage, "save_file", counted(storage.save_file))
        for name in ("touch", "chmod", "replace", "unlink"):
            inside.setattr(Path, name, counted(getattr(Path, name)))
        yield done


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "denied"), Killed()])
@pytest.mark.parametrize("guarantee", [False, True])
def test_a_calibration_that_is_stopped_anywhere_leaves_the_old_state_or_the_new_one(
    run, monkeypatch, error, guarantee, files_in
):
    assert calibrated(run, "--split=val[:50%]") == 0
    if guarantee:
        assert calibrated(run, "--method=conformal", "--level=0.5", "--split=val[50%:]") == 0
    old = files_in(run)
    opened = Run.open(run)
    for step in range(1, 20):
        with stopped_at(step, error, monkeypatch) as done:
            try:
                code = calibrated(run, "--method=isotonic", "--split=val[:50%]")
            except Killed:
                code = None
        now = Run.open(run)
        if files_in(run)["calibrator.safetensors"] == old["calibrator.safetensors"]:
            assert (now.conformal is None) == (opened.conformal is None), step
            assert code != 0, step
        else:
            assert type(now.calibrator).__name__ == "Isotonic", step
            assert now.conformal is None, step  # the guarantee was for other predictions
        for path in run.iterdir():
            path.unlink()
        for name, content in old.items():
            (run / name).write_bytes(content)
        if len(done) < step:
            break
    assert step > 4, "no step was stopped"


def test_a_full_disk_changes_no_file_and_is_one_line(run, monkeypatch, complaint, files_in):
    assert calibrated(run) == 0
    assert calibrated(run, "--method=conformal", "--level=0.5", "--split=val[50%:]") == 0
    before = files_in(run)
    lines_before = main(["calibrate", str(run), "--method=none", *QUIET])
    assert lines_before == 2
    complaint()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    for words in (["--method=isotonic"], ["--method=conformal", "--level=0.6", "--split=val[50%:]"]):
        assert calibrated(run, *words) == 1
        assert "disk" in complaint()
    assert files_in(run) == before


def test_several_files_are_renamed_before_any_is_deleted(tmp_path, monkeypatch):
    names = {tmp_path / name: "old" for name in ("a", "b", "old")}
    writers = {tmp_path / name: lambda part: part.write_text("new") for name in ("a", "b")}
    for step in range(1, 30):
        for path, text in names.items():
            path.write_text(text)
        with stopped_at(step, Killed(), monkeypatch) as done, suppress(Killed):
            write_all(writers, delete=[tmp_path / "old"])
        found = {path.name: path.read_text() for path in names if path.exists()}
        assert found["a"] == "old" or found["b"] == "new", step  # the first one is renamed last
        assert "old" in found or set(found.values()) == {"new"}, step
        if len(done) < step:
            break
    assert step > 4, "no step was stopped"
    assert found == {"a": "new", "b": "new"}


def test_a_method_that_cannot_be_stored_leaves_no_run(run, tmp_path, monkeypatch, complaint):
    out = tmp_path / "laplace"
    words = ["posthoc", str(run), "laplace", "--out", str(out), "--limit=2", *QUIET]
    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert main(words) == 1
    complaint()
    assert not [path for path in out.iterdir() if path.suffix in (".yaml", ".safetensors")]
    assert main(words) == 0


# C19: a guarantee can be refitted


def test_a_guarantee_is_refitted_on_its_own_images_and_keeps_the_calibrator(run):
    assert calibrated(run, "--split=val[:50%]") == 0
    before = (run / "calibrator.safetensors").read_bytes()
    for level in ("0.5", "0.6", "0.5"):
        assert calibrated(run, "--method=conformal", f"--level={level}", "--split=val[50%:]") == 0
        assert Run.open(run).conformal.level == float(level)
    assert (run / "calibrator.safetensors").read_bytes() == before


# C20: signals


def started(tmp_path, *words):
    """A command in a process group of its own, on few images from files."""
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(8):
        labels = np.zeros(SIZE, np.uint8)
        labels[:8, number : number + 8] = 1
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"{number}.png")
        Image.fromarray(np.dstack([labels * 200] * 3)).save(tmp_path / "data" / "images" / f"{number}.png")
    about = {"splits": {"train": {"images": "images", "labels": "labels"}}, "classes": ["a", "b"]}
    (tmp_path / "data" / "sfumato.yaml").write_text(yaml.safe_dump(about))
    command = [sys.executable, "-W", "ignore", "-m", "sfumato", "fit", "--data", str(tmp_path / "data"), *words]
    return subprocess.Popen(
        [*command, "--out", str(tmp_path / "run"), "--epochs=5000", "--batch=2", *QUIET, SMALL[0]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def members_of(group):
    """The processes of a group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            found.append(path.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, 143, ["--method=deterministic", "--workers=2", "--cache=none"]),
        (signal.SIGINT, 130, ["--method=ensemble", "--members=2", "--parallel-members=2", "--workers=0"]),
    ],
)
def test_a_signal_to_all_processes_ends_a_training_with_one_line_and_a_checkpoint(tmp_path, number, code, words):
    process = started(tmp_path, *words)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == code, text
    (line,) = text.splitlines()
    assert line.startswith("sfumato: ")
    assert "--resume goes on with it" in line
    assert list(tmp_path.glob("run/*.ckpt"))
    assert not list(tmp_path.glob("run/weights*"))
    while members_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members_of(process.pid)


# C21: one plan, one set of weights


def test_weights_never_lie_beside_the_plan_of_another_training(run, tmp_path, complaint, files_in):
    (run / "plan.yaml").unlink()
    before = files_in(run)
    assert main(["fit", "--out", str(run), "--epochs=1", "--size=16x24", "--workers=0", *SMALL]) == 2
    assert "has no plan.yaml, but weights-0.safetensors of another run" in complaint()
    assert files_in(run) == before


def test_a_training_that_waited_for_the_lock_looks_again(tmp_path, monkeypatch):
    import importlib

    from sfumato.training import fit as _  # noqa: F401

    module = importlib.import_module("sfumato.training.fit")
    first, second = (
        make_plan(Config(network_args={"widths": (4, 8)}, method="deterministic", epochs=1, batch=2, seed=seed),
                  Scenes(2, size=SIZE, seed=0), device="cpu")[0] for seed in (0, 1)
    )  # fmt: skip
    calls = []

    def check(*args):
        calls.append(1)
        if len(calls) == 2:  # another training ends between the check and the lock
            first.save(tmp_path / "run" / "plan.yaml")
        return original(*args)

    original = module.check_output_dir
    monkeypatch.setattr(module, "check_output_dir", check)
    with pytest.raises(RunExistsError):
        fit(second, Scenes(2, size=SIZE, seed=0), None, tmp_path / "run", progress=False, device="cpu")
    assert Plan.load(tmp_path / "run" / "plan.yaml").config.seed == 0


# C22: logs, modes, bytes


def trained(folder, *words):
    return main(["fit", "--out", str(folder), "--size=16x24", "--workers=0", *SMALL, *words])


def test_files_have_the_mode_of_any_new_file_and_equal_bytes_every_time(tmp_path, files_in):
    before = os.umask(0o027)
    try:
        for name in ("a", "b"):
            run = tmp_path / name / "run"
            assert trained(run, "--epochs=2") == 0
            assert main(["calibrate", str(run), *QUIET]) == 0
            assert main(["evaluate", str(run), "--split=val[50%:]", "--workers=0", *QUIET]) == 0
            assert main(["report", str(run), "--device=cpu"]) == 0
            Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / name / "i.png")
            assert main(["predict", str(run), str(tmp_path / name / "i.png"), "--out", str(run / "p"), *QUIET]) == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "a" / "run").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), path
    ours, theirs = (files_in(tmp_path / name / "run") for name in ("a", "b"))
    same = [name for name in ours if not name.startswith("log/") and name != "report.html"]
    assert {"weights-0.safetensors", "calibrator.safetensors", "evaluation.json", "plan.yaml"} <= set(same)
    assert [name for name in same if ours[name] != theirs.get(name)] == []


def test_a_resumed_training_keeps_the_log_of_its_first_part(tmp_path, monkeypatch):
    from sfumato.training.module import TrainingModule

    original = TrainingModule.training_step

    def stop(module, batch):
        if module.current_epoch == 2:
            raise KeyboardInterrupt
        return original(module, batch)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stop)
        assert trained(run, "--epochs=4") == 130
    assert trained(run, "--epochs=4", "--resume") == 0
    with (run / "log" / "member-0" / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
