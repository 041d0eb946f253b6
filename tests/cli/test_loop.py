"""`sfumato loop`: labels are hidden until they are asked for, rounds add up, and an interrupted one goes on."""

import json

import pytest
import torch

from sfumato.acquisition import Asked, Revealed
from sfumato.cli import main
from sfumato.data import Scenes


def loop(quick, folder, *more):
    quick = [word for word in quick if not word.startswith("--limit")]
    return main(["loop", "--budget=3", "--rounds=2", "--side=8", f"--out={folder}", *quick, *more])


def rows(folder):
    return [json.loads((folder / f"round-{number}" / "scores.json").read_text()) for number in range(3)]


def test_rounds_add_up_and_the_first_is_shared(tmp_path, quick, capsys):
    assert loop(quick, tmp_path / "a") == 0
    assert "The runs are in" in capsys.readouterr().out
    found = rows(tmp_path / "a")
    assert [row["units"] for row in found] == [3, 6, 9]
    assert [row["pixels"] for row in found] == [64 * 3, 64 * 6, 64 * 9]
    assert found[2]["share"] == pytest.approx(64 * 9 / (8 * 16 * 24))
    before = Asked.load(tmp_path / "a" / "round-1" / "asked.safetensors").masks
    after = Asked.load(tmp_path / "a" / "round-2" / "asked.safetensors").masks
    assert all(not bool((mask & ~after[image]).any()) for image, mask in before.items())

    (tmp_path / "a" / "round-2" / "scores.json").unlink()  # as if it was stopped before its end
    for name in ("weights-0.safetensors", "asked.safetensors"):
        (tmp_path / "a" / "round-2" / name).unlink()
    assert loop(quick, tmp_path / "a", "--resume") == 0
    assert rows(tmp_path / "a") == found

    assert loop(quick, tmp_path / "b", "--selector=random", "--unit=pixel", "--per-image=2") == 0
    assert [row["pixels"] for row in rows(tmp_path / "b")] == [3, 6, 9]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget=1000"], "budget is 1000, but the pool has"),
        (["--unit=pixels"], "unit is 'pixels' (did you mean 'pixel'?)"),
        (["--selector=best"], "selector is 'best'"),
        (["--score=entropi"], "score is 'entropi' (did you mean 'entropy'?)"),
        (["--task=depth"], "labels are asked for a task of classes"),
        (["--rounds=-1"], "rounds is -1"),
        (["--tasks=classes,depth"], "labels are asked for one task"),
        (["--limit=2", "--budget=13"], "budget is 13, but the pool has 12 units"),
    ],
)
def test_mistakes_are_one_line(tmp_path, quick, errors, more, message):
    assert loop(quick, tmp_path / "a", *more) == 2
    (line,) = errors()
    assert message in line
    assert not list(tmp_path.glob("a/round-*/weights*"))


def test_another_experiment_is_not_overwritten(tmp_path, quick, errors):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop.json").write_text("{}")
    assert loop(quick, tmp_path / "a") == 2
    assert "holds an experiment already" in errors()[0]
    assert loop(quick, tmp_path / "a", "--resume") == 2
    assert "has other options than these" in errors()[0]


def test_hidden_labels_are_not_valid():
    whole = Scenes(7, size=(16, 24))
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[:4] = True
    shown = Revealed(whole, "classes", {5: mask, 6: torch.zeros_like(mask)})
    assert len(shown) == len(whole)
    assert set(shown.names) == {whole.names[5]}
    sample = shown[3]
    assert torch.equal(sample["classes_valid"], mask & whole[5]["classes_valid"])
