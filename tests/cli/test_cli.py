"""The command line as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.predictions import ClassPrediction

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ["--size=[16,24]", "--epochs=1", "--limit=6", "--batch=3", "--samples=2", "--quiet",
         '--network_args={"widths": [4, 8], "dropout": 0.2}']  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    """The same scenes, fewer of them."""
    from sfumato.data import open as opening

    patch = pytest.MonkeyPatch()
    for split, choices in opening.SCENES.items():
        patch.setitem(opening.SCENES, split, choices | {"count": 6})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--likelihood", "logit-normal", "--out", str(folder), *QUICK]) == 0
    return folder


def said(capsys):
    """What was printed to stderr by us; not what torch warns of."""
    lines = capsys.readouterr().err.strip().splitlines()
    return [line for line in lines if line.startswith("sfumato:")]


def test_fit_leaves_a_readable_plan(run):
    text = (run / "plan.yaml").read_text()
    assert "likelihood: logit-normal" in text
    assert "fingerprint:" in text
    assert (run / "weights-0.safetensors").exists()
    assert list(run.glob("log/member-0/metrics.csv"))
    assert list(run.glob("log/member-0/events.*"))


def test_a_plan_is_a_config_and_can_be_overridden(run, tmp_path):
    out = str(tmp_path / "again")
    assert main(["fit", "--config", str(run / "plan.yaml"), "--seed", "7", "--out", out, "--quiet"]) == 0
    first, second = ((p / "plan.yaml").read_text() for p in (run, tmp_path / "again"))
    assert first.replace("seed: 0", "seed: 7") == second


def test_scenes_are_neither_zoomed_nor_recolored(run):
    """A zoomed scene would have another noise at the same depth than its law says."""
    from sfumato.training.plan import Plan

    plan = Plan.load(run / "plan.yaml")
    assert (plan.scale, plan.color) == ((1.0, 1.0), 0.0)


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sfumato", "--version"], capture_output=True, text=True, check=True)
    assert "sfumato" in done.stdout


def test_evaluate_prints_a_table_and_json(run, capsys):
    assert main(["evaluate", str(run), "--samples", "2", "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "miou" in table
    assert "aurc_aleatoric" not in table
    assert main(["evaluate", str(run), "--samples", "2", "--quiet", "--all"]) == 0
    table = capsys.readouterr().out
    assert "aurc_aleatoric" in table
    assert "precision" in table
    assert "sphere" in table
    assert main(["evaluate", str(run), "--samples", "2", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert 0 <= scores["accuracy"] <= 1
    assert json.loads((run / "evaluation.json").read_text())["scores"]["nll"][0] == scores["nll"]


def test_evaluate_compares_worlds_and_report_shows_them(run, capsys):
    assert main(["evaluate", str(run), "--samples", "2", "--quiet", "--ood", "scenes:novel"]) == 0
    assert "ood_ratio_epistemic" in capsys.readouterr().out
    assert main(["report", str(run), "--samples", "2"]) == 0
    page = (run / "report.html").read_text()
    assert "scenes:novel" in page
    assert "logit-normal" in page


def test_calibrate_evaluate_predict_report(run, tmp_path, capsys):
    from shutil import copytree

    folder = str(copytree(run, tmp_path / "run"))
    assert main(["calibrate", folder, "--samples=2", "--quiet"]) == 0
    assert "Next, on other images: sfumato evaluate" in capsys.readouterr().out
    assert main(["evaluate", folder, "--samples=2", "--quiet"]) == 2
    assert said(capsys)[0].endswith("--method none`")
    promised = ["--method=conformal", "--level=0.6", "--split=val[50%:80%]", "--of=ground"]
    assert main(["calibrate", folder, *promised, "--samples=2", "--quiet"]) == 0
    assert "false negatives of ground" in capsys.readouterr().out
    assert main(["evaluate", folder, "--split=val[80%:]", "--samples=2", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "uncalibrated" in printed
    assert "risk" in printed
    assert main(["report", folder, "--samples=2"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "further classes" in page
    assert "Temperature on 3 other images" in page
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(image)
    assert main(["predict", folder, str(image), "--out", str(tmp_path / "out"), "--samples=2"]) == 0
    assert (tmp_path / "out" / "a_sets.png").exists()
    assert main(["calibrate", folder, "--method=none"]) == 0
    assert not (tmp_path / "run" / "calibrator.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split=train"], "trained on these images"),
        (["--method=platt"], "expected one of temperature"),
        (["--method=conformal"], "3 held-out images are too few for level 0.9: it needs at least 9"),
        (["--method=conformal", "--of=dog"], "no class 'dog'"),
    ],
)
def test_calibrate_refuses(run, capsys, arguments, message):
    assert main(["calibrate", str(run), "--samples=2", "--quiet", *arguments]) == 2
    assert message in said(capsys)[0]


@pytest.mark.parametrize(("mode", "size"), [("RGB", (30, 20)), ("L", (24, 16)), ("RGBA", (24, 16)), ("RGB", (1, 1))])
def test_predict_writes_every_map(run, tmp_path, mode, size):
    image = tmp_path / "photo.png"
    Image.new(mode, size, 100).save(image)
    out = tmp_path / "out"
    assert main(["predict", str(run), str(image), "--out", str(out), "--samples", "2"]) == 0
    maps = ("label", "probability", "total", "aleatoric", "epistemic")
    assert {p.name for p in out.iterdir()} == {f"photo_{name}.png" for name in maps} | {"photo.safetensors"}
    assert ClassPrediction.load(out / "photo.safetensors").probs.shape[-2:] == size[::-1]


def test_predict_on_tiles(run, tmp_path):
    image = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(255, size=(40, 50, 3), dtype=np.uint8)).save(image)
    out = ["--out", str(tmp_path / "out"), "--samples=2"]
    assert main(["predict", str(run), str(image), *out, "--tile=16"]) == 0
    found = ClassPrediction.load(tmp_path / "out" / "a.safetensors")
    assert found.probs.shape[-2:] == (40, 50)
    assert torch.allclose(found.probs.sum(1), torch.ones(1, 40, 50), atol=1e-4)


def test_predict_reads_folders_globs_and_videos(run, tmp_path):
    cv2 = pytest.importorskip("cv2")
    frames = tmp_path / "frames"
    frames.mkdir()
    for n in range(2):
        Image.new("RGB", (24, 16), (0, 50 * n, 0)).save(frames / f"f{n}.png")
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (24, 16))
    for n in range(3):
        film.write(np.full((16, 24, 3), 60 * n, np.uint8))
    film.release()
    for given, expected in ((frames, 2), (frames / "*1.png", 1), (tmp_path / "film.avi", 3)):
        out = tmp_path / f"out{expected}"
        assert main(["predict", str(run), str(given), "--out", str(out), "--samples", "2"]) == 0
        assert len(list(out.glob("*.safetensors"))) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "no/such/run"], "is not a run"),
        (["fit", "--data", "nowhere"], "nowhere"),
        (["fit", "--data", "camvid"], "--root"),
        (["fit", "--data", "camvid", "--root", "/no/such/folder"], "is not a folder"),
        (["fit", "--method", "magic"], "expected one of"),
        (["fit", "--likelihood", "magic"], "expected one of"),
        (["fit", "--task", "magic"], "no task"),
        (["fit", "--members", "3"], "--method ensemble"),
        (["fit", "--method", "swag", "--size=[16,24]", "--limit=2", "--epochs=3"], "at least 80 steps"),
        (["fit", "--network", "no.such.Net", "--size=[16,24]", "--limit=2"], "class path"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = said(capsys)
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "runs").exists()


def test_unreadable_images_are_named(run, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    assert main(["predict", str(run), str(tmp_path / "cut.png"), "--out", str(tmp_path / "o")]) == 2
    assert "cut.png" in said(capsys)[0]
    assert main(["predict", str(run), str(tmp_path / "none*.png")]) == 2
    assert "names no image" in said(capsys)[0]


def test_report_before_evaluate_says_what_to_do(run, tmp_path, capsys):
    for name in ("plan.yaml", "weights-0.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert main(["report", str(tmp_path)]) == 2
    assert "sfumato evaluate" in said(capsys)[0]
    (tmp_path / "evaluation.json").write_text('{"data": "sce')
    assert main(["report", str(tmp_path)]) == 2
    assert "cut off" in said(capsys)[0]


def test_full_disk_is_one_line_and_exit_1(monkeypatch, tmp_path, capsys):
    from sfumato.training import run as running

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "save_weights", full)
    assert main(["fit", "--out", str(tmp_path / "r"), *QUICK]) == 1
    assert "free some disk space" in said(capsys)[0]


@pytest.mark.parametrize("command", ["demo", "fit", "evaluate", "predict", "report"])
def test_help_says_what_each_setting_means(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "folder" in capsys.readouterr().out


def test_print_config_is_yaml(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--epochs", "3", "--print-config"])
    assert "epochs: 3" in capsys.readouterr().out


@pytest.fixture(scope="module")
def script(run):
    """The command, on few scenes, as a program that can be started in several processes."""
    path = run.parent / "score.py"
    path.write_text(
        "import sys\nfrom sfumato.data import open as o\nfrom sfumato.cli import main\n"
        "for s in o.SCENES: o.SCENES[s] = o.SCENES[s] | {'count': 5}\nsys.exit(main(sys.argv[1:]))\n"
    )
    return path


def test_two_processes_train_one_run(script, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(script), "fit", "--devices=2", f"--out={out}", *QUICK[:2], *QUICK[3:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.count("The run is in") == 1
    assert (out / "weights-0.safetensors").exists()


def test_two_processes_score_like_one(run, script):
    """The draws of an image depend on its number, so sharing the images out changes nothing."""
    found = []
    for devices in ("1", "2"):
        command = [sys.executable, str(script), "evaluate", str(run), "--samples=2", f"--devices={devices}", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        found.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    one, two = found
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "several"
    tasks = ["--tasks", "classes,centers,depth", "--weighting", "uncertainty"]
    assert main(["fit", *tasks, "--out", str(folder), *QUICK]) == 0
    return folder


def test_several_tasks_from_data_to_report(several, tmp_path, capsys):
    assert main(["evaluate", str(several), "--quiet"]) == 0
    table = capsys.readouterr().out
    assert all(f"{task} of several" in table for task in ("classes", "centers", "depth"))
    assert main(["evaluate", str(several), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["centers"]["epe"] > 0
    assert scores["classes"].keys() != scores["depth"].keys()
    assert main(["report", str(several)]) == 0
    page = (several / "report.html").read_text()
    told = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["tasks"]
    assert list(told) == ["classes", "centers", "depth"]
    assert len({len(task["images"]) for task in told.values()}) == 1
    assert "classes weight" in page
    picture = tmp_path / "cat.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(picture)
    assert main(["predict", str(several), str(picture), "--out", str(tmp_path / "out"), "--tile", "16"]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"cat_classes_probability.png", "cat_centers_total.png", "cat_depth.safetensors"} <= written


def test_what_several_tasks_cannot_do_is_said(several, capsys):
    for command, told in (
        (["calibrate", str(several)], "has the tasks classes, centers, depth"),
        (["export", str(several)], "has the tasks classes, centers, depth"),
        (["fit", "--tasks", "classes,flow", *QUICK], "no task 'flow'"),
        (["fit", "--weighting", "equal", *QUICK], "of several tasks"),
    ):
        assert main(command) == 2
        assert told in said(capsys)[-1]
