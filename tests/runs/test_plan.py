from dataclasses import replace

import pytest
import yaml

from sfumato.errors import ConfigError, MissingFileError, RunError, SfumatoError
from sfumato.runs import Config, Plan


def test_a_plan_survives_its_file(make_plan, tmp_path):
    plan = make_plan()
    plan.save(tmp_path / "plan.yaml")
    again = Plan.load(tmp_path / "plan.yaml")
    assert again.difference(plan) == ""
    assert again.config == plan.config
    changed = replace(plan, config=replace(plan.config, epochs=7))
    assert changed.difference(plan) == "epochs was 7, now 1"


def test_choices_and_facts_are_separate_sections(make_plan, tmp_path):
    make_plan().save(tmp_path / "plan.yaml")
    sections = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert set(sections) == {"config", "facts"}
    assert sections["config"]["method"] == "mc-dropout"
    assert sections["facts"]["original_size"] == [16, 24]
    assert not set(sections["config"]) & set(sections["facts"])


def edited(make_plan, path, section, **entries):
    make_plan().save(path)
    sections = yaml.safe_load(path.read_text())
    sections[section].update(entries)
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.mark.parametrize(
    ("section", "entries", "problem"),
    [
        ("config", {"epochs": "many"}, "epochs is 'many', expected a whole number"),
        ("config", {"samples": None}, "samples is None"),
        ("config", {"network_args": [1]}, "network_args"),
        ("config", {"no_such": 1}, "unknown entries"),
        ("facts", {"counts": 3}, "counts is 3"),
        ("config", {"batch": -1}, "batch is -1"),
        ("config", {"learning_rate": float("nan")}, "learning_rate is nan"),
        ("config", {"color": True}, "color is True"),
    ],
)
def test_wrong_values_are_named(make_plan, tmp_path, section, entries, problem):
    path = edited(make_plan, tmp_path / "plan.yaml", section, **entries)
    with pytest.raises(RunError, match=problem):
        Plan.load(path)


@pytest.mark.parametrize("text", ["", "config: {}", "[1, 2]", "a: [", "config: 1\nfacts: 2", "network: os.system"])
def test_a_file_that_is_no_plan(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(RunError, match=r"plan\.yaml is not a whole plan"):
        Plan.load(tmp_path / "plan.yaml")


def test_no_file(tmp_path):
    with pytest.raises(MissingFileError, match="is not a run"):
        Plan.load(tmp_path / "plan.yaml")


def test_aliases_that_multiply_are_refused(tmp_path):
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else '1'}]" for n in range(9))
    (tmp_path / "plan.yaml").write_text(levels)
    with pytest.raises(RunError, match="alias"):
        Plan.load(tmp_path / "plan.yaml")


def test_a_file_that_is_too_large_is_refused(tmp_path):
    (tmp_path / "plan.yaml").write_text("a: " + "x" * (1 << 20))
    with pytest.raises(RunError, match="bytes, expected at most"):
        Plan.load(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    "choices",
    [
        {"samples": 0}, {"samples": -1}, {"members": -1}, {"limit": -1}, {"epochs": -1}, {"batch": 0}, {"seed": -1},
        {"learning_rate": 0.0}, {"ema": 1.0}, {"crop": (-3, 4)}, {"size": (4,)}, {"weight_decay": -1.0},
        {"scale": (2.0, 1.0)}, {"color": 2.0},
    ],
)  # fmt: skip
def test_numbers_are_checked_where_they_enter(choices):
    with pytest.raises(ConfigError, match=f"{next(iter(choices))} is"):
        Config(**choices)


@pytest.mark.parametrize("tasks", ["classes,classes", "classes,,depth", ","])
def test_names_of_several_tasks(tasks):
    with pytest.raises(ConfigError, match="each once"):
        _ = Config(tasks=tasks).task_names


def test_all_errors_have_one_base():
    assert issubclass(ConfigError, SfumatoError)
    assert issubclass(ConfigError, ValueError)
