"""The commands as a user types them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.cli.demo import MARKER
from sfumato.evaluation import Evaluation
from sfumato.predictions import ClassPrediction
from sfumato.runs import Plan, Run

pytestmark = pytest.mark.filterwarnings("ignore")
PREDICT = ["--samples=2", "--quiet", "--device=cpu"]


def evaluate(folder, *words):
    return main(["evaluate", str(folder), *PREDICT, "--workers=0", *words])


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run."""
    return shutil.copytree(trained, tmp_path / "run")


def test_fit_leaves_a_readable_plan(trained):
    sections = yaml.safe_load((trained / "plan.yaml").read_text())
    assert sections["config"]["likelihood"] == "logit-normal"
    assert (sections["config"]["scale"], sections["config"]["color"]) == ([1.0, 1.0], 0.0)  # scenes are not zoomed
    assert sections["facts"]["images"] > 0
    assert (trained / "weights-0.safetensors").exists()
    assert list(trained.glob("log/member-0/metrics.csv"))


def test_a_plan_is_a_config_and_can_be_overridden(trained, tmp_path):
    out = str(tmp_path / "again")
    words = ["--config", str(trained / "plan.yaml"), "--seed", "7", "--out", out, "--quiet", "--device=cpu"]
    assert main(["fit", *words, "--workers=0"]) == 0
    first, second = ((p / "plan.yaml").read_text() for p in (trained, tmp_path / "again"))
    assert first.replace("seed: 0", "seed: 7") == second


def test_evaluate_prints_tables_and_json(run, capsys):
    assert evaluate(run) == 0
    table = capsys.readouterr().out
    assert "miou" in table
    assert "aurc_aleatoric" not in table
    assert "by class" in table
    assert "AUPR" in table
    assert evaluate(run, "--all") == 0
    table = capsys.readouterr().out
    assert "aurc_aleatoric" in table
    assert "by class" in table
    assert "sphere" in table
    assert evaluate(run, "--json") == 0
    scores = json.loads(capsys.readouterr().out)["classes"]
    assert 0 <= scores["accuracy"] <= 1
    assert Evaluation.load(run / "evaluation.json").tasks["classes"].scores["nll"].value == scores["nll"]


def test_evaluate_out_of_distribution_then_report(run, capsys):
    assert evaluate(run, "--ood", "scenes:novel") == 0
    assert "ood_auroc_epistemic" in capsys.readouterr().out
    assert main(["report", str(run), "--device=cpu", "--samples=2"]) == 0
    page = (run / "report.html").read_text()
    assert "Out of distribution: scenes:novel" in page
    assert "logit-normal" in page
    assert "val nll" in page


def test_calibrate_evaluate_predict_report_export(run, tmp_path, capsys, errors):
    folder = str(run)
    assert evaluate(run, "--split=val[50%:]") == 0
    assert main(["calibrate", folder, *PREDICT]) == 0
    assert "Next, on other images: sfumato evaluate" in capsys.readouterr().out
    assert main(["report", folder, "--device=cpu"]) == 2
    assert "was trained or calibrated after its evaluation" in errors()[0]
    assert main(["report", folder, "--device=cpu", "--allow-stale"]) == 0
    assert "scores on this page are older than the run" in (run / "report.html").read_text()
    assert evaluate(run) == 2
    assert "was used to calibrate" in errors()[0]
    conformal = ["--method=conformal", "--level=0.6", "--split=val[50%:80%]", "--class=ground"]
    assert main(["calibrate", folder, *conformal, *PREDICT]) == 0
    assert "share of the ground pixels whose set lacks ground" in capsys.readouterr().out
    assert evaluate(run, "--split=val[80%:]") == 0
    printed = capsys.readouterr().out
    assert "uncalibrated" in printed
    assert "risk" in printed
    assert main(["report", folder, "--device=cpu"]) == 0
    page = (run / "report.html").read_text()
    assert "further classes" in page
    assert "Temperature on 4 other images" in page
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(image)
    assert main(["predict", folder, str(image), "--out", str(tmp_path / "out"), *PREDICT]) == 0
    assert (tmp_path / "out" / "a_set_size.png").exists()
    assert main(["calibrate", folder, "--reset"]) == 0
    assert not list(run.glob("c*.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split=train"], "trained on these images"),
        (["--method=platt"], "temperature"),
        (["--method=conformal"], "held-out images are too few for level 0.9"),
        (["--method=conformal", "--level=0.6", "--class=dog"], "'dog'"),
        (["--level=1.5", "--method=conformal"], "level is 1.5"),
        (["--level=0.6", "--method=conformal", "--unit=sequence"], "1 held-out sequences are too few"),  # one in names
        (["--unit=sequence"], "unit are for --method conformal"),
        (["--unit=video", "--method=conformal"], "unit is 'video'"),
    ],
)
def test_calibrate_refuses(make_run, errors, words, message):
    assert main(["calibrate", str(make_run()), *PREDICT, *words]) == 2
    assert message in errors()[0]


def test_predict_a_file_and_an_exported_file(make_run, tmp_path, capsys):
    folder = make_run(method="deterministic")
    image = tmp_path / "-dash.png"
    Image.fromarray(np.random.default_rng(0).integers(255, size=(20, 30, 3), dtype=np.uint8)).save(image)
    assert main(["predict", str(folder), str(image), "--out", str(tmp_path / "a"), "--quiet", "--device=cpu"]) == 0
    assert "1 predictions are in" in capsys.readouterr().out
    assert main(["export", str(folder), "--precision=float16", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "of the run" in printed
    assert "→" in printed
    model = folder / "model.onnx"
    assert main(["predict", str(model), str(image), "--out", str(tmp_path / "b"), "--quiet"]) == 0
    ours, theirs = (ClassPrediction.load(tmp_path / name / "-dash.safetensors") for name in ("a", "b"))
    assert ours.probs.shape[-2:] == (20, 30)
    assert np.allclose(ours.probs, theirs.probs, atol=2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "no/such/run"], "does not exist"),
        (["fit", "--data", "nowhere"], "nowhere"),
        (["fit", "--data", "camvid"], "root"),
        (["fit", "--data", "camvid", "--root", "/no/such/folder"], "/no/such/folder"),
        (["fit", "--method", "magic"], "expected one of"),
        (["fit", "--likelihood", "magic"], "expected one of"),
        (["fit", "--task", "magic"], "no task"),
        (["fit", "--members", "3", "--method", "mc-dropout"], "members"),
        (["fit", "--members", "-1"], "members is -1"),
        (["fit", "--limit", "-1"], "limit is -1"),
        (["fit", "--batch", "0"], "batch is 0"),
        (["fit", "--device", "tpu"], "device is 'tpu'"),
        (["fit", "--network", "no.such.Net", "--size=16x24", "--limit=2"], "no.such.Net"),
        (["fit", "--tasks", "classes,odor"], "odor"),
        (["fit", "--weighting", "equal"], "several tasks"),
        (["compare", "one"], "expected two or more"),
        (["predict", "no/such/run", "a.png"], "does not exist"),
        (["report", "no/such/run"], "does not exist"),
        (["export", "no/such/run"], "does not exist"),
        (["posthoc", "no/such/run", "laplace"], "does not exist"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(tmp_path, monkeypatch, errors, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    lines = errors()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "runs").exists()


def test_exports_that_cannot_be(make_run, errors):
    folder = str(make_run())
    for words, message in (
        ([], "pass --deterministic"),
        (["--precision=int4"], "expected one of float32, float16, int8"),
        (["--precision=int8", "--format=torch-export"], "with onnx"),
        (["--format=tflite"], "format is 'tflite'"),
        (["--out=/no/such/folder/m.onnx"], "/no/such/folder is not a folder"),
    ):
        assert main(["export", folder, *words]) == 2
        assert message in errors()[-1]


def test_report_before_evaluate_says_what_to_do(make_run, errors):
    folder = make_run()
    assert main(["report", str(folder)]) == 2
    assert "sfumato evaluate" in errors()[0]
    (folder / "evaluation.json").write_text('{"data": "sce')
    assert main(["report", str(folder)]) == 2
    assert "cut off" in errors()[0]


def test_compare_prints_differences(make_run, capsys):
    folders = [str(make_run("first")), str(make_run("second", seed=1, samples=3))]
    words = ["--quiet", "--device=cpu", "--workers=0", "--split=val"]
    assert main(["compare", *folders, *words]) == 0
    assert "second − first" in capsys.readouterr().out
    for kind, sign in (("markdown", "|"), ("latex", r"\toprule"), ("csv", "difference_low")):
        assert main(["compare", *folders, *words, "--format", kind]) == 0
        assert sign in capsys.readouterr().out
    assert main(["compare", *folders, *words, "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_posthoc_and_distill_leave_runs(make_run, tmp_path, capsys):
    folder = make_run(method="deterministic")
    assert main(["posthoc", str(folder), "test-time-augmentation", "--quiet", "--device=cpu"]) == 0
    assert Run.open(f"{folder}-test-time-augmentation").config.method == "test-time-augmentation"
    teacher = make_run("teacher", method="mc-dropout")
    words = ["--quiet", "--device=cpu", "--workers=0", "--epochs=1", "--batch=4"]
    words += ["--unlabeled=textures:val[:2%],scenes:val[:50%]", "--perturb=0.5"]
    assert main(["distill", str(teacher), *words]) == 0
    assert "The student is in" in capsys.readouterr().out
    student = Plan.load(tmp_path / "teacher-student" / "plan.yaml")
    assert student.facts.images == Plan.load(teacher / "plan.yaml").facts.images + 6
    assert (student.config.method, student.config.teacher) == ("deterministic", str(teacher.absolute()))


def test_several_tasks_from_scores_to_report(make_run, capsys, errors):
    tasks, likelihoods = ("classes", "centers", "depth"), ("categorical", "l1", "gaussian")
    folder = make_run(tasks=tasks, likelihoods=likelihoods, network_args={"widths": (4, 8)})
    assert evaluate(folder) == 0
    table = capsys.readouterr().out
    assert all(f"{task} of run" in table for task in tasks)
    assert main(["report", str(folder), "--device=cpu"]) == 0
    page = (folder / "report.html").read_text()
    shown = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["tasks"]
    assert list(shown) == list(tasks)
    assert len({len(task["images"]) for task in shown.values()}) == 1
    for command in ("calibrate", "export"):
        assert main([command, str(folder)]) == 2
        assert "has the tasks classes, centers, depth" in errors()[-1]


def test_a_demo_deletes_nothing_of_others(tmp_path, errors):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plan.yaml").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "work")]) == 2
    assert "holds files that are not of a demo" in errors()[0]
    assert (tmp_path / "work" / "plan.yaml").read_text() == "mine"
    assert not (tmp_path / "work" / MARKER).exists()


def test_a_demo_replaces_an_earlier_one(tmp_path):
    from sfumato.cli.demo import clear

    clear(tmp_path / "demo")
    (tmp_path / "demo" / "plan.yaml").write_text("old")
    clear(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARKER]


def test_two_processes_print_once(trained, tmp_path):
    script = tmp_path / "score.py"
    script.write_text(
        "import sys\nfrom dataclasses import replace\n"
        "from sfumato.cli import main\nfrom sfumato.data.scenes import dataset\n"
        "for s, c in dataset.SPLITS.items(): dataset.SPLITS[s] = replace(c, count=5)\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = ["evaluate", str(trained), "--samples=2", "--devices=2", "--json", "--device=cpu", "--workers=0"]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert 0 <= json.loads(line)["classes"]["accuracy"] <= 1
