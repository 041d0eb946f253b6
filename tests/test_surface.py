"""No public name appears, vanishes or is undocumented by accident."""

import inspect
from importlib import import_module

import pytest

import sfumato

CORE = {
    "Categorical", "ClassPrediction", "ClassScores", "DeepEnsemble", "Gaussian", "LogitNormal", "MCDropout", "Run",
    "ValuePrediction", "compare", "find_instances", "fit", "inject_dropout", "predict", "predict_tiled",
}  # fmt: skip


def test_core_names_are_public():
    assert not CORE - set(dir(sfumato))


def test_no_name_is_declared_twice():
    names = [name for package in sfumato.PACKAGES for name in import_module(f"sfumato.{package}").__all__]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("package", sfumato.PACKAGES)
def test_every_public_name_exists_and_says_what_it_is(package):
    module = import_module(f"sfumato.{package}")
    for name in module.__all__:
        thing = getattr(sfumato, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        _ = sfumato.NoSuchName
