"""A function that makes a network is called only if it says so, or if the user wrote and named it."""

import sys

import pytest

from sfumato.errors import PluginError
from sfumato.registry import Trust
from sfumato.runs.network import network_class

MODULE = """
from torch import nn


def own(channels):
    return nn.Conv2d(3, channels, 1)


def text(channels) -> str:
    return "no network"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "functions_of_user.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("functions_of_user", None)


def test_a_function_of_the_current_folder_needs_no_annotation(folder):
    make = network_class("functions_of_user.own", Trust.of("functions_of_user"))
    assert make(2).weight.shape == (2, 3, 1, 1)


def test_it_must_be_named(folder):
    with pytest.raises(PluginError, match=r"functions_of_user\.own is no nn\.Module class but a function"):
        network_class("functions_of_user.own", Trust(everything=True))


def test_a_function_that_returns_something_else_is_refused(folder):
    with pytest.raises(PluginError, match="is no nn"):
        network_class("functions_of_user.text", Trust.of("functions_of_user"))


@pytest.mark.parametrize("path", ["shutil.rmtree", "os.system", "subprocess.Popen", "functions_of_user.nn"])
def test_other_code_is_refused_even_if_it_is_named(folder, path):
    with pytest.raises(PluginError, match="is no nn"):
        network_class(path, Trust.of(path))
