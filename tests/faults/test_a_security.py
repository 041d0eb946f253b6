"""Opening, scoring and reporting what somebody else made runs none of their code and obeys none of their texts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.cli.demo import MARKER, clear
from sfumato.errors import NotFiniteError, RunExistsError
from sfumato.likelihoods import Categorical
from sfumato.methods import Deterministic
from sfumato.predictions import predict_streamed

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("few_scenes")]
SIZE = (16, 24)


def write_data(root, names=("a.png",), classes=("bg", "fg")):
    """A folder of 24 × 16 images with labels."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            labels = np.zeros(SIZE, np.uint8)
            labels[4:12, 4:12] = 1
            Image.fromarray(labels).save(root / split / "labels" / name)
            Image.fromarray(np.dstack([labels * 200] * 3)).save(root / split / "images" / name)
    splits = {s: {"images": f"{s}/images", "labels": f"{s}/labels"} for s in ("train", "val")}
    text = yaml.safe_dump({"splits": splits, "classes": list(classes)}, allow_unicode=False)
    (root / "sfumato.yaml").write_text(text)
    return root


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A module whose import and whose calls leave a mark."""
    path = tmp_path / "RAN"
    (tmp_path / "evil_code.py").write_text(
        f"import pathlib\npathlib.Path({str(path)!r}).write_text('imported')\n"
        "class Thing:\n    target = 'class'\n    def __init__(self, *a, **k): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("evil_code", None)
    return path


def edited(folder, section="config", **entries):
    path = folder / "plan.yaml"
    sections = yaml.safe_load(path.read_text())
    sections[section].update(entries)
    path.write_text(yaml.safe_dump(sections))
    return folder


def commands(folder, image, out):
    words = ["--device=cpu", "--quiet"]
    return {
        "predict": ["predict", folder, image, "--out", f"{out}/p", *words],
        "evaluate": ["evaluate", folder, *words],
        "calibrate": ["calibrate", folder, *words],
        "export": ["export", folder, "--quiet"],
        "report": ["report", folder, "--device=cpu"],
        "distill": ["distill", folder, "--out", f"{out}/s", *words],
        "posthoc": ["posthoc", folder, "laplace", "--out", f"{out}/l", *words],
        "compare": ["compare", folder, folder, *words],
    }


EVALUATION = {
    "data": "scenes", "root": "", "split": "val", "images": 1, "samples": 1, "seed": 0, "run_state": "", "tasks": {},
    "merged": "",
}  # fmt: skip


@pytest.mark.parametrize("command", commands("", "", ""))
def test_no_command_runs_the_code_that_a_run_names(run, image, mark, tmp_path, complaint, command):
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    edited(run, network="evil_code.Thing")
    assert main(commands(str(run), image, str(tmp_path))[command]) == 2
    assert "evil_code.Thing is code outside sfumato" in complaint()
    assert not mark.exists()


@pytest.mark.parametrize("entry", ["network", "objective", "method", "likelihood", "task", "data"])
def test_no_entry_of_a_plan_runs_code(run, mark, complaint, entry):
    edited(run, **{entry: "evil_code.Thing"})
    if entry == "task":
        edited(run, "facts", task_args={"evil_code.Thing": {}})
    used = entry != "objective"  # only a training reads it
    assert main(["evaluate", str(run), "--device=cpu", "--quiet", "--workers=0"]) == (2 if used else 0)
    assert not mark.exists()
    if used:
        assert "evil_code.Thing is code outside sfumato" in complaint()


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("subprocess.Popen", {"args": ["touch", "RAN"], "bufsize": "CHANNELS"}),
        ("shutil.rmtree", {"path": "victim", "ignore_errors": "CHANNELS"}),
        ("sfumato.registry._attribute", {"module": "evil_code", "name": "CHANNELS"}),
        ("sfumato.data.load", {"name": "evil_code.Thing", "trust": True, "size": "CHANNELS"}),
        ("sfumato.cli.demo.clear", {"folder": "victim"}),
        ("sfumato.cli.demo.demo", {"out": "victim", "seed": "CHANNELS"}),
        ("sfumato.cli.main", {"arguments": ["demo", "--out", "victim"]}),
        ("sfumato.storage.write_tensors", {"path": "victim/notes", "tensors": {}}),
        ("sfumato.storage.os.system", {"command": "touch RAN"}),
        ("sfumato.storage.os", {}),
        ("sfumato.storage.Path", {}),
        ("sfumato.cli.values.Converter", {"metavar": "CHANNELS", "expected": "", "read": ""}),
        ("sfumato.serving.Bundle", {"path": "victim/notes"}),
        ("sfumato.registry.BUILT_IN", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("trust", [[], ["--trust"]])
def test_a_network_that_is_no_module_is_never_called(run, image, mark, tmp_path, complaint, path, arguments, trust):
    (tmp_path / "victim").mkdir()
    for name in (MARKER, "notes"):
        (tmp_path / "victim" / name).write_text("mine")
    edited(run, network=path, network_args=arguments)
    assert main(["predict", str(run), image, "--out=o", "--device=cpu", *trust]) == 2
    complaint()
    assert not mark.exists()
    assert sorted(each.name for each in (tmp_path / "victim").iterdir()) == [MARKER, "notes"]


@pytest.mark.parametrize("path", ["sfumato.cli.demo.demo", "sfumato.storage.atomic_write", "sfumato.serving.Bundle"])
@pytest.mark.parametrize("entry", ["data", "task", "objective", "likelihood", "method"])
def test_code_of_sfumato_is_only_used_for_what_it_is_made_for(run, tmp_path, monkeypatch, complaint, path, entry):
    monkeypatch.chdir(tmp_path)
    clear(tmp_path / "victim")
    (tmp_path / "victim" / "plan.yaml").write_text("mine")
    edited(run, **{entry: path, "root": str(tmp_path / "victim")})
    edited(run, "facts", task_args={path: {"out": "victim", "path": "victim"}})
    command = "distill" if entry == "objective" else "evaluate"
    code = main([command, str(run), "--device=cpu", "--quiet"])
    assert code == 2
    complaint()
    assert (tmp_path / "victim" / "plan.yaml").read_text() == "mine"


def test_the_data_in_an_evaluation_are_not_trusted(run, mark, complaint):
    for changes in ({"data": "evil_code.Thing"}, {"tasks": {"classes": task_with_ood("evil_code.Thing")}}):
        (run / "evaluation.json").write_text(json.dumps({**EVALUATION, **changes}))
        assert main(["report", str(run), "--device=cpu", "--allow-stale"]) == 2
        assert "evil_code.Thing is code outside sfumato" in complaint()
        assert not mark.exists()


def task_with_ood(name):
    return {
        "scores": {}, "headline": [], "curves": {}, "per_image": {}, "per_class": {}, "class_names": [],
        "uncalibrated": None, "teacher": None, "ood": {"name": name, "root": "", "histograms": {}},
    }  # fmt: skip


def test_a_teacher_is_trusted_no_more_than_its_student(tmp_path, mark, complaint, write_run):
    teachers = [edited(write_run(tmp_path / "first"), network="evil_code.Thing")]
    teachers.append(write_run(tmp_path / "second", likelihood="distilled", teacher=str(teachers[0])))
    student = write_run(tmp_path / "student", likelihood="distilled", teacher=str(teachers[0]))
    assert main(["evaluate", str(student), "--device=cpu", "--quiet"]) == 2
    assert "evil_code.Thing is code outside sfumato" in complaint()
    edited(student, teacher=str(teachers[1]))
    main(["distill", str(teachers[1]), "--device=cpu", "--quiet", "--epochs=1", "--out", str(tmp_path / "o")])
    assert not mark.exists()


@pytest.mark.parametrize("entry", ["network", "data", "method", "objective", "likelihood", "task"])
def test_a_file_of_options_is_not_trusted(tmp_path, mark, complaint, entry):
    (tmp_path / "options.yaml").write_text(f"{entry}: evil_code.Thing\nout: {tmp_path / 'o'}\n")
    assert main(["fit", "--config=options.yaml", "--quiet"]) == 2
    assert "pass --trust evil_code.Thing" in complaint()
    (tmp_path / "options.yaml").write_text(f"{entry}: evil_code.Thing\ntrust: all\n")
    assert main(["fit", "--config=options.yaml", "--quiet"]) == 2
    assert "only the command line can" in complaint()
    assert not mark.exists()


def test_an_exported_file_names_no_code(tmp_path, image, mark, complaint):
    onnx = pytest.importorskip("onnx")
    about = {
        "inputs": [{"name": "image", "channels": 3, "map": True, "type": "float32"}], "map": True,
        "outputs": ["probs", "aleatoric"], "unit": "nats", "method": "deterministic", "likelihood": "categorical",
        "multiple": 1, "scale": [1.0, 1.0], "draws": 1, "quantiles": None, "kind": "class", "conformal": None,
    }  # fmt: skip
    outputs = ("probs", "aleatoric")
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["b", 3, "h", "w"]) for name in ("image", *outputs)]
    nodes = [onnx.helper.make_node("Identity", ["image"], [name]) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    for task, arguments in (("evil_code.Thing", {}), ("sfumato.cli.demo.demo", {"out": "victim"})):
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.helper.set_model_props(model, {"sfumato": json.dumps(about | {"task": task, "task_args": arguments})})
        onnx.save(model, tmp_path / "evil.onnx")
        assert main(["predict", str(tmp_path / "evil.onnx"), image, "--out=o", "--quiet"]) == 2
        assert task in complaint()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["thesis.tex", "log/notes.txt", "plan.yaml/x", "weights-0.safetensors.bak", "cache/x"])
def test_a_demo_keeps_what_it_did_not_make(tmp_path, name):
    clear(tmp_path / "demo")
    mine = tmp_path / "demo" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("work")
    (tmp_path / "demo" / "report.html").write_text("old")
    with pytest.raises(RunExistsError, match="the demo did not make"):
        clear(tmp_path / "demo")
    assert mine.read_text() == "work"
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.parametrize("marked", [False, True])
def test_a_demo_follows_no_links(tmp_path, marked):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plan.yaml").write_text("mine")
    if marked:
        clear(tmp_path / "demo")
        (tmp_path / "demo" / "log").symlink_to(tmp_path / "work")
    else:
        (tmp_path / "demo").symlink_to(tmp_path / "work")
    with pytest.raises(RunExistsError):
        clear(tmp_path / "demo")
    assert (tmp_path / "work" / "plan.yaml").read_text() == "mine"


def test_a_training_deletes_no_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "run" / "cache").mkdir(parents=True)
    (tmp_path / "run" / "cache" / "notes.txt").write_text("mine")
    assert main(["fit", "--data", str(write_data(tmp_path / "data")), "--out", str(tmp_path / "run"), *QUICK]) == 0
    assert (tmp_path / "run" / "cache" / "notes.txt").read_text() == "mine"


QUICK = ["--epochs=1", "--batch=1", "--quiet", "--device=cpu", "--workers=0", "--method=deterministic",
         '--network-args={"widths": [4, 8]}']  # fmt: skip


def test_a_streamed_prediction_deletes_no_folder_of_others_and_keeps_nothing_that_is_not_finite(tmp_path):
    pytest.importorskip("zarr")
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "notes.txt").write_text("mine")
    image = np.zeros((3, 8, 8), np.float32)
    method, likelihood = Deterministic(torch.nn.Conv2d(3, 2, 1)), Categorical(2)
    predict_streamed(method, image, tmp_path / "out", likelihood=likelihood, tile=(8, 8), overlap=2)
    with pytest.raises(NotFiniteError):
        predict_streamed(method, image + np.nan, tmp_path / "two", likelihood=likelihood, tile=(8, 8), overlap=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.part"]
    assert (tmp_path / "out.part" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else '1'}]" for n in range(9)),
        "a: &a [*a]",
        "[" * 20_000,
        "{a: " * 20_000,
        "- " * 20_000,
        "!!python/object/apply:os.system ['touch RAN']",
        "a: 1" + "0" * 5000,
        "? [a, b]\n: 1",
    ],
)
@pytest.mark.parametrize("place", ["plan", "data", "options"])
def test_yaml_that_is_meant_to_hurt_is_one_line(run, image, tmp_path, monkeypatch, complaint, place, text):
    monkeypatch.chdir(tmp_path)
    file = {"plan": run / "plan.yaml", "data": tmp_path / "d" / "sfumato.yaml", "options": tmp_path / "o.yaml"}[place]
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    words = {"plan": ["predict", str(run), image], "data": ["fit", "--data=d"], "options": ["fit", "--config=o.yaml"]}
    assert main(words[place]) == 2
    assert len(complaint()) < 700
    assert not Path("RAN").exists()


NAMES = (
    "[/]",
    "[red]x[/red]",
    "\x1b[2J\x1b]0;owned\x07",
    "</script><script>alert(1)</script>",
    "\u202eabc",
    "$\\frac$",
)


@pytest.fixture
def quiet_terminal(capsys):
    """Checks what was printed: no character that a terminal obeys."""

    def check():
        found = capsys.readouterr()
        for text in (found.out, found.err):
            assert all(c.isprintable() or c == "\n" for c in text), repr(text)
        return found

    return check


def test_names_of_classes_are_text_everywhere(tmp_path, image, quiet_terminal, monkeypatch):
    """From training to the report; a class without a pixel is named in a warning, too."""
    monkeypatch.setenv("COLUMNS", "400")
    data, run = write_data(tmp_path / "data", ("a.png", "b.png"), NAMES), str(tmp_path / "run")
    assert main(["fit", "--data", str(data), "--out", run, *QUICK]) == 0
    assert "\\x1b[2J" in quiet_terminal().err
    words = ["--device=cpu", "--quiet"]
    assert main(["evaluate", run, "--all", "--workers=0", *words]) == 0
    assert "[red]x[/red]" in quiet_terminal().out
    assert main(["calibrate", run, "--method=conformal", "--class=no", *words]) == 2
    assert main(["predict", run, image, "--out", str(tmp_path / "p"), *words]) == 0
    assert main(["report", run, "--device=cpu"]) == 0
    quiet_terminal()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page


def test_names_of_files_and_runs_are_text_everywhere(tmp_path, quiet_terminal):
    names = ("\x1b[31ma.png", "[bold]b[\\.png", "c\n\rd.png", "\udcff.png")
    data, run = write_data(tmp_path / "data", names), tmp_path / "\x1b[2J[red]run"
    assert main(["fit", "--data", str(data), "--out", str(run), *QUICK]) == 0
    words = ["--device=cpu", "--quiet"]
    assert main(["evaluate", str(run), "--workers=0", *words]) == 0
    assert main(["calibrate", str(run), *words]) == 0
    assert main(["evaluate", str(run), "--workers=0", *words]) == 2
    assert main(["predict", str(run), str(data / "val" / "images"), "--out", str(tmp_path / "p"), *words]) == 0
    assert main(["evaluate", str(run), "--debug", "--split=\x1b[2J"]) == 2
    assert main(["report", str(run), "--device=cpu", "--allow-stale"]) == 0
    quiet_terminal()
    assert "\x1b" not in (run / "report.html").read_text()


def test_texts_that_are_no_unicode_are_refused_or_written(tmp_path, quiet_terminal):
    data = write_data(tmp_path / "data", classes=("a", "\ud800"))
    assert main(["fit", "--data", str(data), "--out", str(tmp_path / "run"), *QUICK]) in (0, 2)
    quiet_terminal()
