"""Nothing wrong is kept, printed or exported without a word."""

import csv
import json
import math
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

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
from sfumato.errors import ConfigError, ExportError, NotFiniteError
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
from sfumato.methods import MCDropout
from sfumato.metrics import sparsification
from sfumato.metrics.values import gaussian_crps, gaussian_nll
from sfumato.predictions import ClassMoments
from sfumato.runs import (
    Config,
    Run,
    run_state,
    save_weights,
)
from sfumato.serving import open_predictor, reduce_precision
from sfumato.serving.exporter import compare
from sfumato.serving.files import find_sources
from sfumato.serving.graph import Outcome, outputs_of
from sfumato.serving.metadata import input_kinds, metadata
from sfumato.storage import read_tensors, write_tensors
from sfumato.tasks import Depth

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("few_scenes")]
SIZE = (16, 24)
QUIET = ["--device=cpu", "--quiet"]


# B5: not finite, yet kept


QUICK = ["--data=scenes", "--size=16x24", "--batch=2", "--workers=0", "--method=deterministic", *QUIET,
         '--network-args={"widths": [4, 8]}']  # fmt: skip


@pytest.mark.parametrize("options", [["--learning-rate=1e30"], ["--weight-decay=1e30"]])
@pytest.mark.parametrize("likelihood", ["categorical", "logit-normal"])
def test_a_training_that_diverges_names_the_step_and_keeps_nothing(tmp_path, complaint, options, likelihood):
    out = tmp_path / "run"
    assert main(["fit", "--out", str(out), "--epochs=2", *options, f"--likelihood={likelihood}", *QUICK]) == 2
    line = complaint()
    assert "step" in line
    assert "learning rate" in line
    assert not [*out.glob("*.safetensors"), *out.glob("*.ckpt")]
    for path in out.glob("log/*/metrics.csv"):
        with path.open() as file:
            cells = [cell for row in csv.DictReader(file) for cell in row.values() if cell]
        assert all(math.isfinite(float(cell)) for cell in cells)


def test_finite_weights_whose_predictions_are_not_finite_are_not_stored(tmp_path, complaint):
    """The only step of a training: no later loss can show it."""
    out = tmp_path / "run"
    words = ["--learning-rate=1e30", "--epochs=1", *QUICK, "--batch=4", "--data", str(folder_without_val(tmp_path))]
    assert main(["fit", "--out", str(out), *words]) == 2
    assert "not finite after step 1" in complaint()
    assert not list(out.glob("*.safetensors"))


def folder_without_val(root):
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for number in range(4):
        labels = np.zeros(SIZE, np.uint8)
        labels[:8, number : number + 8] = 1
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
        Image.fromarray(np.dstack([labels * 200] * 3)).save(root / "images" / f"{number}.png")
    splits = {"train": {"images": "images", "labels": "labels"}}
    (root / "sfumato.yaml").write_text(yaml.safe_dump({"splits": splits, "classes": ["a", "b"]}))
    return root


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


def test_a_finite_loss_with_an_infinite_gradient_is_found_before_the_weights_are_stored(
    tmp_path, monkeypatch, complaint
):
    (tmp_path / "steep_net.py").write_text(STEEP)  # the square root has no finite gradient at 0
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in QUICK if not word.startswith("--network")]
    out = tmp_path / "run"
    assert main(["fit", "--out", str(out), "--network=steep_net.Steep", "--epochs=1", *words, "--batch=4"]) == 2
    assert "not finite after step 1" in complaint()
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
def test_outputs_that_are_not_finite_are_no_results(tmp_path, image, complaint, command, task, files_in, write_run):
    run = overflowing(write_run(tmp_path / "run", task))
    before = files_in(run)
    names = {"RUN": str(run), "IMAGE": image, "--out=OUT": f"--out={tmp_path / 'out'}"}
    assert main([names.get(word, word) for word in COMMANDS[command]]) == 2
    complaint()
    assert files_in(run) == before
    assert not list((tmp_path / "out").glob("*.*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_not_finite_are_refused_by_their_file(
    run, tmp_path, image, complaint, command, value, files_in
):
    tensors, metadata = read_tensors(run / "weights-0.safetensors")
    tensors["network.head.bias"][1] = value
    write_tensors(run / "weights-0.safetensors", tensors, metadata)
    before = files_in(run)
    names = {"RUN": str(run), "IMAGE": image, "--out=OUT": f"--out={tmp_path / 'out'}"}
    assert main([names.get(word, word) for word in COMMANDS[command]]) == 2
    assert "weights-0.safetensors holds NaN or infinity" in complaint()
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
def test_fitted_files_that_are_not_finite_are_refused_by_their_name(run, image, complaint, name, kind, tensors, fields):
    write_tensors(run / f"{name}.safetensors", tensors, {"type": kind, "fields": json.dumps(fields)})
    assert main(["predict", str(run), image, *QUIET]) == 2
    assert f"{name}.safetensors" in complaint()


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
        compare([Outcome(prediction)], [outputs])


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
    assert compare([Outcome(prediction)], [wrapped])["label"] == 1.0
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


# B9: two sources, one output name


@pytest.mark.parametrize(
    ("names", "clash"),
    [
        (("a/x.png", "b/x.png"), True), (("a/x.png", "a/x.jpg"), True), (("a/x.png", "a/X.png"), True),
        (("a/x.png", "a/x_sets.png"), True), (("a/caf\u00e9.png", "a/cafe\u0301.png"), True),
        (("a/x.png", "a/y.png"), False), (("a/x.png", "a/x_label.png"), False),
    ],
)  # fmt: skip
def test_two_results_or_a_refusal_before_anything_is_predicted(run, tmp_path, complaint, names, clash):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 90 * number, np.uint8)).save(tmp_path / name)
    folders = sorted({str((tmp_path / name).parent) for name in names})
    out = tmp_path / "out"
    assert main(["predict", str(run), *folders, "--out", str(out), *QUIET]) == (2 if clash else 0)
    if clash:
        line = complaint()
        assert all(Path(name).name in line for name in names)
        assert not out.exists()
        assert main(["predict", str(run), *(str(tmp_path / name) for name in names), f"--out={out}", *QUIET]) == 2
    else:
        assert len(list(out.glob("*.safetensors"))) == 2


def test_frames_of_a_video_and_images_do_not_share_a_name(tmp_path):
    for name in ("clip.mp4", "clip_000003.png"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="would both be written"):
        find_sources([str(tmp_path)], ("image",), tmp_path / "out")


def test_folders_of_equal_files_keep_their_tree(run, tmp_path):
    for folder in ("in/a", "in/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / folder / "x.png")
    for _ in range(2):  # the second time the outputs lie below the inputs
        assert main(["predict", str(run), str(tmp_path / "in"), f"--out={tmp_path / 'in' / 'out'}", *QUIET]) == 0
    found = sorted(
        str(path.relative_to(tmp_path / "in")) for path in tmp_path.rglob("*.safetensors") if "in" in str(path)
    )
    assert [name for name in found if name.startswith("out")] == ["out/a/x.safetensors", "out/b/x.safetensors"]


# B11: frozen batch normalization


FROZEN = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, channels, how="both"):
        super().__init__()
        self.first, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout2d(0.5)
        self.head = nn.Conv2d(8, channels, 1)
        self.norm.running_mean += 1
        self.norm.requires_grad_(False).eval()
    def forward(self, image):
        return self.head(self.drop(self.norm(self.first(image)).relu()))
"""


@pytest.mark.parametrize(
    "method",
    ["deterministic", "mc-dropout", "ensemble", "snapshot", "swag", "batch-ensemble", "multi-head", "variational",
     "concrete-dropout", "latent"],
)  # fmt: skip
def test_frozen_statistics_stay_whatever_the_method(tmp_path, monkeypatch, method):
    (tmp_path / "frozen_net.py").write_text(FROZEN)
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in QUICK if not word.startswith(("--network", "--method"))]
    out = tmp_path / "run"
    words += [
        f"--method={method}",
        "--network=frozen_net.Net",
        f"--epochs={40 if method == 'swag' else 1}",
        "--out",
        str(out),
        "--members=2",
    ]
    if method in ("deterministic", "mc-dropout", "swag", "variational", "concrete-dropout", "latent"):
        words.remove("--members=2")
    assert main(["fit", *words]) == 0
    stored = [read_tensors(path)[0] for path in sorted(out.glob("weights-*.safetensors"))]
    means = [value for each in stored for name, value in each.items() if name.endswith("norm.running_mean")]
    assert means
    assert all(torch.equal(value, torch.ones(8)) for value in means)


# B12: dropout that is not seen is named


class Tokens(nn.Module):
    """A layer for sequences, applied to the pixels of a map (B, 8, H, W)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        pixels = x.flatten(2).transpose(1, 2)
        found = self.inner(*[pixels] * (3 if isinstance(self.inner, nn.MultiheadAttention) else 1))
        found = found[0] if isinstance(found, tuple) else found
        return found.transpose(1, 2).reshape(x.shape)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, self.training)


class Masked(nn.Dropout):
    def forward(self, input):
        return input * (torch.rand_like(input) > self.p) / (1 - self.p) if self.training else input


class Rate(nn.Module):
    """It holds no number that is called a probability."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return x * (torch.rand_like(x) > self.rate) if self.training else x


class Scaled(Rate):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.scale


class Connections(nn.Conv2d):
    def __init__(self):
        super().__init__(8, 8, 1)

    def forward(self, input):
        kept = torch.bernoulli(torch.full_like(self.weight, 0.5)) if self.training else 1.0
        return F.conv2d(input, self.weight * kept, self.bias)


BESIDE = {
    "lstm": lambda: Tokens(nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)),
    "gru": lambda: Tokens(nn.GRU(8, 8, 2, dropout=0.5, batch_first=True)),
    "attention": lambda: Tokens(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)),
    "function": Functional, "subclass": lambda: Masked(0.5), "rate": Rate, "scaled": Scaled, "weights": Connections,
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_dropout_beside_another_one_is_active_or_named(name):
    torch.manual_seed(0)
    inner = BESIDE[name]()
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d(1e-4), inner, nn.Conv2d(8, 4, 1)).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draws = torch.cat(list(MCDropout(network, samples=6).draws(torch.rand(1, 3, 6, 6))))
    active = float((draws - draws[:1]).abs().max()) > 1e-3
    named = any("inside 2" in str(each.message) and "stays inactive" in str(each.message) for each in caught)
    assert active != named


def test_what_never_drops_is_not_named():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d(0.5), Tokens(nn.LSTM(8, 8, 1, batch_first=True))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(MCDropout(network, samples=2).draws(torch.rand(1, 3, 6, 6)))


# B14: every artifact knows the state of the run it was made from


def test_what_was_made_before_a_later_calibration_is_noticed(run, tmp_path, image, capsys):
    assert main(["evaluate", str(run), "--split=val[50%:]", "--workers=0", *QUIET]) == 0
    assert main(["predict", str(run), image, f"--out={tmp_path / 'p'}", *QUIET]) == 0
    state = run_state(Run.open(run))
    assert json.loads((run / "evaluation.json").read_text())["run_state"] == state
    assert json.loads((tmp_path / "p" / "image.json").read_text())["run_state"] == state
    states = [state]
    for words in ([], ["--method=conformal", "--level=0.5", "--split=val[50%:75%]"], ["--method=isotonic"]):
        assert main(["calibrate", str(run), *words, *QUIET]) == 0
        states.append(run_state(Run.open(run)))
        capsys.readouterr()
        assert main(["report", str(run), "--device=cpu"]) == 2
        assert "after its evaluation" in capsys.readouterr().err
    assert len(set(states)) == 4
    assert main(["report", str(run), "--device=cpu", "--allow-stale"]) == 0
    assert "scores on this page are older than the run" in (run / "report.html").read_text()
    assert main(["calibrate", str(run), "--reset"]) == 0
    assert main(["report", str(run), "--device=cpu"]) == 0  # the run is as it was evaluated
    (run / "plan.yaml").write_text((run / "plan.yaml").read_text().replace("samples: 2", "samples: 3"))
    assert main(["report", str(run), "--device=cpu"]) == 2


def test_an_exported_file_that_is_older_than_its_run_is_named(run, image, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    opened = Run.open(run)
    outcome = Outcome(opened.predict(torch.rand(1, 3, *SIZE)))
    about = metadata(opened, input_kinds(opened, "uint8"), 32, outcome)
    assert about["run_state"] == run_state(opened)
    outputs = ("probs", "aleatoric")
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["b", 3, "h", "w"]) for name in ("image", *outputs)]
    nodes = [onnx.helper.make_node("Identity", ["image"], [name]) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, {"sfumato": json.dumps(about)})
    onnx.save(model, run / "model.onnx")
    open_predictor(run / "model.onnx")
    assert capsys.readouterr().err == ""
    assert main(["calibrate", str(run), *QUIET]) == 0
    open_predictor(run / "model.onnx")
    assert "model.onnx is older than the run beside it: export it again" in capsys.readouterr().err


# B15: numbers are checked where they enter


@pytest.mark.parametrize(
    "words",
    [
        "fit --limit=-1", "fit --members=-1", "fit --epochs=-1", "fit --batch=0", "fit --samples=0", "fit --seed=-1",
        "fit --seed=99999999999999999999", "fit --crop=0x5", "fit --crop=-3x4", "fit --size=5x0", "fit --scale=2,1",
        "fit --scale=0,1", "fit --color=2", "fit --ema=1", "fit --ema=-0.1", "fit --learning-rate=0",
        "fit --learning-rate=nan", "fit --weight-decay=-1", "fit --log-variance=1e9", "fit --precision=64-true",
        "fit --devices=0", "fit --num-nodes=0", "fit --parallel-members=0", "fit --workers=-2", "fit --cache-gb=-1",
        "fit --tasks=classes,depth --weighting=fixed --weights=-1,1", "evaluate RUN --samples=0",
        "evaluate RUN --workers=-1", "evaluate RUN --seed=4294967296", "evaluate RUN --devices=0",
        "evaluate RUN --split=val[:0%]", "evaluate RUN --split=val[60%:40%]", "evaluate RUN --split=val[:200%]",
        "compare RUN RUN --samples=0", "predict RUN IMAGE --samples=0", "predict RUN IMAGE --tile=-1",
        "predict RUN IMAGE --seed=-1", "calibrate RUN --method=conformal --level=1",
        "calibrate RUN --method=conformal --level=0", "calibrate RUN --method=conformal --level=nan",
        "calibrate RUN --method=conformal --delta=1", "calibrate RUN --method=conformal --delta=-0.1",
        "calibrate RUN --samples=0", "posthoc RUN laplace --limit=-1", "posthoc RUN laplace --samples=0",
        "distill RUN --epochs=-1", "distill RUN --batch=-1", "distill RUN --learning-rate=-1", "report RUN --samples=0",
        "demo --epochs=-1", "demo --seed=-1",
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_one_line(run, image, tmp_path, monkeypatch, complaint, words, files_in):
    monkeypatch.chdir(tmp_path)
    before = files_in(tmp_path)
    names = {"RUN": str(run), "IMAGE": image}
    assert main([names.get(word, word) for word in words.split()]) == 2
    complaint()
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "choices",
    [
        {"seed": 2**40}, {"log_variance": math.nan}, {"weights": (math.nan,)}, {"weights": (-1.0,)},
        {"color": math.nan}, {"color": -math.inf}, {"ema": math.nan}, {"weight_decay": math.inf},
        {"precision": "16"}, {"crop": (5, 0)},
    ],
)  # fmt: skip
def test_a_choice_out_of_range_is_refused_in_python_and_in_plans(choices):
    with pytest.raises(ConfigError, match=f"{next(iter(choices))} is"):
        Config(**choices)


@pytest.mark.parametrize(
    "facts",
    [
        {"images": -1}, {"counts": [-1]}, {"original_size": [-4, 4]},
        {"normalization": {"image": {"mean": [0.5] * 3, "std": [0.0] * 3}}},
        {"normalization": {"image": {"mean": [math.nan] * 3, "std": [1.0] * 3}}},
        {"normalization": {"image": {"mean": [0.5] * 3, "std": [math.inf] * 3}}},
        {"normalization": {"image": {"mean": [0.5] * 3}}}, {"normalization": {"image": [1.0]}},
        {"scales": {"classes": [0.0, 0.0]}}, {"scales": {"classes": [math.nan, 1.0]}},
    ],
)  # fmt: skip
def test_facts_out_of_range_are_refused_by_their_file(run, image, complaint, facts):
    sections = yaml.safe_load((run / "plan.yaml").read_text())
    sections["facts"].update(facts)
    (run / "plan.yaml").write_text(yaml.safe_dump(sections))
    assert main(["predict", str(run), image, *QUIET]) == 2
    assert "plan.yaml" in complaint()


# B17: sparsification of few pixels


def area(key, errors):
    """The area under one curve by exact arithmetic: 50 steps, percentiles interpolated, equal keys kept."""
    count, order = len(key), np.argsort(key, kind="stable")
    ordered, curve = [Fraction(float(value)) for value in key[order]], []
    for step in range(50):
        place = Fraction((count - 1) * (50 - step), 50)
        low, high = ordered[int(place)], ordered[min(int(place) + 1, count - 1)]
        kept = [value <= low + (high - low) * (place - int(place)) for value in ordered]
        curve.append(np.sqrt(errors[order][kept].mean()))
    return np.trapezoid([*curve, 0.0], dx=0.02), curve[0]


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_ause_and_aurg_of_few_pixels_are_those_of_exact_arithmetic(levels):
    """Also where keys are equal: all of ``levels`` values."""
    random = np.random.default_rng(levels)
    for count in (1, 2, 3, 17, 33, 51, 64):
        key, square = (random.exponential(size=count).astype(np.float32) for _ in range(2))
        key = key if not levels else np.floor(random.random(count) * levels).astype(np.float32)
        found = sparsification.poggi(*(torch.tensor(each) for each in (key, square, square, square)))
        wide = square.astype(np.float64)
        (by_key, full), (oracle, _) = area(key, wide), area(square, wide)
        assert found[0].item() == pytest.approx(by_key - oracle, abs=1e-9)
        assert found[3].item() == pytest.approx(full - by_key, abs=1e-9)
