"""Exit codes and streams of the command line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sfumato.cli import COMMANDS, main
from sfumato.cli.console import plain, print_table
from sfumato.errors import ResourceError


def test_help_lists_every_command(capsys):
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {name}" in text for name in COMMANDS)


def test_version_and_help_need_no_torch():
    script = (
        "import sys; from sfumato.cli import main; assert main(['--version']) == main(['--help']) == 0; "
        "assert main(['evaluate', '--help']) == main(['predict', '--help']) == 0; "
        "assert not {'torch', 'numpy', 'rich', 'yaml', 'lightning'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sfumato", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sfumato ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"usage: sfumato {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["magic"], "there is no command 'magic': expected one of demo, fit"),
        (["evaluate"], "RUN is missing"),
        (["evaluate", "r", "--magic"], "--magic is no option of `sfumato evaluate`"),
        (["evaluate", "r", "--samples=0"], "samples is 0, expected 1 or more"),
        (["predict", "r", "a.png", "--tile=-1"], "tile is -1, expected 0 or more"),
        (["evaluate", "r", "s"], "'s' is one word too many"),
        (["plugins", "--group=magic"], "there is no group 'magic'"),
    ],
)
def test_mistakes_are_one_line_on_stderr_and_exit_2(capsys, words, message):
    assert main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert found.err.startswith("sfumato: ")
    assert message in found.err


def test_debug_adds_the_traceback(capsys):
    assert main(["magic", "--debug"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("sfumato: there is no command")


def failing(monkeypatch, error):
    from sfumato.cli import plugins

    def fail(group="", all=False):
        raise error

    fail.__annotations__ = {"group": "str", "all": "bool"}
    monkeypatch.setattr(plugins, "plugins", fail)
    return main(["plugins"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ResourceError("the disk is full"), 1, "the disk is full"),
        (OSError(28, "No space left on device"), 1, "free some disk space"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied: change"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "--resume"),
        (SystemExit(143), 143, "--resume"),
    ],
)
def test_exit_codes(monkeypatch, errors, error, code, message):
    assert failing(monkeypatch, error) == code
    (line,) = errors()
    assert message in line


def test_a_device_without_memory(monkeypatch, errors):
    import torch

    assert failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried …")) == 1
    assert "smaller --batch" in errors()[0]


def test_faults_of_the_package_are_not_hidden(monkeypatch):
    with pytest.raises(RuntimeError, match="a fault"):
        failing(monkeypatch, RuntimeError("a fault"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_with_advice(number, code):
    script = (
        "import sys, time; from sfumato.cli import main, plugins\n"
        "def wait(group='', all=False):\n    print('ready', flush=True); time.sleep(60)\n"
        "wait.__annotations__ = {'group': 'str', 'all': 'bool'}\n"
        "plugins.plugins = wait; sys.exit(main(['plugins']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.count("\n") == 1
    assert "--resume" in err


def test_names_never_obey_on_the_terminal(capsys):
    print_table("[red]a[/red]\x1b[2J", ("[b]x",), [["\x1b]0;title\x07[link=http://x]y"], ["\u202eabc"]])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]a[/red]" in text
    assert "[b]x" in text
    assert "\\u202eabc" in text
    assert plain("日本 é\n") == "日本 é\n"


def test_plugins_lists_what_is_built_in(capsys):
    assert main(["plugins", "--group=methods", "--all"]) == 0
    assert "mc-dropout" in capsys.readouterr().out
