"""Words of the command line become arguments of a function, or one clear message."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cli.options import options_of, read
from sfumato.cli.values import CONVERTERS, MISSING, convert
from sfumato.errors import ConfigError


def command(
    run: Path,
    files: list[str],
    size: tuple[int, int] = (0, 0),
    scale: tuple[float, float] = (0.0, 0.0),
    weights: tuple[float, ...] = (),
    samples: int | None = None,
    cache_gb: float = 2.0,
    network_args: dict[str, Json] | None = None,  # noqa: F821 annotations are read as text
    quiet: bool = False,
    trust: str = "",
    class_: str = "",
    out: Path | None = None,
) -> None:
    """Do something.

    Args:
        run: The run, 100 %.
        files: The files.
        size: Height and width.
        quiet: Show
            nothing.
    """


def parsed(*words):
    found = read("test", command, words)
    assert found is not None
    return found


def test_defaults_and_positional_arguments():
    found = parsed("r", "a.png", "b.png")
    assert found["run"] == Path("r")
    assert found["files"] == ["a.png", "b.png"]
    assert (found["samples"], found["cache_gb"], found["quiet"], found["out"]) == (None, 2.0, False, None)


@pytest.mark.parametrize("words", [("584", "565"), ("[584,565]",), ("584x565",), ("584,565",), ("[584, 565]",)])
def test_every_way_to_write_a_size(words):
    assert parsed("r", "f", "--size", *words)["size"] == (584, 565)
    assert parsed(f"--size={' '.join(words)}", "r", "f")["size"] == (584, 565)


def test_numbers_after_an_option_end_at_the_first_word():
    found = parsed("--scale", "0.5", "2", "r", "--weights", "1", "1e-1", "-0.5", "--quiet", "f")
    assert (found["scale"], found["weights"], found["run"], found["files"]) == (
        (0.5, 2.0),
        (1.0, 0.1, -0.5),
        Path("r"),
        ["f"],
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--quiet"], True), (["--quiet=true"], True), (["--quiet", "false"], False), (["--quiet=False"], False)],
)
def test_flags_are_bare_or_true_or_false(words, expected):
    found = parsed(*words, "r", "f")
    assert (found["quiet"], found["run"]) == (expected, Path("r"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trust"], "all"), (["--trust", "all"], "all"), (["--trust", "my.net.Net"], "my.net.Net"),
        (["--trust=my"], "my"), (["--trust", "a.B,c"], "a.B,c"),
    ],
)  # fmt: skip
def test_trust_takes_class_paths_and_no_folders(words, expected):
    found = parsed(*words, "runs/mine.v1", "f")
    assert (found["trust"], found["run"]) == (expected, Path("runs/mine.v1"))


def test_both_spellings_and_reserved_words():
    assert parsed("r", "f", "--cache-gb=3")["cache_gb"] == parsed("r", "f", "--cache_gb", "3")["cache_gb"] == 3.0
    assert parsed("r", "f", "--class", "car")["class_"] == "car"


def test_files_may_start_with_a_dash():
    assert parsed("r", "-dash.png")["files"] == ["-dash.png"]
    assert parsed("r", "--", "-dash.png", "--b.png")["files"] == ["-dash.png", "--b.png"]


def test_entries_are_yaml():
    assert parsed("r", "f", "--network-args", '{"widths": [4, 8], "dropout": 0.2}')["network_args"] == {
        "widths": [4, 8],
        "dropout": 0.2,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["r"], "FILES is missing"),
        (["r", "f", "--nothing=1"], "--nothing is no option of `sfumato test`"),
        (["r", "f", "--samples=0"], "samples is 0, expected 1 or more"),
        (["r", "f", "--samples=-3"], "samples is -3, expected 1 or more"),
        (["r", "f", "--samples", "many"], "samples is 'many', expected a whole number"),
        (["r", "f", "--cache_gb", "nan"], "cache_gb is 'nan', expected a finite number"),
        (["r", "f", "--size", "7"], "size is '7', expected two whole numbers"),
        (["r", "f", "--quiet=maybe"], "quiet is 'maybe', expected true or false"),
        (["r", "f", "--network-args=[1"], "network_args is '[1', expected entries"),
        (["r", "f", "--out"], "--out has no value: expected a path"),
    ],
)
def test_mistakes_are_config_errors(words, message):
    with pytest.raises(ConfigError) as caught:
        read("test", command, words)
    assert message in str(caught.value)


def test_a_file_of_options_is_overridden_by_the_words(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("samples: 7\ncache-gb: 5\nsize: [3, 4]\nquiet: true\nclass: car\n")
    found = parsed("r", "f", f"--config={path}", "--samples=2")
    assert (found["samples"], found["cache_gb"], found["size"], found["quiet"]) == (2, 5.0, (3, 4), True)
    assert found["class_"] == "car"


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing: 1", "'nothing', which is no option"), ("- 1", "holds a list"), ("a: [", "cannot be read")],
)
def test_wrong_files_of_options_are_named(tmp_path, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read("test", command, ["r", "f", f"--config={path}"])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_plan_is_a_file_of_options(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("config:\n  samples: 9\nfacts:\n  images: 3\n")
    assert parsed("r", "f", f"--config={path}")["samples"] == 9


def test_printed_options_can_be_read_back(tmp_path, capsys):
    assert read("test", command, ["r", "f", "--size=3x4", "--print-config"]) is None
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parsed(f"--config={path}")["size"] == (3, 4)


def test_help_names_every_option(capsys):
    assert read("test", command, ["--help"]) is None
    text = " ".join(capsys.readouterr().out.split())
    assert "The run, 100 %." in text
    assert "Show nothing." in text
    assert all(option.flag in text for option in options_of(command) if option.default is not MISSING)


def test_every_type_of_an_option_is_known():
    """All commands, without torch: only ``fit`` needs the entries of Config."""
    from importlib import import_module

    from sfumato.cli import COMMANDS

    for name in COMMANDS:
        for option in options_of(getattr(import_module(f"sfumato.cli.{name}"), name)):
            assert option.kind in CONVERTERS, (name, option.name)
            assert option.help, (name, option.name)
            if option.default not in (MISSING, None):
                assert convert(option.name, option.kind, option.default) == option.default
