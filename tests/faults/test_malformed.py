"""Malformed inputs: every case ends in a correct result, or in one line on stderr and the documented exit code.

The cases are generated. ``attempt`` of ``conftest.py`` checks how a command ends, and that no file of the run is lost.
"""

import json
import os
import pickle
import shutil
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from sfumato.cli import COMMANDS, _command
from sfumato.cli.options import options_of
from sfumato.cli.values import MISSING
from sfumato.runs import Config, Facts
from sfumato.training.callbacks import checkpoint_path
from sfumato.training.folder import locked

PREDICT = ("predict", "run", "data/val/images/i0.png", "--device=cpu", "--quiet", "--out=predictions")
EVALUATE = ("evaluate", "run", "--data=other", "--device=cpu", "--quiet", "--workers=0")
CALIBRATE = ("calibrate", "run", "--data=other", "--split=val", "--device=cpu", "--quiet")
REPORT = ("report", "run", "--device=cpu", "--allow-stale")
EXPORT = ("export", "run", "--deterministic")
POSTHOC = ("posthoc", "run", "test-time-augmentation", "--device=cpu", "--quiet", "--out=new")


def png(image):
    """The bytes of an image as PNG."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 255, (16, 24, 3)).astype(np.uint8)
WHOLE = png(Image.fromarray(PIXELS))
HUGE = WHOLE[:16] + (60_000).to_bytes(4, "big") * 2 + WHOLE[24:]  # a header that promises 3.6 gigapixels
FILES = {
    "empty": b"",
    "one-byte": b"\x89",
    "header-only": WHOLE[:33],
    "cut-off": WHOLE[: len(WHOLE) // 2],
    "last-bytes-missing": WHOLE[:-12],
    "text": b"this is no image\n",
    "zeros": bytes(500),
    "huge-header": HUGE,
    "json": b"{}",
    "other-kind": b"GIF89a" + bytes(20),
    "jpeg-start": b"\xff\xd8\xff\xe0" + bytes(100),
    "one-pixel": png(Image.new("RGB", (1, 1))),
    "one-row": png(Image.new("RGB", (24, 1))),
    "bilevel": png(Image.new("1", (24, 16))),
    "gray": png(Image.new("L", (24, 16))),
    "16-bit": png(Image.fromarray(np.zeros((16, 24), np.uint16))),
    "alpha": png(Image.new("RGBA", (24, 16))),
    "palette": png(Image.new("P", (24, 16))),
    "gray-alpha": png(Image.new("LA", (24, 16))),
}


def written(name, content):
    """Damage: a file with other content."""
    return lambda place: (place / name).write_bytes(content)


def special(name, kind):
    """Damage: something that is no regular file."""

    def change(place):
        path = place / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "loop":
            path.symlink_to(path)

    return change


SPECIAL = ("fifo", "folder", "dangling", "loop", "missing")


@pytest.mark.parametrize("name", FILES)
def test_images_to_predict(attempt, name):
    attempt(PREDICT, written("data/val/images/i0.png", FILES[name]))


@pytest.mark.parametrize("kind", SPECIAL)
def test_images_that_are_no_files(attempt, kind):
    code, line = attempt(PREDICT, special("data/val/images/i0.png", kind))
    assert code == 2
    assert "i0.png" in line


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("entry", ["images", "labels"])
def test_images_and_labels_of_a_data_set(attempt, entry, name):
    code, line = attempt(EVALUATE, written(f"other/val/{entry}/i1.png", FILES[name]))
    assert code == 0 or "i1" in line


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["other/val/images/i1.png", "other/val/labels/i1.png", "other/val/labels"])
def test_entries_of_a_data_set_that_are_no_files(attempt, name, kind):
    code, line = attempt(EVALUATE, special(name, kind))
    assert code == 2 or name.endswith("images/i1.png")  # what is no file is no image
    assert code == 0 or Path(name).stem in line


def section(name, change):
    """Damage: another section of a plan."""

    def damage(place):
        plan = yaml.safe_load((place / "run" / "plan.yaml").read_text(encoding="utf-8"))
        change(plan[name])
        (place / "run" / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")

    return damage


VALUES = (None, "text", -1, 0, 1.5, float("nan"), float("inf"), True, [], [1, "a"], [[]], {}, {"a": 1}, "x" * 3000)
FIELDS = [(name, f.name) for name, kind in (("config", Config), ("facts", Facts)) for f in fields(kind)]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_entry_of_a_plan_with_values_of_every_type(attempt, name, field):
    for value in VALUES:
        code, line = attempt(PREDICT, section(name, lambda entries: entries.update({field: value})))  # noqa: B023
        assert code == 0 or len(line) <= 1010
    code, _ = attempt(PREDICT, section(name, lambda entries: entries.pop(field)))


BOMB = "a: &a [x, x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi"))
TEXTS = {
    "empty": "", "list": "- 1\n", "number": "3\n", "text": "plan\n", "bomb": BOMB,
    "tag": "!!python/object/apply:os.getcwd []\n", "tabs": "config:\n\t- 1\n", "open": "config: {",
    "twice": "config: {}\n---\nfacts: {}\n", "null": "config:\nfacts:\n",
    "unknown": "config: {magic: 1}\nfacts: {}\n", "binary": "\x00\x01\x02",
    "keys": "config: {1: 2}\nfacts: {[1]: 2}\n", "deep": "[" * 5000,
    "long": "config: {data: " + "x" * 2_000_000 + "}\nfacts: {}\n", "lists": "config: []\nfacts: []\n",
    "date": "config: {data: 2020-01-01}\nfacts: {}\n", "set": "config: !!set {a}\nfacts: {}\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["run/plan.yaml", "other/sfumato.yaml"])
def test_yaml_files_with_other_contents(attempt, name, text):
    code, line = attempt(PREDICT if name.startswith("run") else EVALUATE, written(name, TEXTS[text].encode()))
    assert code == 2
    assert Path(name).name in line


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["run/plan.yaml", "other/sfumato.yaml", "run/weights-0.safetensors", "run", "other"])
def test_files_of_a_run_or_data_set_that_are_no_files(attempt, name, kind):
    code, line = attempt(EVALUATE, special(name, kind))
    assert code == 2
    assert Path(name).stem in line


DESCRIBED = ("splits", "classes", "colors", "void", "depth", "max_megapixels", "folds", "magic")


@pytest.mark.parametrize("field", DESCRIBED)
def test_every_entry_of_a_data_description_with_values_of_every_type(attempt, field):
    for value in VALUES:

        def change(place, value=value):
            path = place / "other" / "sfumato.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text("utf-8")) | {field: value}), encoding="utf-8")

        attempt(("evaluate", "run", "--data=other", "--device=cpu", "--quiet", "--workers=0"), change)


def numbers():
    """Every option of every command that takes a number, with values that are none or too small."""
    for command in COMMANDS:
        for option in options_of(_command(command)):
            if any(kind in option.kind for kind in ("int", "float")):
                yield command, option.flag, option.kind


@pytest.mark.parametrize(("command", "flag", "kind"), list(numbers()))
def test_every_number_on_the_command_line(attempt, command, flag, kind):
    nowhere = ["--data=nowhere"]
    known = {"fit": nowhere, "loop": nowhere, "demo": ["--out=run"], "wrap": [*nowhere, "--network=torch.nn.Conv2d"]}
    needed = [option for option in options_of(_command(command)) if option.default is MISSING]
    words = known.get(command, [word for option in needed for word in ["run"] * (1 + option.kind.startswith("list"))])
    several = "..." in kind
    for value in ("text", "nan", "inf", "-inf", "1e400", *(["a,b"] if several else ["", "1,2,3,4,5"])):
        code, line = attempt([command, *words, f"{flag}={value}"])
        assert code == 2
        assert flag[2:].replace("-", "_") in line
    for value in ("-1", "0", "-2", "1" + "0" * 40):
        attempt([command, *(words if command in known else ["nowhere"] * len(words)), f"{flag}={value}"])


ONCE = [
    (*PREDICT, "--samples=0"), (*PREDICT, "--tile=1"), (*PREDICT, "--tile=3"), (*PREDICT, "--seed=-1"),
    (*PREDICT, "--device=gpu"), (*EVALUATE, "--split=vall"), (*EVALUATE, "--split=val[9:9]"),
    (*EVALUATE, "--split=val[x]"), (*EVALUATE, "--ood=magic"), (*EVALUATE, "--scores=magic"),
    (*EVALUATE, "--root=nowhere"), (*EVALUATE, "--device=tpu"), (*EVALUATE, "--devices=0"),
    (*EVALUATE, "--samples=100000000000"), (*EVALUATE, "--seed=99999999999999999999999"), (*EVALUATE, "--out=run"),
    (*EVALUATE, "--out=run/plan.yaml/x.json"), (*CALIBRATE, "--method=magic"),
    (*CALIBRATE, "--method=conformal", "--level=2"), (*CALIBRATE, "--method=conformal", "--level=1"),
    (*CALIBRATE, "--method=conformal", "--level=0"), (*CALIBRATE, "--method=conformal", "--class=magic"),
    (*CALIBRATE, "--method=conformal", "--delta=1"), (*CALIBRATE, "--task=magic"),
    ("calibrate", "run", "--split=train"), (*EXPORT, "--format=magic"), (*EXPORT, "--input=magic"),
    (*EXPORT, "--precision=magic"), (*EXPORT, "--format=torch-export", "--precision=int8"),
    (*EXPORT, "--out=nowhere/model.onnx"), (*EXPORT, "--task=depth"), ("export", "run"),
    (*REPORT, "--out=nowhere/page.html"), (*REPORT, "--samples=0"), (*REPORT, "--out=run"),
    ("posthoc", "run", "magic"), ("posthoc", "run", "ensemble"), ("posthoc", "run", "laplace", "--out=run"),
    ("compare", "run"), ("compare", "run", "nowhere"), ("plugins", "--group=magic"), ("magic",), ("predict",),
    ("predict", "run"), ("evaluate", "run", "run"), ("distill", "run", "--likelihood=magic"),
    ("distill", "run", "--network=magic"), ("distill", "run", "--unlabeled=magic"),
    ("distill", "run", "--init-from=nowhere"), ("demo", "--out=data"), ("demo", "--out=run"), ("evaluate", "data"),
    ("predict", "data/sfumato.yaml", "data"), ("predict", "run", "*.nothing"),
    ("predict", "run", "data/sfumato.yaml"), ("predict", "nowhere.onnx", "data"),
    ("evaluate", "run", "--config=run/plan.yaml"), ("evaluate", "run", "--config=nowhere"),
    ("evaluate", "run", "--config=data/val/images/i0.png"), ("fit", "--out=run", "--data=data"),
]  # fmt: skip


@pytest.mark.parametrize("words", ONCE, ids=" ".join)
def test_values_that_cannot_be_met(attempt, words):
    code, _ = attempt(words)
    assert code in (1, 2) or words in ((*PREDICT, "--tile=3"), (*PREDICT, "--tile=1"), (*REPORT, "--out=run"))


FIT = ("fit", "--data=data", "--out=new", "--epochs=1", "--device=cpu", "--workers=0", "--quiet")
CHOICES = [
    "--method=mc-dropuot", "--likelihood=categoricl", "--likelihood=gaussian", "--network=unett", "--task=clases",
    "--data=camvd", "--objective=nl", "--precision=16", "--cache=disc", "--device=cdua", "--members=4",
    "--members=1000000000", "--weighting=equal", "--weights=1,2", "--tasks=classes,classes", "--tasks=,",
    "--task=classes --tasks=classes,depth", "--crop=[-3,4]", "--size=0,5", "--size=1,1", "--devices=0", "--epochs=-1",
    "--network-args=[1]", "--network-args={", "--network-args={widths: 3}", "--network-args={widths: [0, 0]}",
    "--network-args={magic: 1}", "--network-args={dropout: 7}", "--network-args={widths: [a, b]}",
    "--objective-args={magic: 1}", "--init-from=nowhere", "--init-from=data",
    "--init-from=run --network-args={widths: [4, 16]}", "--scale=2,1", "--scale=0,0.0001", "--color=2",
    "--learning-rate=0", "--learning-rate=1e30", "--ema=1", "--limit=-1", "--teacher=nowhere",
    "--method=laplace --likelihood=magic", "--method=batch-ensemble --batch=1", "--parallel-members=2", "--batch=0",
    "--method=os.getcwd", "--network=os.getcwd", "--network=subprocess.Popen", "--root=nowhere", "--output=logits",
    "--method=variance-propagation --network=torch.nn.Conv2d", "--samples=0", "--log-variance=1e9",
    "--seed=123456789012345678901234567890",
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_of_a_training_that_cannot_be_met(attempt, choice):
    attempt([*FIT, *choice.split(" --")[0:1], *(f"--{more}" for more in choice.split(" --")[1:])])


def tensors(**values):
    """The bytes of a safetensors file with these tensors and nothing else."""

    def damage(name):
        return lambda place: save_file({k: torch.as_tensor(v) for k, v in values.items()}, place / name)

    return damage


def half(name):
    """Damage: the second half of a file is missing."""

    def damage(place):
        path = place / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def evaluation(change):
    """Damage: other entries in evaluation.json."""

    def damage(place):
        path = place / "run" / "evaluation.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        change(found)
        path.write_text(json.dumps(found), encoding="utf-8")

    return damage


STORED = ("weights-0.safetensors", "calibrator.safetensors", "conformal.safetensors", "method.safetensors")
DAMAGES = {
    "empty": lambda name: written(name, b""),
    "text": lambda name: written(name, b"hello"), "zeros": lambda name: written(name, bytes(64)),
    "long-header": lambda name: written(name, b"\xff" * 64), "foreign": tensors(other=torch.ones(3)),
    "nothing": tensors(nothing=torch.zeros(0)),
    "list-as-metadata": lambda name: written(name, _header({"__metadata__": {"sfumato": "[1]"}})),
    "number-as-metadata": lambda name: written(name, _header({"__metadata__": {"sfumato": "3"}})),
    "no-fields": lambda name: written(name, _header({"__metadata__": {"sfumato": '{"type": "Temperature"}'}})),
    "folder": lambda name: special(name, "folder"), "fifo": lambda name: special(name, "fifo"),
}  # fmt: skip


def _header(header):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STORED)
def test_stored_tensors_that_are_damaged(attempt, name, damage):
    code, line = attempt(PREDICT, DAMAGES[damage](f"run/{name}"))
    assert code == 2 or name in STORED[3:]
    assert code == 0 or name in line


@pytest.mark.parametrize("words", [PREDICT, EVALUATE, CALIBRATE, REPORT, EXPORT, POSTHOC], ids=lambda words: words[0])
@pytest.mark.parametrize(
    "damage", [half("run/weights-0.safetensors"), half("run/plan.yaml"), special("run", "missing")]
)
def test_every_command_on_a_run_that_is_cut_off(attempt, words, damage):
    code, _ = attempt(words, damage)
    assert code == 2


JSON = {
    "empty": written("run/evaluation.json", b""), "half": half("run/evaluation.json"),
    "list": written("run/evaluation.json", b"[]"), "number": written("run/evaluation.json", b"3"),
    "deep": written("run/evaluation.json", b"[" * 100_000), "binary": written("run/evaluation.json", b"\xff\xfe"),
    "folder": special("run/evaluation.json", "folder"), "fifo": special("run/evaluation.json", "fifo"),
    "missing": special("run/evaluation.json", "missing"), "no-task": evaluation(lambda found: found.update(tasks={})),
    "other-task": evaluation(lambda found: found.update(tasks={"depth": found["tasks"]["classes"]})),
    "no-scores": evaluation(lambda found: found["tasks"]["classes"].update(scores={}, headline=[])),
    "headline": evaluation(lambda found: found["tasks"]["classes"].update(headline=["magic"])),
    "no-curves": evaluation(lambda found: found["tasks"]["classes"].update(curves={})),
    "no-images": evaluation(lambda found: found["tasks"]["classes"].update(per_image={})),
    "index": evaluation(lambda found: found["tasks"]["classes"]["per_image"].update(index=[1e9, 1e9])),
    "data": evaluation(lambda found: found.update(data="nowhere")),
    "split": evaluation(lambda found: found.update(split="magic")),
    "samples": evaluation(lambda found: found.update(samples=-3)),
    "names": evaluation(lambda found: found["tasks"]["classes"].update(class_names=["a"])),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_evaluations_that_are_damaged(attempt, case):
    code, line = attempt(REPORT, JSON[case])
    assert code == 0 or "evaluation" in line or case in ("data", "split", "samples")


LOG = "run/log/member-0/metrics.csv"
CSV = {
    "empty": b"", "binary": b"\xff\xfe\x00", "text": b"hello\nworld\n", "columns": b"step,loss\n1\n2,3,4\n",
    "nan": b"step,train_loss\n0,nan\n", "huge": b"step,train_loss\n1e400,1e400\n",
    "nothing": b"step,epoch,train_loss\n",
}  # fmt: skip


@pytest.mark.parametrize("name", CSV)
def test_logs_that_are_damaged(attempt, name):
    attempt(REPORT, written(LOG, CSV[name]))


@pytest.mark.parametrize("kind", ["folder", "missing", "fifo"])
def test_logs_that_are_no_files(attempt, kind):
    attempt(REPORT, special(LOG, kind))


RESUME = (
    "fit", "--data=data", "--out=run", "--network-args={widths: [4, 8], dropout: 0.2}", "--samples=2", "--epochs=1",
    "--batch=2", "--device=cpu", "--workers=0", "--quiet", "--resume",
)  # fmt: skip
SAVED = BytesIO()
torch.save({"state_dict": 3}, SAVED)
CHECKPOINTS = {
    "empty": b"", "text": b"hello", "pickle": pickle.dumps({"state_dict": 3}), "zip": b"PK\x03\x04" + bytes(50),
    "foreign": SAVED.getvalue(),
}  # fmt: skip


def unfinished(place):
    """Damage: the weights are missing, as after a training that was killed."""
    (place / "run" / "weights-0.safetensors").unlink()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_that_are_damaged(attempt, name):
    def change(place):
        unfinished(place)
        checkpoint_path(place / "run", 0).write_bytes(CHECKPOINTS[name])

    code, line = attempt(RESUME, change)
    assert code == 2
    assert checkpoint_path(Path("run"), 0).name in line


@pytest.mark.parametrize("name", CSV)
def test_a_training_is_resumed_beside_any_log(attempt, name):
    def change(place):
        unfinished(place)
        written(LOG, CSV[name])(place)

    code, line = attempt(RESUME, change)
    assert code == 0 or LOG in line


@pytest.mark.parametrize("words", [PREDICT, EVALUATE, CALIBRATE, REPORT, EXPORT, POSTHOC], ids=lambda words: words[0])
def test_every_command_on_a_run_that_has_not_finished(attempt, words):
    code, line = attempt(words, unfinished)
    assert code == 2
    assert "fit --resume" in line


def test_a_folder_in_which_another_training_runs(attempt):
    with locked(Path("run")):
        code, line = attempt(RESUME, unfinished)
    assert code == 2
    assert "training in" in line


@pytest.mark.parametrize("words", [PREDICT, EVALUATE, CALIBRATE, REPORT, EXPORT, POSTHOC], ids=lambda words: words[0])
def test_every_command_on_the_files_of_another_run(attempt, words):
    def change(place):
        shutil.copy(place / "run" / "calibrator.safetensors", place / "run" / "weights-0.safetensors")

    code, line = attempt(words, change)
    assert code == 2
    assert "weights-0.safetensors holds another network" in line


WRAP = (
    "wrap", "--data=data", "--network=torch.nn.Conv2d", "--out=new", "--quiet",
    "--network-args={in_channels: 3, kernel_size: 1}",
)  # fmt: skip


@pytest.mark.parametrize("name", [*CHECKPOINTS, "missing", "folder", "fifo"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weights_of_other_programs_that_are_damaged(attempt, name, ending):
    path = f"weights{ending}"
    change = written(path, CHECKPOINTS[name]) if name in CHECKPOINTS else special(path, name)
    code, line = attempt((*WRAP, f"--weights={path}"), change)
    assert code == 2
    assert path in line


ABOUT = {
    "task": "classes", "task_args": {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]]}, "kind": "class",
    "unit": "", "inputs": [{"name": "image", "channels": 3, "map": True, "type": "uint8"}], "outputs": ["label"],
    "map": True, "scale": [1, 1], "draws": 1, "quantiles": None, "conformal": None, "method": "x", "likelihood": "y",
}  # fmt: skip
ABOUTS = [None, "", "3", "[", "[]", "{}", json.dumps(ABOUT), json.dumps(ABOUT | {"kind": "magic"})]
ABOUTS += [json.dumps(ABOUT | {name: value}) for name in ABOUT for value in (3.5, [0, 0], {"a": 1})]


def test_onnx_files_that_say_something_else_about_themselves(attempt):
    onnx = pytest.importorskip("onnx")
    image, label = (onnx.helper.make_tensor_value_info(n, 2, ["b", 3, "h", "w"]) for n in ("image", "label"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["label"])], "g", [image], [label])
    for about in ABOUTS:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        onnx.helper.set_model_props(model, {} if about is None else {"sfumato": about})
        content = model.SerializeToString()
        code, line = attempt(("predict", "f.onnx", "data/val/images", "--quiet"), written("f.onnx", content))
        assert code == 2, about
        assert "f.onnx" in line
