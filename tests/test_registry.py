import sys
from importlib.metadata import EntryPoint

import pytest

from sfumato import registry
from sfumato.errors import PluginError, UntrustedCodeError
from sfumato.registry import Trust


@pytest.fixture
def entries(monkeypatch):
    """Entry points that a test registers."""
    known = {}
    monkeypatch.setattr(registry, "_entry_points", lambda group: tuple(known.get(group, ())))

    def add(group, name, value):
        known.setdefault(group, []).append(EntryPoint(name, value, f"sfumato.{group}"))

    return add


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_built_in_name_exists(group):
    for name in registry.names(group):
        assert registry.load(group, name) is not None


def test_entry_points_are_found(entries):
    entries("models", "mine", "collections:OrderedDict")
    assert "mine" in registry.names("models")
    assert registry.load("models", "mine").__name__ == "OrderedDict"


def test_unknown_names_say_what_is_known():
    with pytest.raises(
        PluginError,
        match=r"no 'mc-dropuot' \(did you mean 'mc-dropout'\?\) among the methods: expected one of .*mc-dropout",
    ):
        registry.load("methods", "mc-dropuot")


def test_two_plugins_with_one_name(entries):
    entries("models", "mine", "collections:OrderedDict")
    entries("models", "mine", "collections:deque")
    with pytest.raises(PluginError, match="2 packages register 'mine'"):
        registry.load("models", "mine")


def test_a_plugin_with_a_built_in_name(entries):
    entries("methods", "swag", "collections:OrderedDict")
    with pytest.raises(PluginError, match="2 packages register 'swag' among the methods: sfumato"):
        registry.load("methods", "swag")


def test_a_plugin_that_fails_to_import_is_named_and_the_rest_works(entries):
    entries("models", "broken", "no_such_module:Net")
    entries("models", "mine", "collections:OrderedDict")
    with pytest.raises(PluginError, match=r"'broken' \(models, no_such_module:Net.*ModuleNotFoundError"):
        registry.load("models", "broken")
    found = {plugin.name: plugin for plugin in registry.plugins() if plugin.group == "models"}
    assert "fails to import" in found["broken"].error
    assert found["mine"].error == found["unet"].error == ""


def test_class_paths_outside_need_trust(tmp_path, monkeypatch):
    (tmp_path / "foreign_code.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for trust in (Trust(), Trust.of("other"), Trust.of("foreign_code.Ne")):
        with pytest.raises(UntrustedCodeError, match=r"--trust foreign_code\.Net"):
            registry.load("models", "foreign_code.Net", trust)
    assert "foreign_code" not in sys.modules
    for trust in (Trust.of("all"), Trust.of("foreign_code"), Trust.of(["foreign_code.Net"]), Trust.of(True)):
        assert registry.load("models", "foreign_code.Net", trust).__name__ == "Net"


@pytest.mark.parametrize("path", ["sfumato.registry.import_module", "sfumato.storage.Path", "sfumato.runs.run.hashlib"])
def test_foreign_code_reached_through_this_package_is_refused(path):
    with pytest.raises((UntrustedCodeError, PluginError)):
        registry.load("models", path)


@pytest.mark.parametrize("path", ["no.such.Network", "sfumato.models.NoSuchNet"])
def test_class_paths_that_lead_nowhere(path):
    with pytest.raises(PluginError, match=path):
        registry.load("models", path, Trust.of("all"))
