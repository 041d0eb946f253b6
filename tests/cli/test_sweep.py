"""``sfumato sweep``: every combination and seed is trained once, and they are compared."""

import json

import pytest

from sfumato.cli import main
from sfumato.cli.sweep import combinations
from sfumato.errors import ConfigError
from sfumato.runs import Run

COMMON = """
size: [16, 24]
epochs: 1
limit: 4
batch: 2
samples: 2
network_args: {widths: [4, 8]}
"""


@pytest.fixture
def common(tmp_path):
    file = tmp_path / "common.yaml"
    file.write_text(COMMON)
    return file


def words(common, tmp_path, over, *more):
    return ["sweep", str(common), "--over", over, "--seeds=2", f"--out={tmp_path / 'sweep'}", "--device=cpu",
            "--workers=0", "--quiet", *more]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_combinations_are_trained_once_and_compared(common, tmp_path, capsys):
    given = words(common, tmp_path, "method=deterministic,mc-dropout", "--json")
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["deterministic", "mc-dropout"]
    assert found["seeds"] == [2, 2]
    assert found["tasks"]["classes"]["nll"][0]["spread"] > 0
    folder = tmp_path / "sweep" / "mc-dropout" / "seed-1"
    assert (Run.open(folder).config.seed, Run.open(folder).config.method) == (1, "mc-dropout")
    before = (folder / "weights-0.safetensors").stat().st_mtime_ns
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert (folder / "weights-0.safetensors").stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_fails_does_not_stop_the_others(common, tmp_path, capsys):
    assert main(words(common, tmp_path, "likelihood=gaussian,categorical")) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "2 of 4 trainings failed" in errors[-1]
    assert (tmp_path / "sweep" / "categorical" / "seed-1" / "weights-0.safetensors").exists()


@pytest.mark.parametrize("over", ["method", "method=", "method=swag method=ensemble", "seed=1,2", "method=swag,swag"])
def test_wrong_choices_are_refused(over):
    with pytest.raises(ConfigError, match="over"):
        list(combinations(over))


def test_wrong_options_are_refused_before_a_training(common, tmp_path, capsys):
    for over, message in (("methods=swag", "no option"), ("epochs=many", "whole number")):
        assert main(words(common, tmp_path, over)) == 2
        assert message in capsys.readouterr().err
    assert main(words(common, tmp_path, "method=swag", "--format=word")) == 2
    assert "markdown" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
