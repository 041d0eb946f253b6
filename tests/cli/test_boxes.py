"""Boxes from the command line: fit, evaluate, calibrate, predict, report, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main


def test_fit_names_both_tasks(trained_boxes):
    text = (trained_boxes / "plan.yaml").read_text()
    assert "tasks: objects,distances" in text
    assert "likelihood: categorical,laplace" in text


def test_every_command(trained_boxes, tmp_path, capsys):
    assert main(["evaluate", str(trained_boxes), "--json", "--device=cpu", "--workers=0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"ap", "lrp", "laece0", "pdq", "coverage90"} <= found["objects"].keys()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "a.png")
    assert (
        main(
            [
                "predict",
                str(trained_boxes),
                str(tmp_path / "a.png"),
                f"--out={tmp_path / 'out'}",
                "--quiet",
                "--device=cpu",
            ]
        )
        == 0
    )
    document = json.loads((tmp_path / "out" / "a_boxes.json").read_text())
    assert document["images"][0]["height"] == 16
    assert {each["name"] for each in document["categories"]} == {"box", "sphere", "cylinder", "pole"}
    assert main(["report", str(trained_boxes), "--device=cpu"]) == 0
    assert 'id="box-data"' in (trained_boxes / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method=temperature"], "isotonic, linear"),
        (["--method=conformal", "--split=val[:20%]"], "too few"),
        (["--method=conformal", "--delta=0.1"], "not for boxes"),
        (["--split=train"], "trained on these images"),
    ],
)
def test_what_calibrate_refuses(trained_boxes, capsys, words, message):
    before = sorted(path.name for path in trained_boxes.iterdir())
    assert main(["calibrate", str(trained_boxes), "--task=boxes", "--device=cpu", "--quiet", *words]) == 2
    said = capsys.readouterr().err
    assert message in said or "no true box is found" in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in trained_boxes.iterdir()) == before


def test_boxes_need_data_with_boxes(tmp_path, capsys, quick):
    assert main(["fit", "--task=boxes", "--data=textures", f"--out={tmp_path / 'x'}", *quick]) == 2
    said = capsys.readouterr().err
    assert "objects" in said
    assert said.count("\n") == 1
