"""Boxes of a run from end to end: scores, calibration, bounds, files and the page, with a network that knows them."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from sfumato.data import box_entries
from sfumato.errors import ConfigError, DataError, RunError
from sfumato.evaluation import calibrate_boxes, evaluate, fit_box_bounds, reset
from sfumato.report import write_report
from sfumato.runs import Config, Facts, Plan, Run, RunBackend, task_and_likelihood
from sfumato.runs.predictor import Predictor
from sfumato.serving import predict_files
from sfumato.tasks import BoxObjects, EdgeDistances

SIZE, SIDE = (48, 64), 16
TASKS = {"objects": BoxObjects.of(("cup", "ball")), "distances": EdgeDistances()}


class Squares(Dataset):
    """Squares of 16 px. The image says where centers are: red is the class, green and blue the way to the center.

    The annotated edges have a noise of 1 px, which the image does not show.
    """

    inputs, splits, tasks = ("image",), ("train", "val"), TASKS

    def __init__(self, count, seed):
        self.count, self.seed = count, seed
        self.names = [f"squares-{seed}-{i}" for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        corners = torch.tensor([[4.0, 4], [36, 4], [4, 26], [36, 26]])
        corners = corners + (6 * torch.rand(4, 2, generator=generator)).round()
        kind = torch.tensor([[0.0], [1], [0], [1]])
        exact = torch.cat([corners, corners + SIDE, kind, torch.zeros(4, 1)], 1)
        maps = box_entries(exact, SIZE)
        left, top, _, _ = maps["distances"]
        image = torch.stack([maps["objects"] / 2, left / 32, top / 32])
        noisy = exact.clone()
        noisy[:, :4] += torch.randn(4, 4, generator=generator)
        return {"name": self.names[index], "image": image, **box_entries(noisy, SIZE)}


class Knowing(nn.Module):
    """Reads the boxes from the image, with a standard deviation of 3 px (√2 e^s for the Laplace distribution)."""

    def __init__(self, heads):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, image):
        red, green, blue = (2 * image[:, 0]).round(), 32 * image[:, 1], 32 * image[:, 2]
        logits = torch.stack([3.0 * (red == kind) for kind in range(3)], 1) + self.nothing
        edges = torch.stack([green, blue, SIDE - green, SIDE - blue], 1)
        scale = torch.full_like(edges, float(torch.tensor(3 / 2**0.5).log()))
        return {"objects": logits, "distances": torch.cat([edges, scale], 1)}


@pytest.fixture
def run(tmp_path):
    from sfumato.methods import Heads
    from sfumato.runs import Normalized

    config = Config(tasks="objects,distances", likelihood="categorical,laplace", method="deterministic", members=1,
                    weighting="equal", size=SIZE, crop=SIZE, epochs=1, data="mine")  # fmt: skip
    facts = Facts(original_size=SIZE, task_args={name: asdict(task) for name, task in TASKS.items()})
    plan = Plan(config, facts)
    task, likelihood = task_and_likelihood(plan)
    network = Normalized(Heads(Knowing({}), likelihood.heads, likelihood.homoscedastic_tasks))
    plan.save(tmp_path / "plan.yaml")
    return Run(tmp_path, plan, task, likelihood, (network.eval(),))


def scores_of(run, data):
    found = evaluate(run, data, progress=False, workers=0).tasks["objects"].scores
    return {name: each.value for name, each in found.items()}


def test_scores_and_calibration(run, tmp_path):
    before = scores_of(run, Squares(20, 1))
    assert before["ap50"] == pytest.approx(1)
    assert before["edge_error"] == pytest.approx(1, abs=0.1)
    assert before["box_std"] == pytest.approx(3, rel=0.01)
    assert before["boxes_tp"] == 80
    calibrator, report = calibrate_boxes(run, Squares(20, 2), progress=False)
    assert calibrator.kind == "isotonic"
    assert not report.harms
    after = evaluate(run, Squares(20, 1), progress=False, workers=0).tasks["objects"]
    assert after.scores["box_std"].value == pytest.approx(1, rel=0.1)
    assert after.scores["box_nll_tp"].value < before["box_nll_tp"] - 1
    assert after.scores["laece0"].value < before["laece0"]
    assert after.uncalibrated.scores["box_std"].value == pytest.approx(3, rel=0.01)
    assert after.headline[0] == "ap"
    with pytest.raises(RunError, match="was used to calibrate"):
        scores_of(run, Squares(3, 2))


def test_bounds(run):
    calibrate_boxes(run, Squares(20, 2), "linear", progress=False)
    with pytest.raises(RunError, match="was used to calibrate"):
        fit_box_bounds(run, Squares(20, 2), progress=False)
    bounds = fit_box_bounds(run, Squares(40, 3), 0.8, progress=False)
    assert 1.5 < bounds.factor < 2.6  # four independent normal edges: 0.8 ** (1 / 4) is the share within 1.92
    found = scores_of(run, Squares(40, 4))
    assert found["bounds_coverage"] == pytest.approx(0.8, abs=0.1)
    fit_box_bounds(run, Squares(40, 3), 0.9, progress=False)  # again on the same images
    assert run.box_finder.bounds.level == 0.9
    calibrate_boxes(run, Squares(20, 5), progress=False)  # bounds were of the boxes as they were
    assert run.box_finder.bounds is None
    reset(run)
    assert run.box_finder.calibrator is None


def test_a_later_calibrator_of_the_maps_makes_that_of_boxes_unused(run):
    from sfumato.evaluation import calibrate

    calibrate_boxes(run, Squares(20, 2), progress=False)
    assert run.box_finder.calibrator is not None
    calibrate(run.select_task("distances"), Squares(10, 6), progress=False)
    assert run.box_finder.calibrator is None


def test_too_few_boxes_change_nothing(run):
    calibrate_boxes(run, Squares(20, 2), progress=False)
    stored = (run.folder / "boxes-calibrator.safetensors").read_bytes()
    with pytest.raises(DataError, match="expected at least 20"):
        calibrate_boxes(run, Squares(2, 7), progress=False)
    with pytest.raises(ConfigError, match="isotonic, linear"):
        calibrate_boxes(run, Squares(20, 2), "temperature", progress=False)
    assert (run.folder / "boxes-calibrator.safetensors").read_bytes() == stored


def test_page(run, tmp_path):
    data = Squares(6, 1)
    fit_box_bounds(run, Squares(40, 3), 0.8, progress=False)
    found = evaluate(run, data, data="mine", progress=False, workers=0)
    page = write_report(run, found, data, tmp_path / "page.html").read_text()
    start = page.index('id="box-data">') + len('id="box-data">')
    packed = json.loads(page[start : page.index("</script>", start)])
    assert packed["classes"] == ["cup", "ball"]
    assert packed["factor"] == pytest.approx(run.box_finder.bounds.factor, abs=0.01)
    first = packed["images"][0]
    assert len(first["boxes"]) == len(first["true"]) == 4
    assert sorted(box[4] for box in first["boxes"]) == [0, 1, 2, 3]
    assert "80% of the true boxes" in page


def test_prediction_files(run, tmp_path):
    from PIL import Image

    pixels = (Squares(1, 1)[0]["image"].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_files(Predictor(RunBackend(run)), [str(tmp_path / "a.png")], tmp_path / "out", progress=False)
    document = json.loads((tmp_path / "out" / "a_boxes.json").read_text())
    assert len(document["annotations"]) == 4
    assert [each["name"] for each in document["categories"]] == ["cup", "ball"]
    first = document["annotations"][0]
    assert first["bbox"][2] == pytest.approx(SIDE, abs=0.5)
    assert first["covariance"][0][0] == pytest.approx(9, rel=0.05)
    assert first["covariance"][0][0] == pytest.approx(first["aleatoric"][0][0] + first["epistemic"][0][0], rel=1e-4)
    assert (tmp_path / "out" / "a_boxes.png").stat().st_size > 100
