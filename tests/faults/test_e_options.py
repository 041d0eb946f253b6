"""Every option of every command has an effect, or is refused."""

import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module

import pytest

from sfumato.cli import COMMANDS, main
from sfumato.cli.options import options_of
from sfumato.training.callbacks import warmed_decay

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_read(name):
    command = getattr(import_module(f"sfumato.cli.{name}"), name)
    (function,) = ast.parse(inspect.getsource(command)).body
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert set(inspect.signature(command).parameters) <= read


def test_every_choice_of_a_training_is_read_somewhere():
    from pathlib import Path

    import sfumato
    from sfumato.runs import Config

    source = "".join(path.read_text() for path in Path(sfumato.__file__).parent.rglob("*.py"))
    for name in Config.__dataclass_fields__:
        assert f"config.{name}" in source or f"self.{name}" in source, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit --mean 0.5 0.5 0.5", "--mean is no option"),
        ("fit --std 0.5 0.5 0.5", "--std is no option"),
        ("fit --log-variance 1", "for several tasks"),
        ("fit --weights 1 2", "several tasks"),
        ("fit --weighting equal", "several tasks"),
        ("fit --method variational --weight-decay 0.1", "a prior in its place"),
        ("fit --method snapshot --ema 0.5", "leave it out"),
        ("fit --root somewhere", "scenes are generated"),
        ("fit --teacher somewhere", "sfumato distill somewhere"),
        ("fit --method mc-dropout --members 2", "has one network"),
        ("fit --task classes --tasks classes,depth", "leave one out"),
        ("calibrate r --level 0.5", "for --method conformal"),
        ("calibrate r --delta 0.1", "for --method conformal"),
        ("calibrate r --class car", "for --method conformal"),
        ("calibrate r --reset --method isotonic", "leave out the other options"),
        ("evaluate r --ood-root somewhere", "no --ood is given"),
        ("distill r --unlabeled-root somewhere", "no --unlabeled is given"),
        ("compare r r --json --format=markdown", "leave one out"),
        ("export r --split train", "for --precision"),
        ("export r --format torch-export --precision int8", "with onnx"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path, monkeypatch, complaint, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert message in complaint()
    assert not list(tmp_path.iterdir())


def test_a_short_training_forgets_its_first_weights():
    """The average over n steps with decay min(d, (1 + n) / (10 + n)) forgets 99 % in 20 steps."""
    share = 1.0
    for step in range(20):
        share *= warmed_decay(0.99, step)
    assert share < 0.01
    assert warmed_decay(0.99, 10**6) == 0.99


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "true"], ["--resume=false"]])
@pytest.mark.parametrize("size", [["584", "565"], ["[584,565]"], ["584x565"], ["584,565"]])
def test_flags_and_sizes_are_read_in_every_form_that_is_usual(words, size, capsys):
    assert main(["fit", *words, "--size", *size, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert f"resume: {'false' if 'false' in words[-1] else 'true'}" in printed
    assert "- 584\n- 565" in printed


def test_version_and_help_load_nothing_that_is_slow():
    script = (
        "import sys, json; from sfumato.cli import main; main(['--help']); main(['--version']); "
        "print(json.dumps([name for name in ('torch', 'numpy', 'rich', 'yaml') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_help_shows_flags_bare_and_values_with_their_kind(capsys):
    command = import_module("sfumato.cli.fit").fit
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--resume " in text
    assert "true|false" not in text
    assert "--size H W" in text
    assert all(option.help for option in options_of(command))
