"""Reports of runs: of two inputs, of students, of one value for each image, and of old scores."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.errors import RunError
from sfumato.evaluation import OODComparison, OODHistogram, TaskEvaluation, Value, run_state
from sfumato.evaluation.results import Evaluation
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.registry import Trust
from sfumato.report import write_report
from sfumato.report.facts import training_curves
from sfumato.report.images import as_map, groups_of
from sfumato.report.saliency import saliency_of
from sfumato.runs import Config, Facts, Plan, Run, build_network, save_weights, task_and_likelihood, weights_path

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (16, 24)


MODULE = '''"""A network of two images."""
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(6, channels, 1)

    def forward(self, image, right):
        return self.layer(torch.cat([image, right], 1))
'''


def stereo(count, seed=0):
    return Scenes(count, size=SIZE, seed=seed, views=True, inputs=("image", "right"))


def write_run(folder, facts=None, **choices):
    known = Scenes(1, size=SIZE).tasks
    colors = {name: {"mean": (0.5,) * 3, "std": (0.25,) * 3} for name in ("image", "right")}
    facts = facts or Facts(
        inputs=("image", "right"), normalization=colors, original_size=SIZE, images=4,
        task_args={"classes": asdict(known["classes"])},
    )  # fmt: skip
    config = Config(
        task="classes", likelihood="categorical", network="pair_network.Pair", method="deterministic", members=1,
        size=SIZE, crop=SIZE, epochs=1, precision="32-true",
    )  # fmt: skip
    plan = Plan(replace(config, **choices), facts, Trust.of("all"))
    folder.mkdir()
    plan.save(folder / "plan.yaml")
    torch.manual_seed(0)
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    return Run.open(folder, trust="all")


def evaluation_of(run, images, **more):
    per_image = {
        "index": tuple(map(float, range(images))),
        "uncertainty": tuple(1.0 - i for i in range(images)),
        "miou": (0.5,) * images,
        "nll": tuple(float(i) for i in range(images)),
    }
    found = TaskEvaluation({"miou": Value(0.5, 0.4, 0.6)}, ("miou",), {}, per_image, **more)
    return Evaluation("scenes", "", "val", images, 1, 0, run_state(run), {"classes": found})


def data_of(path):
    html = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "pair_network.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return write_run(tmp_path / "run")


def test_further_inputs_are_layers(run, tmp_path):
    dataset = stereo(5)
    histogram = OODHistogram((0.0, 1.0), (3.0,), (4.0,), (0.1, 0.2))
    ood = OODComparison("scenes:novel", "", {"aleatoric": histogram, "epistemic": histogram})
    path = write_report(run, evaluation_of(run, 5, ood=ood), dataset, tmp_path / "r.html", ood=stereo(4, 9))
    data = data_of(path)
    assert all(list(image["pictures"]) == ["right"] for image in data["images"])
    assert data["groups"]["best"] == [0, 1, 2, 3]
    assert data["groups"]["worst"] == [4, 3, 2, 1]
    assert len(data["groups"]["out of distribution: scenes:novel"]) == 4
    assert "scenes:novel" in path.read_text()


def write_pair_run(folder, task, likelihood):
    known = Scenes(1, size=SIZE, views=True).tasks[task]
    colors = {name: {"mean": (0.5,) * 3, "std": (0.25,) * 3} for name in known.inputs}
    facts = Facts(
        inputs=known.inputs, normalization=colors, original_size=SIZE, images=4, task_args={task: asdict(known)}
    )
    return write_run(folder, facts, task=task, likelihood=likelihood)


@pytest.mark.parametrize(
    ("task", "likelihood", "pictures"),
    [("disparity", "laplace", ["right", "occluded"]), ("flow", "laplace-full", ["next", "occluded", "ellipses"])],
)
def test_pairs_show_both_views_occlusions_ellipses_and_saliency(run, tmp_path, task, likelihood, pictures):
    pair = write_pair_run(tmp_path / task, task, likelihood)
    dataset = Scenes(2, size=SIZE, views=True, inputs=pair.facts.inputs)
    per_image = {"index": (0.0, 1.0), "uncertainty": (1.0, 2.0), "nll": (0.0, 1.0)}
    scores = {task: TaskEvaluation({"epe": Value(0.5, 0.4, 0.6)}, ("epe",), {}, per_image)}
    found = Evaluation("scenes", "", "val", 2, 1, 0, run_state(pair), scores)
    path = write_report(pair, found, dataset, tmp_path / "r.html")
    data = data_of(path)
    assert list(data["pictures"]) == pictures
    for image in data["images"]:
        assert list(image["pictures"]) == pictures
        assert len(image["saliency"]) == 6
        assert all(0 <= spot[side] < 1 and len(spot["maps"]) == 2 for spot in image["saliency"] for side in "xy")
    assert ('class="swatches wheel"' in path.read_text()) == (task == "flow")


def test_saliency_is_where_the_network_looks(run, tmp_path):
    """The network sees one pixel of each picture, so nothing else changes its answer there."""
    pair = write_pair_run(tmp_path / "flow", "flow", "laplace-full")
    inputs = [torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    for spot in saliency_of(pair, inputs):
        row, column = int(spot.place[0] * SIZE[0]), int(spot.place[1] * SIZE[1])
        for found in spot.maps:
            assert found[row, column] > 0
            assert (found > 0).sum() == 1
    assert saliency_of(pair, [torch.rand(1, 3, 800, 800)] * 2) == ()
    assert saliency_of(run, inputs) == ()  # a run of classes


def test_old_scores_are_refused_or_marked(run, tmp_path):
    found, dataset = evaluation_of(run, 2), stereo(2)
    save_weights(nn.Linear(1, 1), run.folder / "weights-0.safetensors")  # trained again
    with pytest.raises(RunError, match="was trained or calibrated after its evaluation"):
        write_report(run, found, dataset, tmp_path / "r.html")
    path = write_report(run, found, dataset, tmp_path / "r.html", allow_stale=True)
    assert "scores on this page are older than the run" in path.read_text()
    with pytest.raises(RunError, match="has 3 images, but 2 were evaluated"):
        write_report(run, found, stereo(3), tmp_path / "r.html", allow_stale=True)


def test_a_student_is_shown_beside_its_teacher(run, tmp_path):
    student = write_run(tmp_path / "student", teacher=str(run.folder))
    path = write_report(student, evaluation_of(student, 2), stereo(2), tmp_path / "r.html")
    assert all("teacher" in image for image in data_of(path)["images"])
    assert "<dt>teacher</dt><dd>run</dd>" in path.read_text()


def test_one_value_for_each_image_is_the_same_at_every_pixel():
    classes = ClassPrediction(torch.tensor([[0.3, 0.7]]), torch.tensor([0.1]))
    values = ValuePrediction(torch.tensor([[2.0]]), torch.tensor([[1.0]]), torch.tensor([[3.0]]), "m")
    for prediction in (classes, values):
        shown = as_map(prediction, (4, 5))
        assert shown.total.shape == (1, 4, 5)
        torch.testing.assert_close(shown.total, prediction.total[:, None, None].expand(1, 4, 5))
        assert as_map(shown, (9, 9)) is shown


def test_images_without_a_target_are_not_the_best():
    table = {"index": (0.0, 1.0, 2.0), "uncertainty": (0.1, 0.3, 0.2), "nll": (float("nan"), 2.0, 1.0)}
    found = Evaluation("", "", "", 3, 1, 0, "", {"t": TaskEvaluation({}, (), {}, table)})
    assert groups_of(found) == {"best": [2, 1], "worst": [1, 2], "most uncertain": [1, 2, 0]}


def test_training_curves_come_from_the_log(tmp_path):
    (tmp_path / "log" / "member-0").mkdir(parents=True)
    rows = "epoch,step,train_loss,val_nll,weight_depth\n0,1,2.0,,0.5\n0,1,,3.0,\n1,2,1.5,,\n"
    (tmp_path / "log" / "member-0" / "metrics.csv").write_text(rows)
    assert training_curves(tmp_path) == {
        "train loss": ([1.0, 2.0], [2.0, 1.5]),
        "val nll": ([1.0], [3.0]),
        "depth weight": ([1.0], [0.5]),
    }
    assert training_curves(tmp_path / "other") == {}
