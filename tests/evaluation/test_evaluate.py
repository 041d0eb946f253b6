"""A run is scored on every pixel of every image, once."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sfumato import registry
from sfumato.errors import ConfigError, DataError, NotFiniteError, PluginError
from sfumato.evaluation import Evaluation, evaluate, predict_sample, run_state
from sfumato.metrics import ClassScores
from sfumato.runs import Run

QUIET = {"progress": False, "workers": 0, "device": "cpu"}


def same(a, b):
    """Equality but for rounding, where NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == pytest.approx(b, rel=1e-6, abs=1e-9, nan_ok=True) if isinstance(a, float) else a == b


def test_scores_are_those_of_its_predictions(run, images):
    data = images(4, 1)
    found = evaluate(run, data, data="scenes", split="val", **QUIET)
    assert (found.data, found.split, found.images, found.samples) == ("scenes", "val", 4, 3)
    assert found.is_current(run)
    scores, means = ClassScores(len(data.tasks["classes"].names)), []
    for index in range(4):
        sample, prediction = predict_sample(run, data, index)
        scores.update(prediction, sample["classes"][None], sample["classes_valid"][None])
        means.append(float(prediction.total.mean()))
    task = found.tasks["classes"]
    expected = {name: float(value) for name, value in scores.compute().items()}
    found = {name: value.value for name, value in task.scores.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert 0 < found["truth_kl"] < 5  # scenes know the true distributions
    assert task.per_image["index"] == (0, 1, 2, 3)
    assert task.per_image["uncertainty"] == pytest.approx(means)
    assert task.per_image["nll"] == pytest.approx(scores.per_image()["nll"].tolist())
    assert task.scores["nll"].low < task.scores["nll"].value < task.scores["nll"].high
    assert task.class_names == data.tasks["classes"].names
    assert len(task.per_class["iou"]) == len(task.class_names)
    assert task.uncalibrated is task.teacher is task.ood is None
    assert {"reliability", "rejection"} <= task.curves.keys()


@pytest.mark.parametrize(("task", "likelihood"), [("depth", "gaussian"), ("depth", "laplace")])
def test_values_are_scored_too(make, images, task, likelihood):
    found = evaluate(make("run", (task,), (likelihood,)), images(2, 1), **QUIET).tasks[task]
    assert all(math.isfinite(found.scores[name].value) for name in found.headline)
    assert found.per_class == {}


def test_several_tasks_and_their_instances_come_from_one_evaluation(make, images, tmp_path):
    run = make("run", ("classes", "centers"), ("categorical", "laplace"))
    found = evaluate(run, images(2, 1), **QUIET)
    assert set(found.tasks) == {"classes", "centers"}
    assert 0 <= found.tasks["centers"].scores["pq"].value <= 1
    assert {"pq", "ap50"} <= set(found.tasks["centers"].headline) | set(found.tasks["centers"].scores)
    assert "pq" not in found.tasks["classes"].scores
    found.save(tmp_path / "evaluation.json")
    assert same(Evaluation.load(tmp_path / "evaluation.json").to_json(), found.to_json())
    without = evaluate(run, [images(2, 1)[i] for i in range(2)], **QUIET)  # a list does not say what has instances
    assert "pq" not in without.tasks["centers"].scores


def test_each_image_is_read_and_predicted_once(run, images, monkeypatch):
    read, predicted = [], []

    class Counted:
        def __init__(self, whole):
            self.whole, self.names = whole, whole.names

        def __len__(self):
            return len(self.whole)

        def __getitem__(self, index):
            read.append(index)
            return self.whole[index]

    before = Run.predict_uncalibrated

    def count(self, *args, **choices):
        predicted.append(choices["index"])
        return before(self, *args, **choices)

    monkeypatch.setattr(Run, "predict_uncalibrated", count)
    evaluate(run, Counted(images(3, 1)), ood=Counted(images(2, 5)), **QUIET)
    assert sorted(read) == sorted(predicted) == [0, 0, 1, 1, 2]


def test_a_comparison_changes_no_other_score(run, images):
    alone = evaluate(run, images(3, 1), **QUIET).tasks["classes"]
    novel = images(3, 1, novel=True)
    found = evaluate(run, images(3, 1), ood=novel, ood_name="scenes:novel", **QUIET).tasks["classes"]
    assert all(same(vars(found.scores[name]), vars(value)) for name, value in alone.scores.items())
    assert found.ood.name == "scenes:novel"
    assert {"ood_auroc_epistemic", "ood_ratio_epistemic"} <= set(found.headline)
    histogram = found.ood.histograms["epistemic"]
    assert sum(histogram.inside) == pytest.approx(3 * 16 * 24)
    marked = sum(int(novel[i]["novel"].sum()) for i in range(3))
    assert sum(histogram.outside) == pytest.approx(marked)
    assert 0 < marked < 3 * 16 * 24


def test_scores_do_not_depend_on_worker_processes(run, images):
    one, other = (evaluate(run, images(3, 1), **QUIET | {"workers": n}) for n in (0, 1))
    assert one.to_json() == other.to_json()


def test_a_student_is_scored_beside_its_teacher(make, images):
    teacher = make("teacher")
    student = make("student", teacher=str(teacher.folder))
    found = evaluate(student, images(2, 1), **QUIET).tasks["classes"]
    of_teacher = evaluate(teacher, images(2, 1), **QUIET).tasks["classes"]
    assert same(*({name: vars(each[name]) for name in found.teacher.scores} for each in
                  (found.teacher.scores, of_teacher.scores)))  # fmt: skip
    assert found.scores["mae_total"].value == 0  # both have the same weights


def test_what_is_not_finite_is_named(run, images):
    with torch.no_grad():
        next(run.networks[0].parameters()).fill_(math.nan)
    with pytest.raises(NotFiniteError, match=r"image scene-1-000000.*classes is NaN"):
        evaluate(run, images(2, 1), **QUIET)


def test_nothing_to_evaluate_on(run, images):
    with pytest.raises(DataError, match="empty: check --data"):
        evaluate(run, [], **QUIET)
    with pytest.raises(DataError, match="empty: check --ood"):
        evaluate(run, images(1, 1), ood=[], **QUIET)
    with pytest.raises(ConfigError, match="samples is 0"):
        evaluate(run, images(1, 1), samples=0, **QUIET)


def test_run_and_state_are_as_before(run, images):
    before, device = run_state(run), run.device
    evaluate(run, images(1, 1), **QUIET)
    assert run_state(run) == before
    assert run.device == device


class Pixels:
    """A score of a plug-in: how many valid pixels there are."""

    target = "any"
    headline = ("plugin_pixels",)

    def __init__(self):
        self.count = 0

    @classmethod
    def for_task(cls, task):
        return cls()

    def update(self, prediction, target, valid):
        self.count += int(valid.sum())

    def compute(self):
        return {"plugin_pixels": torch.tensor(float(self.count))}


class Named(Pixels):
    target = "value"


class Clashing(Pixels):
    def compute(self):
        return {"nll": torch.tensor(0.0)}


@pytest.fixture
def plugins(monkeypatch):
    known = {"pixels": Pixels, "of-values": Named, "clashing": Clashing}
    before = registry.load
    monkeypatch.setattr(
        registry, "load", lambda group, name, *rest: known[name] if group == "scores" else before(group, name, *rest)
    )


def test_scores_of_plugins_are_added(run, images, plugins):
    found = evaluate(run, images(2, 1), scores=["pixels"], **QUIET).tasks["classes"]
    assert found.scores["plugin_pixels"].value == found.scores["pixels"].value
    assert "plugin_pixels" in found.headline
    with pytest.raises(ConfigError, match="which no task of the run has"):
        evaluate(run, images(2, 1), scores=["of-values"], **QUIET)
    with pytest.raises(PluginError, match="named like others"):
        evaluate(run, images(2, 1), scores=["clashing"], **QUIET)


SCRIPT = """
import sys
from sfumato.data import Scenes
from sfumato.evaluation import evaluate
from sfumato.runs import Run
run = Run.open(sys.argv[1])
for count in 3, 1:  # with one image, one of the processes has none
    data, novel = Scenes(count, size=(16, 24), seed=1), Scenes(2, size=(16, 24), seed=5) if count > 1 else None
    found = evaluate(run, data, ood=novel, device="cpu", devices=2, progress=False, workers=0)
    if found is not None:
        found.save(f"{sys.argv[2]}/{count}.json")
"""


def test_two_processes_score_as_one(run, images, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(run.folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for count, ood in ((3, images(2, 5)), (1, None)):
        one = evaluate(run, images(count, 1), ood=ood, **QUIET)
        assert same(Evaluation.load(tmp_path / f"{count}.json").to_json(), one.to_json())


def test_opened_with_trust_of_the_run(run):
    """Scores outside sfumato need trust."""
    with pytest.raises(PluginError, match="outside sfumato"):
        evaluate(replace(run), [{"name": "a"}], scores=["some_package.Score"], **QUIET)
