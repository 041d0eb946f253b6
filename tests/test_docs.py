"""What the pages show works: Python code runs, and commands have the options that are shown."""

import re
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sfumato import registry
from sfumato.cli import COMMANDS
from sfumato.cli.options import read
from sfumato.predictions import ClassPrediction
from sfumato.runs import Predicted
from sfumato.serving.outputs import write_sample
from sfumato.tasks import Semantic

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FRAGMENTS = ("README", "extending", "pretrained")  # their code is taken from larger programs, so it is only compiled
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page, language):
    found = re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def commands(page):
    for block in blocks(page, ""):
        for line in block.splitlines():
            if line.startswith("sfumato "):
                yield line


PYTHON = [page for page in FILES if blocks(page, "python")]
SHELL = sorted({line for page in FILES for line in commands(page)})


def write_maps(folder):
    """What `sfumato predict` writes of an image a.jpg."""
    folder.mkdir()
    found = ClassPrediction(torch.rand(1, 3, 8, 12).softmax(1), torch.zeros(1, 8, 12), 2)
    task = Semantic(("sky", "road", "car"), ((0, 0, 255), (90, 90, 90), (255, 0, 0)))
    write_sample([(slice(0, 8), Predicted(found, {}))], {"classes": task}, torch.zeros(1, 3, 8, 12), folder / "a")


@pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers
@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_python_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page.stem == "prediction-files":
        write_maps(tmp_path / "maps")
    for block in blocks(page, "python"):
        code = compile(block, str(page), "exec")
        if page.stem not in FRAGMENTS:
            exec(code, {})


@pytest.mark.parametrize("line", SHELL)
def test_commands_exist_with_these_options(line):
    _, name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS
    command = getattr(import_module(f"sfumato.cli.{name}"), name)
    settings = read(name, command, words)
    assert settings is not None


BUILT_IN = {f"--{option}": registry.BUILT_IN[group] for option, group in (
    ("method", "methods"), ("likelihood", "likelihoods"), ("data", "datasets"), ("tasks", "tasks"))}  # fmt: skip
OTHER = {"mine", "labeled", "toy-pairs", "weight-noise", "conformal", *registry.BUILT_IN["calibrators"]}


@pytest.mark.parametrize("line", SHELL)
def test_names_in_commands_exist(line):
    words = shlex.split(line, comments=True)
    for option, value in pairwise(words):
        for name in value.split(",") if option in BUILT_IN else ():
            assert name in BUILT_IN[option] or name in OTHER


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


def test_fenced_commands_are_found():
    assert len(SHELL) > 30
    assert {line.split()[1] for line in SHELL} == set(COMMANDS)
