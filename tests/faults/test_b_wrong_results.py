"""Nothing wrong is kept, printed or exported without a word."""

import csv
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato import ClassPrediction, ValuePrediction
from sfumato.calibration import (
    ClassTemperature,
    ConformalSets,
    Isotonic,
    LocalTemperature,
    QuantileMap,
    Temperature,
    VarianceScaling,
    VectorScaling,
    local,
)
from sfumato.cli import main
from sfumato.data.scenes import Scenes, dataset
from sfumato.errors import ExportError, NotFiniteError
from sfumato.evaluation import CalibrationReport
from sfumato.likelihoods import (
    L1,
    Categorical,
    Dirichlet,
    DistilledClasses,
    DistilledGaussian,
    DistilledLaplace,
    Dudes,
    Gaussian,
    Laplace,
    LogitNormal,
    NormalInverseGamma,
    Tempered,
    standardized,
)
from sfumato.metrics.values import gaussian_crps, gaussian_nll
from sfumato.predictions import ClassMoments
from sfumato.runs import Config, Facts, Plan, build_network, save_weights, task_and_likelihood, weights_path
from sfumato.serving import reduce_precision
from sfumato.serving.exporter import compare
from sfumato.serving.graph import outputs_of
from sfumato.storage import read_tensors, write_tensors
from sfumato.tasks import Depth

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (16, 24)
COLORS = {"image": {"mean": (0.5,) * 3, "std": (0.25,) * 3}}
QUIET = ["--device=cpu", "--quiet"]


def write_run(folder, task="classes", **choices):
    """A run that was never trained."""
    usual = {
        "task": task, "method": "deterministic", "likelihood": "categorical" if task == "classes" else "gaussian",
        "network_args": {"widths": (4, 8), "dropout": 0.2}, "members": 1, "samples": 2, "size": SIZE, "crop": SIZE,
        "epochs": 1, "precision": "32-true", "scale": (1.0, 1.0), "color": 0.0,
    }  # fmt: skip
    known = asdict(Scenes(1, size=SIZE).tasks[task])
    facts = Facts(normalization=COLORS, original_size=SIZE, images=8, counts=(1,), task_args={task: known})
    plan = Plan(Config(**{**usual, **choices}), facts)
    folder.mkdir(parents=True)
    plan.save(folder / "plan.yaml")
    torch.manual_seed(0)
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    return folder


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """The same scenes, fewer of them."""
    for split, choices in dataset.SPLITS.items():
        monkeypatch.setitem(dataset.SPLITS, split, replace(choices, count=4))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def lines(capsys):
    """The only line of the standard error."""

    def only():
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sfumato: ")
        return line

    return only


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# B5: not finite, yet kept


QUICK = ["--data=scenes", "--size=16x24", "--batch=2", "--workers=0", "--method=deterministic", *QUIET,
         '--network-args={"widths": [4, 8]}']  # fmt: skip


@pytest.mark.parametrize("options", [["--learning-rate=1e30"], ["--weight-decay=1e30"]])
@pytest.mark.parametrize("likelihood", ["categorical", "logit-normal"])
def test_a_training_that_diverges_names_the_step_and_keeps_nothing(tmp_path, lines, options, likelihood):
    out = tmp_path / "run"
    assert main(["fit", "--out", str(out), "--epochs=2", *options, f"--likelihood={likelihood}", *QUICK]) == 2
    line = lines()
    assert "step" in line
    assert "learning rate" in line
    assert not [*out.glob("*.safetensors"), *out.glob("*.ckpt")]
    for path in out.glob("log/*/metrics.csv"):
        with path.open() as file:
            cells = [cell for row in csv.DictReader(file) for cell in row.values() if cell]
        assert all(math.isfinite(float(cell)) for cell in cells)


STEEP = """
import torch
from torch import nn
class Steep(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(3, channels, 1)
        self.root = nn.Parameter(torch.zeros(1))
    def forward(self, image):
        return super().forward(image) + self.root.sqrt()
"""


def test_a_finite_loss_with_an_infinite_gradient_is_found_before_the_weights_are_stored(tmp_path, monkeypatch, lines):
    (tmp_path / "steep_net.py").write_text(STEEP)  # the square root has no finite gradient at 0
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in QUICK if not word.startswith("--network")]
    out = tmp_path / "run"
    assert main(["fit", "--out", str(out), "--network=steep_net.Steep", "--epochs=1", *words, "--batch=4"]) == 2
    assert "not finite after step 1" in lines()
    assert not [*out.glob("*.safetensors"), *out.glob("*.ckpt")]


def overflowing(folder):
    """Weights that are finite, and outputs that are not."""
    tensors, metadata = read_tensors(folder / "weights-0.safetensors")
    large = {name: value * 1e12 if name.endswith("weight") else value for name, value in tensors.items()}
    write_tensors(folder / "weights-0.safetensors", large, metadata)
    return folder


COMMANDS = {
    "predict": ["predict", "RUN", "IMAGE", "--out=OUT", *QUIET],
    "evaluate": ["evaluate", "RUN", "--workers=0", *QUIET],
    "calibrate": ["calibrate", "RUN", *QUIET],
    "conformal": ["calibrate", "RUN", "--method=conformal", "--level=0.5", *QUIET],
    "export": ["export", "RUN"],
    "laplace": ["posthoc", "RUN", "laplace", "--out=OUT", *QUIET],
    "distill": ["distill", "RUN", "--out=OUT", "--epochs=1", "--workers=0", *QUIET],
}


@pytest.mark.parametrize("task", ["classes", "depth"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "distill"])
def test_outputs_that_are_not_finite_are_no_results(tmp_path, image, lines, command, task):
    run = overflowing(write_run(tmp_path / "run", task))
    before = files_in(run)
    names = {"RUN": str(run), "IMAGE": image, "--out=OUT": f"--out={tmp_path / 'out'}"}
    assert main([names.get(word, word) for word in COMMANDS[command]]) == 2
    lines()
    assert files_in(run) == before
    assert not list((tmp_path / "out").glob("*.*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_not_finite_are_refused_by_their_file(run, tmp_path, image, lines, command, value):
    tensors, metadata = read_tensors(run / "weights-0.safetensors")
    tensors["network.head.bias"][1] = value
    write_tensors(run / "weights-0.safetensors", tensors, metadata)
    before = files_in(run)
    names = {"RUN": str(run), "IMAGE": image, "--out=OUT": f"--out={tmp_path / 'out'}"}
    assert main([names.get(word, word) for word in COMMANDS[command]]) == 2
    assert "weights-0.safetensors holds NaN or infinity" in lines()
    assert files_in(run) == before


@pytest.mark.parametrize(
    ("name", "kind", "tensors", "fields"),
    [
        ("calibrator", "Temperature", {"temperature": torch.tensor([math.nan])}, {}),
        ("calibrator", "Temperature", {"temperature": torch.tensor([math.inf])}, {}),
        ("conformal", "ConformalSets", {"thresholds": torch.full((8,), math.nan)}, {"level": 0.9}),
        ("conformal", "ConformalSets", {"thresholds": torch.zeros(8)}, {"level": math.nan}),
    ],
)
def test_fitted_files_that_are_not_finite_are_refused_by_their_name(run, image, lines, name, kind, tensors, fields):
    write_tensors(run / f"{name}.safetensors", tensors, {"type": kind, "fields": json.dumps(fields)})
    assert main(["predict", str(run), image, *QUIET]) == 2
    assert f"{name}.safetensors" in lines()


def test_nothing_that_is_not_finite_is_fitted_or_saved(tmp_path):
    for value in (math.nan, math.inf):
        with pytest.raises(NotFiniteError, match="temperature"):
            Temperature(torch.tensor([value]))
        with pytest.raises(NotFiniteError, match="level"):
            ConformalSets(torch.zeros(3), level=value)
        with pytest.raises(NotFiniteError, match="probs"):
            ClassPrediction(torch.full((1, 2, 3, 3), value), torch.zeros(1, 3, 3)).save(tmp_path / "p.safetensors")
        network = nn.Conv2d(1, 1, 1)
        nn.init.constant_(network.bias, value)
        with pytest.raises(NotFiniteError, match="bias"):
            save_weights(network, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_that_half_precision_cannot_hold_are_not_exported(tmp_path):
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.full((2, 3), 1e5, np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["b", n]) for name, n in (("x", 2), ("y", 3))]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", *zip(ends), [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(ExportError, match="more than float16 can"):
        reduce_precision(tmp_path / "m.onnx", "float16")
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_the_check_of_an_export_sees_numbers_that_are_not_finite():
    prediction = ClassPrediction(torch.full((1, 2, 3, 3), 0.5), torch.zeros(1, 3, 3))
    outputs = [value.numpy().copy() for value in outputs_of(prediction).values()]
    outputs[2][0, 0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError):
        compare([prediction], [outputs])


# B6: a fitted map used where it saw no data


def seen(classes, sure, generator, known=4, size=24):
    """An image of classes 0 … ``classes`` − 1, predicted by a network that knows ``known``."""
    target = torch.randint(classes, (1, size, size), generator=generator)
    logits = torch.randn(1, known, size, size, generator=generator)
    logits = logits.scatter_add(1, target[:, None], torch.full((1, 1, size, size), sure))
    return ClassMoments.of(logits.softmax(1)).prediction(), target, target >= 0


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    monkeypatch.setattr(local, "STEPS", 10)


EACH = (Temperature, ClassTemperature, VectorScaling, LocalTemperature, Isotonic)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("missing", [0, 3])
def test_a_class_that_no_held_out_image_shows_keeps_its_recall(kind, missing):
    generator = torch.Generator().manual_seed(missing)
    order = [3, 1, 2, 0] if missing == 0 else [0, 1, 2, 3]  # which of the classes is the last

    def turned(found):
        prediction, target, valid = found
        back = torch.tensor(order)
        return replace(prediction, probs=prediction.probs[:, order]), back[target], valid

    fitted = kind.fit([turned(seen(3, 3.0, generator)) for _ in range(6)])
    prediction, target, _ = turned(seen(4, 3.0, generator))
    own = target == missing
    before, after = (float((p.label == missing)[own].float().mean()) for p in (prediction, fitted(prediction)))
    assert before > 0.85
    assert abs(after - before) < 0.04


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("pixels", [1, 9])
def test_few_held_out_pixels_hardly_change_a_prediction(kind, pixels):
    generator = torch.Generator().manual_seed(1)
    prediction, target, valid = seen(4, 2.0, generator)
    few = torch.zeros_like(valid).flatten()
    few[torch.randperm(few.numel(), generator=generator)[:pixels]] = True
    fitted = kind.fit([(prediction, target, few.view_as(valid))])
    other, truth, _ = seen(4, 2.0, generator)
    before, after = (-p.probs.gather(1, truth[:, None]).log().mean() for p in (other, fitted(other)))
    assert after < before + 0.05


@pytest.mark.parametrize("kind", [VarianceScaling, QuantileMap])
def test_few_held_out_values_hardly_change_a_distribution(kind):
    generator = torch.Generator().manual_seed(2)
    mean, target = torch.zeros(1, 1, 3, 1), torch.randn(1, 1, 3, 1, generator=generator)
    prediction = ValuePrediction(mean, torch.ones_like(mean), torch.zeros_like(mean))
    fitted = kind.fit([(prediction, target, torch.ones(1, 3, 1) > 0)])(prediction)
    assert fitted.variance.sub(1).abs().max() < 0.1
    assert fitted.mean.abs().max() < 0.1


@pytest.mark.parametrize("kind", [VarianceScaling, QuantileMap])
def test_errors_of_zero_do_not_make_a_distribution_a_number(kind):
    mean = torch.rand(1, 1, 24, 24)
    prediction = ValuePrediction(mean, torch.full_like(mean, 0.01), torch.zeros_like(mean))
    found = kind.fit([(prediction, mean, torch.ones(1, 24, 24) > 0)])(prediction)
    assert found.variance.min() > 0
    assert gaussian_nll(found.mean, found.variance, mean + 0.1).isfinite().all()


def test_a_calibration_that_harms_says_so():
    better, worse = {"nll": 0.4, "ece": 0.02}, {"nll": 0.5, "ece": 0.2}
    assert not CalibrationReport(worse, better).harms
    assert "makes nll, ece worse" in CalibrationReport(better, worse).text
    assert "makes ece worse" in CalibrationReport(better, {"nll": 0.4, "ece": 0.05}).text
    assert CalibrationReport(better, {"nll": math.nan, "ece": 0.02}).harms


def test_calibrate_prints_scores_before_and_after_on_other_images(run, capsys):
    assert main(["calibrate", str(run), "--split=val", *QUIET]) == 0
    assert "On images that it was not fitted on (two halves): nll" in capsys.readouterr().out
    assert main(["calibrate", str(run), "--split=val[:25%]", *QUIET]) == 0
    assert "too few to check" in capsys.readouterr().out


# B7: degenerate distributions


VALUES = {
    "gaussian": Gaussian(), "laplace": Laplace(), "l1": L1(), "nig": NormalInverseGamma(),
    "gaussian-log": Gaussian(link="log", lower=0.3, upper=10.0),
    "laplace-log": Laplace(link="log", lower=0.3, upper=10.0),
    "gaussian-inverse": Gaussian(link="inverse", lower=0.3, upper=10.0),
    "laplace-inverse": Laplace(link="inverse", lower=0.3, upper=10.0),
    "distilled-gaussian": DistilledGaussian.for_task(Depth(0.3, 10.0)),
    "distilled-laplace": DistilledLaplace.for_task(Depth(0.3, 10.0)),
    "standardized": standardized(Gaussian(link="log", lower=0.3, upper=10.0), 0.5, 0.1),
    "standardized-nig": standardized(NormalInverseGamma(), 5.0, 1e-3),
}  # fmt: skip
EXTREMES = (-1e4, -100.0, -10.0, 0.0, 10.0, 100.0, 1e4)


@pytest.mark.parametrize("name", VALUES)
def test_no_output_of_a_network_gives_a_distribution_without_width(name):
    likelihood = VALUES[name]
    axes = torch.tensor(EXTREMES)
    output = torch.cartesian_prod(*[axes] * max(2, min(likelihood.channels, 3))).T[None, : likelihood.channels]
    if likelihood.channels > len(output[0]):
        output = torch.cat([output, output[:, :1]], 1)
    output = output.unflatten(2, (-1, len(axes))).contiguous()
    found = likelihood.moments(output).prediction()
    for values in (found.mean, found.variance, found.std):
        assert values.isfinite().all()
    assert found.variance.min() > 0
    target = torch.full_like(found.mean, 5.0)
    valid = torch.ones(target[:, 0].shape) > 0
    for score in (gaussian_nll, gaussian_crps):
        assert score(found.mean, found.variance, target).isfinite().all()
    usual = found.mean.abs() < 1e3  # where it is not, σ may be below the resolution of the mean
    for kind in (VarianceScaling, QuantileMap):
        fitted = kind.fit([(found, target, valid & usual[:, 0])])
        assert fitted(found).variance.min() > 0
        assert fitted(found).variance.isfinite().all()


@pytest.mark.parametrize(
    "likelihood",
    [Categorical(3), LogitNormal(3), Dirichlet(3), Tempered(3), DistilledClasses(3), DistilledClasses(3, probs=True),
     Dudes(3, published=True)],
)  # fmt: skip
def test_no_output_of_a_network_gives_probabilities_that_are_none(likelihood):
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(len(EXTREMES), (1, likelihood.channels, 40, 40), generator=generator)
    found = likelihood.moments(torch.tensor(EXTREMES)[place]).prediction()
    torch.testing.assert_close(found.probs.sum(1), torch.ones(1, 40, 40))
    assert found.aleatoric.min() >= 0
    assert (found.aleatoric <= found.total + 1e-5).all()
    target = torch.randint(3, (1, 40, 40), generator=generator)
    for kind in EACH:
        fitted = kind.fit([(found, target, target >= 0)])
        assert fitted(found).probs.isfinite().all()


# B8: checks made after the lossy step


def test_every_class_has_a_label_of_its_own_in_every_artifact(tmp_path):
    probs = torch.zeros(1, 300, 2, 2)
    probs[0, 290] = 1
    prediction = ClassPrediction(probs, torch.zeros(1, 2, 2))
    assert (outputs_of(prediction)["label"] == 290).all()
    wrapped = [value.numpy() for value in outputs_of(prediction).values()]
    wrapped[0] = wrapped[0].astype(np.uint8)
    assert compare([prediction], [wrapped])["label"] == 1.0
    prediction.save(tmp_path / "p.safetensors")
    assert (ClassPrediction.load(tmp_path / "p.safetensors").label == 290).all()


def test_targets_of_many_classes_are_exact_in_the_cache_and_for_students():
    from sfumato.data.cache import compact, widened
    from sfumato.distillation.dataset import _labeled
    from sfumato.tasks import Semantic

    count = 5000
    task = Semantic(tuple(map(str, range(count))), ((0, 0, 0),) * count)
    classes = torch.arange(count).view(50, 100)
    sample = {"classes": classes, "classes_valid": classes >= 0}
    assert torch.equal(widened(compact(sample))["classes"], classes)
    assert torch.equal(_labeled(task, sample, True)[0][0].long(), classes)


def test_calibrators_of_many_classes_see_their_targets():
    generator = torch.Generator().manual_seed(0)
    held = [seen(300, 6.0, generator, known=300, size=40) for _ in range(2)]
    for kind in (Temperature, ClassTemperature):
        found = kind.fit(held)(held[0][0])
        assert torch.equal(found.label, held[0][0].label)
