"""Evaluations as files."""

import json
import math

import jsonschema
import pytest

from sfumato.errors import MissingFileError, RunError
from sfumato.evaluation import (
    Evaluation,
    OODComparison,
    OODHistogram,
    ScoreTable,
    TaskEvaluation,
    Value,
    run_state,
)


def evaluation():
    table = ScoreTable({"nll": Value(1.0, 0.5, 1.5)}, {"roc": {"x": (0.0, 1.0)}})
    ood = OODComparison("scenes:novel", "", {"epistemic": OODHistogram((0.0, 1.0), (2.0,), (3.0,), (0.1, 0.3))})
    task = TaskEvaluation({"nll": Value(0.5), "ece": Value(math.nan)}, ("nll",), {"roc": {"x": (0.0, math.nan)}},
                          {"index": (0.0,), "uncertainty": (0.2,)}, {"iou": (0.5, math.nan)}, ("sky", "road"), table,
                          None, ood)  # fmt: skip
    return Evaluation("scenes", "", "val", 1, 20, 0, "abc", {"classes": task})


def same(a, b):
    """Equality where NaN equals NaN."""
    return repr(a.to_json()) == repr(b.to_json())


def test_a_saved_evaluation_is_read_back_and_fits_its_schema(tmp_path):
    found = evaluation()
    found.save(tmp_path / "evaluation.json")
    again = Evaluation.load(tmp_path / "evaluation.json")
    assert same(again, found)
    assert math.isnan(again.tasks["classes"].scores["ece"].value)
    assert again.tasks["classes"].ood.histograms["epistemic"].ratio == pytest.approx(3)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    schema = Evaluation.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(stored, schema)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("tasks"),
        lambda found: found.update(images="four"),
        lambda found: found.update(more=1),
        lambda found: found["tasks"]["classes"]["scores"].update(nll=0.5),
        lambda found: found["tasks"]["classes"]["ood"]["histograms"]["epistemic"].update(means=[0.1]),
        lambda found: found["tasks"]["classes"].update(headline="nll"),
    ],
)
def test_what_the_schema_refuses_is_not_read(tmp_path, spoil):
    stored = evaluation().to_json()
    spoil(stored)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(stored, Evaluation.json_schema())
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"evaluation\.json is cut off or not an evaluation.*sfumato evaluate"):
        Evaluation.load(path)


def test_missing_and_cut_off_files_name_the_remedy(tmp_path):
    path = tmp_path / "evaluation.json"
    with pytest.raises(MissingFileError, match=r"evaluation\.json does not exist: run `sfumato evaluate"):
        Evaluation.load(path)
    evaluation().save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RunError, match="cut off"):
        Evaluation.load(path)


def test_reprs_are_one_line():
    found = evaluation()
    task = found.tasks["classes"]
    assert all("\n" not in repr(each) and len(repr(each)) < 120 for each in (found, task, task.uncalibrated))


def test_the_state_of_a_run_follows_its_files(run):
    before = run_state(run)
    assert run_state(run) == before
    (run.folder / "evaluation.json").write_text("{}")
    assert run_state(run) == before
    (run.folder / "calibrator.safetensors").write_bytes(b"other")
    assert run_state(run) != before
