"""Training as a new user wants it: rare classes, a limit of time, logs that other programs show, and the report."""

import csv
import json
import math
import re
import shlex
import shutil
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sfumato import registry
from sfumato.calibration import risk_statement
from sfumato.cli.options import read
from sfumato.data import Scenes
from sfumato.errors import ConfigError, MissingDependencyError, SfumatoError
from sfumato.evaluation import Evaluation, OODHistogram, evaluate, fit_conformal
from sfumato.methods.training import MethodTraining
from sfumato.predictions import ClassMoments
from sfumato.report import OODSection, curves, write_report
from sfumato.report.pictures import unknown
from sfumato.runs import Config, Run
from sfumato.training import fit, make_plan, post_hoc_methods
from sfumato.training.panel import panel
from sfumato.training.time_limit import TimeLimit

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(train=None, **choices):
    usual = {"network_args": {"widths": (4, 8), "dropout": 0.2}, "epochs": 2, "batch": 2, "samples": 2, "color": 0.0}
    return make_plan(Config(**{**usual, **choices}), train or scenes(), device="cpu")[0]


def fitted(folder, known, val=None, **how):
    return fit(known, scenes(), val, folder, device="cpu", **{"progress": False, **how})


def rows(folder, member=0):
    with (folder / f"log/member-{member}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("objective", "arguments", "losses"),
    [
        ("weighted-nll", {}, {"train_weighted_nll"}),
        ("sum", {"nll": 1, "dice": 1, "focal": 1}, {"train_nll", "train_dice_loss", "train_focal"}),
    ],
)
def test_objectives_for_rare_classes_train_by_name(tmp_path, objective, arguments, losses):
    known = plan(objective=objective, objective_args=arguments, likelihood="logit-normal")
    found = fitted(tmp_path / "run", known).predict(scenes(1, 5)[0]["image"][None])
    assert found.total.isfinite().all()
    assert losses < set(rows(tmp_path / "run")[0])


@pytest.mark.parametrize(("text", "seconds"), [("10", 600), ("0.5", 30), ("00:10:00", 600), ("1:00:01.5", 3601.5)])
def test_a_time_is_minutes_or_hours_minutes_and_seconds(text, seconds):
    assert Config(max_time=text).max_seconds == seconds


@pytest.mark.parametrize("text", ["soon", "10:00", "0", "-3", "nan", "inf", "1:2:3:4", "00:-1:00"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError, match="max_time is"):
        Config(max_time=text)


def test_training_ends_with_its_time_as_at_its_end(tmp_path):
    folder = tmp_path / "run"
    started = time.monotonic()
    run = fitted(folder, plan(epochs=100_000, max_time="00:00:02"), val=scenes(2, 1))
    assert time.monotonic() - started < 8
    found = rows(folder)
    assert 2 < len(found) < 5_000
    assert float(found[-1]["val_nll"]) > 0, "the last epoch is validated"
    rates = [float(row["learning_rate"]) for row in found]
    assert max(rates) > 1e-3, "the schedule reaches its top"
    assert rates[-1] < 0.1 * max(rates), "the schedule ends with the time"
    assert run.config.max_time == "00:00:02"
    assert not list(folder.glob("*.ckpt"))


def test_methods_that_keep_weights_on_the_way_get_all_of_them_in_any_time(tmp_path):
    known = plan(epochs=100_000, max_time="0.02", method="snapshot", members=3)
    assert len(fitted(tmp_path / "run", known).networks) == 3


def test_the_members_of_an_ensemble_share_the_time(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(import_module("sfumato.training.fit"), "_fit_missing", lambda job, _: jobs.append(job))
    for parallel in (1, 2):
        known = plan(method="ensemble", members=3, max_time="1")
        with pytest.raises(SfumatoError):  # no network is trained, so there is none to open
            fitted(tmp_path / str(parallel), known, parallel_members=parallel)
    assert [job.seconds for job in jobs] == [20, 30]


def test_a_resumed_training_has_the_time_that_was_left():
    first, second = TimeLimit(60.0), TimeLimit(60.0)
    first._started = time.monotonic() - 40
    second.load_state_dict(first.state_dict())
    second._started = time.monotonic()
    assert second.state_dict()["passed"] == pytest.approx(40, abs=1)


def test_tensorboard_has_validation_nll_learning_rate_images_and_choices(tmp_path):
    fitted(tmp_path / "run", plan(epochs=3), val=scenes(2, 1), logger="tensorboard")
    events = EventAccumulator(str(tmp_path / "run/log/member-0"))
    events.Reload()
    tags = events.Tags()
    assert {"val_nll", "train_nll", "learning_rate"} <= set(tags["scalars"])
    assert tags["images"] == ["val_classes"]
    shown = events.Images("val_classes")
    assert [(each.height, each.width) for each in shown] == [(16, 4 * 24)] * 3, "one at each validation"
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"learning_rate" in start
    assert b"mc-dropout" in start


def test_csv_writes_nothing_else(tmp_path):
    fitted(tmp_path / "run", plan(epochs=1), logger="csv")
    assert [path.name for path in (tmp_path / "run/log/member-0").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_with_its_remedy(tmp_path, name):
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        fitted(tmp_path / "run", plan(), logger=f"csv,{name}")
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no logger 'paper'"):
        fitted(tmp_path / "run", plan(), logger="paper")


def test_a_panel_is_gray_where_the_target_is_unknown():
    task = scenes(1).tasks["classes"]
    probs = torch.full((1, len(task.names), 4, 6), 1 / len(task.names))
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0] = False
    picture = panel(torch.zeros(3, 4, 6), torch.zeros(4, 6).long(), valid, ClassMoments.of(probs).prediction(), task)
    image, target, best, total = picture.split(6, 1)
    assert (image == 0).all()
    assert (target[0] == 128).all()
    assert (target[1:] == torch.tensor(task.palette[0])).all()
    assert (best == torch.tensor(task.palette[0])).all()
    assert (total >= 254).all(), "the largest uncertainty is white"


def test_nothing_is_printed_without_progress(tmp_path, capfd):
    fitted(tmp_path / "run", plan(epochs=1), val=scenes(2, 1))
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    run = fitted(tmp_path_factory.mktemp("runs") / "run", plan(epochs=4), val=scenes(3, 1))
    names = "dice", "sensitivity", "specificity", "precision", "roc-auc", "pr-auc", "surface-distance"
    found = evaluate(run, scenes(3, 1), device="cpu", progress=False, scores=names, split="val", data="scenes")
    return run, found


def test_medical_scores_are_there_by_name_with_intervals(evaluated):
    task = evaluated[1].tasks["classes"]
    for name in ("dice", "sensitivity", "specificity", "precision", "roc_auc", "pr_auc", "assd", "hd95"):
        for each in (name, f"{name}_sky"):
            assert each in task.headline
        score = task.scores[name]
        assert math.isnan(score.value) or score.low <= score.high
    assert task.scores["dice_sky"].value == pytest.approx(task.per_class["f1"][0])
    assert task.scores["roc_auc_sky"].value == pytest.approx(task.per_class["roc_auc"][0])


def test_precision_recall_curves_are_stored_and_read_again(evaluated, tmp_path):
    found = evaluated[1]
    found.save(tmp_path / "evaluation.json")
    jsonschema.validate(json.loads((tmp_path / "evaluation.json").read_text()), Evaluation.json_schema())
    task = Evaluation.load(tmp_path / "evaluation.json").tasks["classes"]
    for number in range(len(task.class_names)):
        curve = task.curves[f"precision_recall_{number}"]
        assert {len(column) for column in curve.values()} == {100}
        assert curve["recall"][-1] == 1


def test_the_risk_of_a_class_is_described_as_such_wherever_it_is_shown(evaluated, tmp_path):
    run = evaluated[0]
    shutil.copytree(run.folder, tmp_path / "run")
    with_sets = fit_conformal(Run.open(tmp_path / "run"), scenes(12, 7), 0.5, class_name="ground", progress=False)
    words = "share of the ground pixels whose set lacks ground, mean over the images that show ground"
    promised = f"{words}: at most 0.5 in expectation"
    assert risk_statement(with_sets.conformal, with_sets.task.names) == promised
    found = evaluate(with_sets, scenes(3, 1), device="cpu", progress=False, split="val", data="scenes")
    page = write_report(with_sets, found, scenes(3, 1), tmp_path / "page.html").read_text()
    assert f"{promised}, from" in page, "among the facts"
    assert f">{words}<" in page, "beside the score"
    assert "0 is the best guess alone" in page, "further classes are explained"
    assert "all pixels missed" not in page


def test_the_report_has_a_table_by_class_and_validation_nll_beside_training_nll(evaluated, tmp_path):
    run, found = evaluated
    page = write_report(run, found, scenes(3, 1), tmp_path / "page.html").read_text()
    table = re.search(r'<table class="classes">.*?</table>', page, re.DOTALL)[0]
    assert all(f">{name}</th>" in table for name in run.task.names)
    assert all(f">{heading}</abbr>" in table for heading in ("Dice", "sensitivity", "specificity", "AUROC", "AUPR"))
    picture = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if ">train nll<" in svg)
    assert ">val nll<" in picture


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
def test_epochs_are_whole_numbers(epochs):
    x = [float(epoch) for epoch in range(1, epochs + 1)]
    picture = curves.history({"train nll": (x, x)})
    ticks = re.findall(r">([\d.]+)</text>", picture.partition("matplotlib.axis_2")[0])
    assert ticks
    assert all(tick.isdigit() for tick in ticks)


def histogram(inside, outside):
    return OODHistogram((0.0, 1.0), (1.0,), (1.0,), (inside, outside))


@pytest.mark.parametrize(
    ("epistemic", "aleatoric", "said"),
    [(3.0, 1.2, "changed less, as it should"), (1.5, 2.0, "changed as much or more"), (1.5, 0.5, "changed as much"),
     (0.8, 1.0, "did not grow"), (math.nan, 1.0, "")],
)  # fmt: skip
def test_the_caption_says_what_the_parts_did(epistemic, aleatoric, said):
    parts = {"aleatoric": histogram(1.0, aleatoric), "epistemic": histogram(1.0, epistemic)}
    statement = OODSection("novel", parts).statement
    assert said in statement
    assert bool(statement) == bool(said)


def test_a_picture_is_gray_where_the_target_is_unknown():
    valid = torch.tensor([[True, False]])
    assert unknown(valid).tolist() == [[[150, 157, 165, 0], [150, 157, 165, 255]]]


WHICH = Path(__file__).parents[2] / "docs/which-method.md"
ROW = re.compile(r"^\|.*?\| `((?:fit|posthoc|distill) [^`]*)` \|", re.MULTILINE)
RECOMMENDED = ROW.findall(WHICH.read_text(encoding="utf-8"))


def methods_of(line):
    """Every method that a command of the page names."""
    command, *words = shlex.split(line)
    settings = read(command, getattr(import_module(f"sfumato.cli.{command}"), command), words)
    assert settings is not None
    likelihood = settings.get("likelihood")
    assert not likelihood or likelihood in registry.BUILT_IN["likelihoods"]
    return [] if command == "distill" else [settings["method"]]


@pytest.mark.parametrize("line", RECOMMENDED)
def test_a_recommended_method_is_reached_from_the_command_line(line):
    for method in methods_of(line):
        assert isinstance(registry.load("methods", method), MethodTraining)
        assert (method in post_hoc_methods()) or not line.startswith("posthoc")


def test_every_row_of_recommendations_has_a_command_and_every_method_is_on_the_page():
    page = WHICH.read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| ") and not row.startswith(("| goal", "| method"))]
    assert len(rows) == len(RECOMMENDED) >= 12
    assert all(f"`{name}`" in page or f" {name}" in page for name in registry.BUILT_IN["methods"])
    fitted_after = {name for name in registry.BUILT_IN["methods"] if name in post_hoc_methods()}
    trained = re.search(r"`sfumato fit --method` trains (.*?)\.", page, re.DOTALL)[1]
    assert set(re.findall(r"`([^`]+)`", trained)) | fitted_after >= set(registry.BUILT_IN["methods"])


def test_a_logger_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no server\nat this address")

    monkeypatch.setattr(import_module("sfumato.training.loggers"), "_to_tensorboard", fails)
    with pytest.raises(ConfigError, match=r"TensorBoardLogger cannot start .*no server at this address.*--logger csv"):
        fitted(tmp_path / "run", plan(), logger="tensorboard")
