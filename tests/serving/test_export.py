"""Exported files compute what the run computes, at every size, and are read without torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato.calibration import ConformalIntervals, ConformalSets, QuantileMap, Temperature
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, ExportError, MissingFileError, NotFiniteError
from sfumato.runs import Predictor, Run, RunBackend
from sfumato.serving import Bundle, OnnxBackend, export, open_predictor
from sfumato.serving.exporter import compare
from sfumato.serving.graph import Outcome
from sfumato.storage import digest

pytestmark = pytest.mark.filterwarnings("ignore")
CLASS_OUTPUTS = ["label", "probability", "probs", "total", "aleatoric", "epistemic"]


def images(count, size, seed=0):
    return np.random.default_rng(seed).integers(255, size=(count, 3, *size), dtype=np.uint8)


@pytest.fixture(scope="module")
def classes(make_run):
    run = make_run(likelihood="categorical")
    Temperature(torch.tensor([1.5])).save(run.file("calibrator.safetensors"))
    thresholds = torch.full((len(run.task.names),), 0.11)
    rests_on = digest(run.file("calibrator.safetensors"))
    ConformalSets(thresholds, level=0.8, images=12, rests_on=rests_on).save(run.file("conformal.safetensors"))
    return Run.open(run.folder, trust="all")


@pytest.fixture(scope="module")
def vectors(make_run):
    run = make_run(task="centers", likelihood="laplace", method="ensemble", members=2)
    quantiles = QuantileMap(torch.tensor([-2.0, -0.1, 1.5]), torch.tensor([-0.2]), torch.tensor([1.3]))
    intervals = ConformalIntervals(torch.tensor([1.7]), level=0.8, images=12)
    return replace(run, calibrator=quantiles, conformal=intervals)


@pytest.fixture(scope="module")
def file_of_vectors(vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "vectors.onnx"
    assert max(export(vectors, path, input="float").values()) < 1e-4
    return path


@pytest.fixture(scope="module")
def file(classes, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert max(export(classes, path).values()) < 1e-4
    return path


def test_classes_with_their_calibrator(classes, file):
    bundle = Bundle(file, threads=1)
    pixels = images(3, (21, 13))
    found = bundle(pixels)
    assert list(found) == CLASS_OUTPUTS
    assert all(values.shape[-2:] == (21, 13) and len(values) == 3 for values in found.values())
    assert np.allclose(found["probs"].sum(1), 1, atol=1e-5)
    assert np.array_equal(found["probs"].argmax(1), found["label"])
    assert found["label"].dtype == np.uint8
    ours = classes.predict(torch.from_numpy(pixels))
    assert np.allclose(found["total"], ours.total, atol=1e-4)


def test_what_a_file_says_about_itself(classes, file):
    about = Bundle(file).metadata
    assert about["classes"] == list(classes.task.names)
    assert about["calibrator"] == "Temperature"
    assert about["trained_on"]["fingerprint"] == classes.facts.fingerprint
    assert about["inputs"] == [{"name": "image", "channels": 3, "map": True, "type": "uint8"}]
    assert about["conformal"]["thresholds"] == pytest.approx([0.11] * len(classes.task.names))
    assert about["conformal"]["level"] == 0.8
    assert "fitted_on" not in about["conformal"]


def test_an_ensemble_of_values_is_one_graph(vectors, file_of_vectors):
    bundle = Bundle(file_of_vectors, threads=1)
    pixels = images(2, (16, 24)).astype(np.float32) / 255
    found, ours = bundle(pixels), vectors.predict(torch.from_numpy(pixels))
    assert found["mean"].shape == (2, 2, 16, 24)
    assert np.allclose(found["epistemic"], ours.epistemic, rtol=1e-3, atol=1e-5)
    assert np.allclose(found["epistemic_variance"].sum(1), found["epistemic"], rtol=1e-5)
    assert (found["epistemic"] > 0).any()
    assert bundle.metadata["unit"] == "px"
    assert bundle.metadata["quantiles"] == pytest.approx(ours.quantiles.tolist())


def test_members_in_one_network_are_one_graph(make_run, tmp_path):
    run = make_run(method="batch-ensemble", members=2)
    assert max(export(run, tmp_path / "model.onnx", input="float").values()) < 1e-4
    bundle = Bundle(tmp_path / "model.onnx", threads=1)
    pixels = images(3, (16, 24)).astype(np.float32) / 255
    ours = run.predict(torch.from_numpy(pixels))
    assert np.allclose(bundle(pixels)["epistemic"], ours.epistemic, atol=1e-5)
    assert ours.epistemic.max() > 1e-6
    assert bundle.metadata["members"] == 2


def test_two_inputs_have_two_names(make_run, tmp_path):
    run = make_run(inputs=("image", "right"))
    assert max(export(run, tmp_path / "model.onnx").values()) < 1e-4
    bundle = Bundle(tmp_path / "model.onnx", threads=1)
    assert bundle.inputs == ("image", "right")
    left, right = images(2, (17, 22), 1), images(2, (17, 22), 2)
    found = bundle(left, right)
    ours = run.predict(torch.from_numpy(left), torch.from_numpy(right))
    assert np.allclose(found["total"], ours.total, atol=1e-4)
    assert not np.allclose(bundle(right, left)["total"], found["total"], atol=1e-3)
    with pytest.raises(DataError, match="1 inputs, expected 2: image, right"):
        bundle(left)
    with pytest.raises(DataError, match="inputs of different sizes"):
        bundle(left, right[..., :9])


@pytest.mark.parametrize("network", ["light-stereo", "gc-net"])
def test_a_distribution_over_disparities_is_in_the_graph(make_run, tmp_path, network):
    """The networks compute means inside, and ``mean`` is the name of an output."""
    small = {"light-stereo": {"width": 4, "features": 16}, "gc-net": {"width": 2, "blocks": 1}}[network]
    run = make_run(task="disparity", inputs=("image", "right"), network=network, likelihood="planes",
                   network_args={"planes": Scenes(1, size=(16, 24)).tasks["disparity"].planes, **small})  # fmt: skip
    assert max(export(run, tmp_path / "model.onnx").values()) < 1e-3
    left, right = images(2, (32, 48), 1), images(2, (32, 48), 2)
    found = Bundle(tmp_path / "model.onnx", threads=1)(left, right)
    ours = run.predict(torch.from_numpy(left), torch.from_numpy(right))
    # Where two disparities are equally probable, rounding may decide around which of them the mean is taken.
    assert np.isclose(found["mean"], ours.mean, atol=1e-3).mean() > 0.95
    assert np.isclose(found["total"], ours.total, atol=1e-2).mean() > 0.95


def test_300_classes_keep_their_numbers(make_run, many_classes, tmp_path):
    run = make_run(tasks=many_classes, likelihood="categorical")
    head = run.networks[0].network.head
    with torch.no_grad():
        head.bias[280] += 50  # beyond what 8 bits can hold
    assert max(export(run, tmp_path / "model.onnx").values()) < 1e-4
    found = Bundle(tmp_path / "model.onnx", threads=1)(images(1, (16, 24)))
    assert found["label"].dtype == np.int32
    assert (found["label"] == 280).all()


def test_a_label_that_wrapped_around_is_noticed(make_run, many_classes):
    run = make_run(tasks=many_classes, likelihood="categorical")
    prediction = replace(run.predict(torch.from_numpy(images(1, (16, 24)))))
    probs = torch.zeros_like(prediction.probs)
    probs[:, 280] = 1
    prediction = replace(prediction, probs=probs, aleatoric=torch.zeros_like(prediction.aleatoric))
    right = [prediction.label.int(), prediction.confidence, probs, prediction.total, prediction.aleatoric]
    outputs = [*right, prediction.epistemic]
    assert max(compare([Outcome(prediction)], [outputs]).values()) == 0
    outputs[0] = (prediction.label % 256).to(torch.uint8)
    assert compare([Outcome(prediction)], [outputs])["label"] == 1


def test_outputs_that_are_not_finite_are_never_passed(classes):
    prediction = classes.predict(torch.from_numpy(images(1, (16, 24))))
    outputs = [prediction.label.byte(), prediction.confidence, prediction.probs]
    outputs += [torch.full_like(prediction.total, float("nan")), prediction.aleatoric, prediction.epistemic]
    with pytest.raises(NotFiniteError, match="total that is not finite"):
        compare([Outcome(prediction)], [outputs])


def test_a_run_that_is_not_finite_is_not_exported(make_run, tmp_path):
    run = make_run(likelihood="categorical")
    with torch.no_grad():
        run.networks[0].network.head.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="is not finite"):
        export(run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(16, 24), (33, 50)])
def test_a_file_predicts_as_its_run(classes, file, vectors, file_of_vectors, size):
    same_as_run(classes, file, size)
    same_as_run(vectors, file_of_vectors, size)


def same_as_run(run, path, size):
    """Predictions at the original size and conformal sets are those of the run."""
    image = torch.from_numpy(images(1, size))
    torch_found, onnx_found = Predictor(RunBackend(run))(image), open_predictor(path)(image)
    ours, theirs = torch_found.prediction, onnx_found.prediction
    assert type(ours) is type(theirs)
    assert ours.draws == theirs.draws
    for name in ("probs", "mean", "total", "aleatoric", "epistemic", "quantiles", "image"):
        if getattr(ours, name, None) is not None:
            torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), atol=1e-4, rtol=1e-4)
    assert torch_found.sets.keys() == onnx_found.sets.keys() == run.per_task.keys()
    for name, sets in torch_found.sets.items():
        other = onnx_found.sets[name]
        assert sets.level == other.level
        if hasattr(sets, "members"):
            assert (sets.members == other.members).double().mean() > 0.999  # rounding may decide at the threshold
            assert 1 < sets.size.double().mean() < len(run.task.names)
        else:
            torch.testing.assert_close(sets.lower, other.lower, atol=1e-4, rtol=1e-4)


def test_a_file_makes_no_draws(file):
    backend = OnnxBackend(Bundle(file))
    assert backend.tasks.keys() == {"classes"}
    with pytest.raises(ConfigError, match="makes no draws"):
        Predictor(backend)(torch.zeros(1, 3, 16, 24), samples=3)


def test_torch_export(classes, tmp_path):
    assert max(export(classes, tmp_path / "model.pt2", format="torch-export").values()) < 1e-4
    export(classes, tmp_path / "again.pt2", format="torch-export")
    assert (tmp_path / "again.pt2").read_bytes() == (tmp_path / "model.pt2").read_bytes()
    program = torch.export.load(tmp_path / "model.pt2").module()
    found = program(torch.zeros(1, 3, 16, 24, dtype=torch.uint8))
    ours = classes.predict(torch.zeros(1, 3, 16, 24, dtype=torch.uint8))
    torch.testing.assert_close(found[2], ours.probs, atol=1e-5, rtol=1e-4)


def test_a_file_holds_no_path_of_this_machine(file):
    text = file.read_bytes()
    assert b"site-packages" not in text
    assert b"/src/sfumato" not in text


def test_the_reader_needs_no_torch(file):
    script = (
        "import sys, numpy as np; from sfumato.serving import Bundle; "
        f"found = Bundle({str(file)!r})(np.zeros((1, 3, 9, 9), np.uint8)); "
        "assert found['total'].shape == (1, 9, 9); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_another_process_exports_the_same_bytes_without_a_trainer(classes, file, tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {sys.path[0]!r}); "
        "from sfumato.runs import Run; from sfumato.serving import export; "
        f"export(Run.open({str(classes.folder)!r}, trust=True), {str(tmp_path / 'm.onnx')!r}); "
        "assert not {'lightning', 'kornia'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert (tmp_path / "m.onnx").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [({"format": "tflite"}, "format is 'tflite'"), ({"input": "int8"}, "input is 'int8'")],
)
def test_unknown_requests(classes, tmp_path, how, message):
    with pytest.raises(ConfigError, match=message):
        export(classes, tmp_path / "model", **how)


def test_random_draws_are_refused_with_the_way_out(make_run, tmp_path):
    run = make_run(method="mc-dropout", likelihood="categorical")
    with pytest.raises(ExportError, match="pass --deterministic"):
        export(run, tmp_path / "model.onnx")
    assert max(export(run, tmp_path / "model.onnx", deterministic=True).values()) < 1e-4
    found = Bundle(tmp_path / "model.onnx", threads=1)(images(1, (16, 24)))
    assert found["epistemic"].max() < 1e-6


def test_a_network_that_cannot_be_traced_leaves_no_file(classes, tmp_path):
    class Branching(torch.nn.Module):
        stride = 4

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            return self.network(image) * (2 if float(image.mean()) > 0.5 else 1)

    broken = replace(classes, networks=(Branching(classes.networks[0]),))
    with pytest.raises(ExportError, match="cannot be exported to onnx") as caught:
        export(broken, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_bad_files_and_images(file, tmp_path):
    with pytest.raises(MissingFileError, match="sfumato export RUN"):
        Bundle(tmp_path / "none.onnx")
    whole = file.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole ONNX file"):
        Bundle(tmp_path / "cut.onnx")
    with pytest.raises(DataError, match=r"image is float64 \(1, 3, 8, 8\), expected uint8 \(B, 3, H, W\)"):
        Bundle(file)(np.zeros((1, 3, 8, 8)))
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected the folder of a run or an exported \.onnx file"):
        open_predictor(tmp_path / "model.pt2")
