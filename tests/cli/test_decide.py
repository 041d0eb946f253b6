"""`sfumato decide`: its tables are what predictions give, and every mistake is one line."""

import csv
import math
from dataclasses import replace

import pytest
import torch

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.data.scenes import dataset
from sfumato.decisions import Abstention, Costs, Decisions, OutlierFlag, image_scores
from sfumato.evaluation import dataset_for, ood_dataset, predict_sample
from sfumato.metrics import ComponentScores
from sfumato.runs import Run
from sfumato.storage import read_tensors, write_tensors

COMMON = 0  # sky
QUIET = ["--quiet", "--device=cpu"]
NAMES = Scenes(1).tasks["classes"].names
COSTS = "classes: [{}]\ncosts:\n  keep: [{}]\n  drop: 0.4\n  other: [{}]\n".format(
    ", ".join(NAMES), ", ".join(["0", *["1"] * (len(NAMES) - 1)]), ", ".join(["0.9", *["0.3"] * (len(NAMES) - 1)])
)


@pytest.fixture(autouse=True)
def more_scenes(monkeypatch):
    """40 scenes for validation, so that halves of them suffice for the limits of these tests."""
    monkeypatch.setitem(dataset.SPLITS, "val", replace(dataset.SPLITS["val"], count=40))


@pytest.fixture
def run(make_run):
    """A run that was never trained, and mostly predicts the class with the most pixels, so it is right at times."""
    folder = make_run(size=(0, 0))
    tensors, metadata = read_tensors(folder / "weights-0.safetensors")
    tensors["network.head.bias"][COMMON] += 1
    write_tensors(folder / "weights-0.safetensors", tensors, metadata)
    return folder


@pytest.fixture
def costs(tmp_path):
    (tmp_path / "costs.yaml").write_text(COSTS)
    return str(tmp_path / "costs.yaml")


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions(folder, split="val[50%:]"):
    run = Run.open(folder)
    images = dataset_for(run, split=split)
    for index in range(len(images)):
        sample, found = predict_sample(run, images, index)
        yield sample, found


def test_abstain(run, capsys):
    words = ["--risk=0.9", "--delta=0.5", "--unit=region", "--maps", *QUIET]
    assert main(["decide", "abstain", str(run), *words]) == 0
    text = capsys.readouterr().out
    fitted = Abstention.load(run / "decisions" / "abstention.safetensors")
    table = rows(run / "decisions" / "abstain.csv")
    assert fitted.text() in text
    assert "On 20 other images" in text
    assert len(table) == fitted.images == len(fitted.fitted_on) == 20
    for number, (row, (sample, found)) in enumerate(zip(table, predictions(run)), start=1):
        mask, valid = fitted(found) & sample["classes_valid"], sample["classes_valid"]
        assert float(row["accepted"]) == pytest.approx(float(mask.sum() / valid.sum()))
        wrong = (found.label != sample["classes"])[mask].double()
        assert row["risk"] == "" if not len(wrong) else float(row["risk"]) == pytest.approx(float(wrong.mean()))
        (file,) = (run / "decisions" / "maps").glob(f"{number:05d}-*")
        assert torch.equal(read_tensors(file)[0]["accepted"], fitted(found))


def test_cost(run, costs, capsys):
    assert main(["decide", "cost", str(run), "--costs", costs, "--samples=3", *QUIET]) == 0
    text = capsys.readouterr().out
    table, matrix = rows(run / "decisions" / "cost.csv"), Costs.read(costs, NAMES)
    opened = Run.open(run)
    images = dataset_for(opened, split="val[50%:]")
    for index, row in enumerate(table):
        sample, found = predict_sample(opened, images, index, samples=3)
        action, cost = matrix.best(found.probs)
        assert float(row["expected"]) == pytest.approx(float(cost.mean()), rel=1e-4)
        valid = sample["classes_valid"]
        real = matrix.realized(action[0][valid], sample["classes"][valid])
        assert float(row["realized"]) == pytest.approx(float(real.double().mean()), rel=1e-4)
        assert float(row["share of keep"]) == pytest.approx(float((action == 0).double().mean()))
        assert 0 <= float(row["look"]) <= float(row["expected"])
    assert "Value of looking again before acting" in text
    assert len(table) == 20


def test_costs_as_risk(run, costs, capsys):
    words = ["--risk=0.95", "--delta=0.5", "--costs", costs, *QUIET]
    assert main(["decide", "abstain", str(run), *words]) == 0
    fitted = Abstention.load(run / "decisions" / "abstention.safetensors")
    assert fitted.measure == "cost"
    assert "mean cost of an image's accepted pixels, mean over images with any: at most 0.95" in capsys.readouterr().out
    matrix = Costs.read(costs, NAMES)
    for row, (sample, found) in zip(rows(run / "decisions" / "abstain.csv"), predictions(run)):
        mask = fitted(found) & sample["classes_valid"]
        real = matrix.realized(matrix.best(found.probs)[0][mask], sample["classes"][mask[0]])
        assert row["risk"] == "" if not len(real) else float(row["risk"]) == pytest.approx(float(real.double().mean()))


def test_what_was_decided_is_stored_with_the_run(run, costs):
    assert main(["decide", "cost", str(run), "--costs", costs, *QUIET]) == 0
    stored = Decisions.of(Run.open(run))
    assert stored.costs is not None
    assert list(stored.costs.actions) == ["keep", "drop", "other"]
    assert torch.equal(stored.costs.matrix, Costs.read(costs, NAMES).matrix)
    assert main(["decide", "flag", str(run), "--rate=0.4", "--delta=0.2", "--measure=total", *QUIET]) == 0
    assert main(["evaluate", str(run), "--split=val[80%:]", *QUIET]) == 0
    assert main(["report", str(run), "--device=cpu"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h2>Decisions</h2>" in page
    assert '"keys": {"action": {"keep": ' in page
    assert '"p-value' in page
    assert main(["calibrate", str(run), "--split=val[:50%]", "--device=cpu", "--quiet"]) == 0
    assert Decisions.of(Run.open(run)).outdated == ("flag.safetensors",)


@pytest.mark.filterwarnings("ignore")
def test_export_says_which_decisions_are_in_the_file(run, costs, capsys):
    words = ["--risk=0.9", "--delta=0.5", *QUIET]
    assert main(["decide", "abstain", str(run), *words]) == 0
    assert main(["decide", "cost", str(run), "--costs", costs, *QUIET]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--deterministic", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Decisions in the file: action, expected_cost" in lines
    assert "Abstention is left out: it needs the draws of the run, or all pixels of an image" in lines


def test_flag(run, capsys):
    words = ["--rate=0.4", "--delta=0.2", "--side=3", "--measure=total", "--maps", *QUIET]
    assert main(["decide", "flag", str(run), "--ood=textures:val", *words]) == 0
    assert "Fitted on 20 images: at most 0.4 of images like these are flagged" in capsys.readouterr().out
    flag = OutlierFlag.load(run / "decisions" / "flag.safetensors")
    scores = torch.cat([image_scores(found, "total", 3) for _, found in predictions(run, "val[:50%]")])
    assert torch.allclose(flag.scores, scores.sort().values)
    table = rows(run / "decisions" / "flag.csv")
    assert len(table) == 100
    for row in table[:20]:
        assert float(row["p"]) == pytest.approx((1 + int((scores >= float(row["score"])).sum())) / 21)
        assert (row["flagged"] == "True") == (float(row["score"]) > flag.threshold) == bool(row["regions"])


def test_marked_regions_are_scored(run, capsys, monkeypatch):
    monkeypatch.setitem(dataset.SPLITS, "novel", replace(dataset.SPLITS["novel"], count=6))
    words = ["--rate=0.6", "--delta=0.2", "--side=3", "--measure=total", "--ood=scenes:novel", *QUIET]
    assert main(["decide", "flag", str(run), *words]) == 0
    flag = OutlierFlag.load(run / "decisions" / "flag.safetensors")
    opened, scores = Run.open(run), ComponentScores()
    images = ood_dataset(opened, "scenes:novel")
    for index in range(6):
        sample, found = predict_sample(opened, images, index)
        scores.update(flag.flagged_pixels(found), sample["novel"][None])
    got = scores.compute()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "marked regions" in line)
    assert f"{int(got['true_components'])} marked regions: siou {got['component_siou']:.3g}, ppv" in line
    assert f"f1 {got['component_f1']:.3g}" in line


def test_drift(run, capsys):
    assert main(["decide", "drift", str(run), "--measure=error", *QUIET]) == 0
    assert "No change of error in 20 images" in capsys.readouterr().out
    table = rows(run / "decisions" / "drift.csv")
    for row, (sample, found) in zip(table, predictions(run)):
        wrong = (found.label[0] != sample["classes"])[sample["classes_valid"]]
        assert float(row["score"]) == pytest.approx(float(wrong.double().mean()))
    assert main(["decide", "drift", str(run), "--ood=textures:val", "--measure=total", "--delta=0.3", *QUIET]) == 0
    assert "of total" in capsys.readouterr().out
    assert len(rows(run / "decisions" / "drift.csv")) == 100
    assert all(math.isfinite(float(row["log_capital"])) for row in rows(run / "decisions" / "drift.csv"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("abstian RUN", "kind is 'abstian' (did you mean 'abstain'?), expected one of abstain, cost, flag, drift"),
        ("abstain RUN --risk=0.001", "20 held-out images are too few for a risk of 0.001"),
        ("abstain RUN --risk=0.3 --delta=0.5", "no threshold keeps a risk of 0.3"),
        ("abstain RUN --risk=2", "risk is 2.0, expected a number in (0, 1)"),
        ("abstain RUN --unit=frame", "unit is 'frame'"),
        ("abstain RUN --class=unicorn", "there is no class 'unicorn'"),
        ("abstain RUN --tolerance=1", "tolerance is for values"),
        ("abstain RUN --measure=cost", "measure is 'cost', expected one of total, aleatoric, epistemic"),
        ("abstain RUN --costs=COSTS --risk=2", "risk is 2.0, expected a number in (0, 1)"),
        ("abstain RUN --costs=COSTS --tolerance=1", "tolerance is for values, and costs are of classes"),
        ("flag RUN --costs=COSTS", "costs is for `decide abstain` and `decide cost`"),
        ("abstain RUN --rate=0.1", "rate is for `decide flag`: leave it out"),
        ("abstain RUN --split=train", "was trained on these images"),
        ("abstain RUN --risk=0.9 --delta=0.5 --on=val", "the decision was fitted on image"),
        ("cost RUN", "--costs is missing"),
        ("cost RUN --costs=nowhere.yaml", "nowhere.yaml: it is not a regular file"),
        ("flag RUN", "20 held-out images are too few to flag at most 0.05"),
        ("flag RUN --side=4 --rate=0.4", "side is 4, expected an odd number"),
        ("flag RUN --measure=novelty --rate=0.4", "gives no novelty"),
        ("flag RUN --ood-root=here", "no --ood is given"),
        ("drift RUN --measure=error --ood=textures", "has no labeled pixel"),
        ("drift RUN --split=val[:10%]", "4 held-out images are too few to watch for a change"),
        ("drift RUN --risk=0.1", "risk is for `decide abstain`"),
    ],
)
def test_mistakes_are_one_line(run, costs, errors, words, message):
    assert main(["decide", *words.replace("RUN", str(run)).replace("COSTS", costs).split(), *QUIET]) == 2
    (line,) = errors()
    assert message in line
    assert not (run / "decisions").exists()


def test_costs_are_of_classes(make_run, costs, errors):
    run = make_run(tasks=("depth",), likelihoods=("gaussian",), size=(0, 0))
    assert main(["decide", "cost", str(run), "--costs", costs, *QUIET]) == 2
    assert "costs are of classes" in errors()[0]


def test_one_task_of_several(make_run, costs, capsys):
    run = make_run(tasks=("classes", "depth"), likelihoods=("categorical", "gaussian"), size=(0, 0), network_args={})
    assert main(["decide", "cost", str(run), "--costs", costs, "--task=classes", *QUIET]) == 0
    assert "Actions on 20 images" in capsys.readouterr().out
    words = ["--task=depth", "--risk=0.9", "--delta=0.5", "--tolerance=100", "--unit=image"]
    assert main(["decide", "abstain", str(run), *words, *QUIET]) == 0
    assert "pixels that are off by more than 100" in capsys.readouterr().out
