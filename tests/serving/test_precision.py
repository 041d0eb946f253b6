"""Smaller files predict nearly the same, and the reported cost is that of their predictions."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sfumato.data import Scenes
from sfumato.errors import ConfigError
from sfumato.serving import Bundle, export, precision_cost, reduce_precision

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(likelihood="categorical")


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(run, path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copy(whole, tmp_path / "small.onnx")


def weights(path):
    return {weight.name: numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("precision", "factor", "close"), [("float16", 0.5, 2e-3), ("int8", 0.25, 0.1)])
def test_smaller_files_predict_nearly_the_same(whole, copy, precision, factor, close):
    reduce_precision(copy, precision)
    matrices = {name: values.nbytes for name, values in weights(whole).items() if values.ndim > 1}
    smaller = {name: values.nbytes for name, values in weights(copy).items() if name.endswith(("_half", "_int8"))}
    assert sum(smaller.values()) == factor * sum(matrices.values()) > 0
    image = np.random.default_rng(0).integers(255, size=(1, 3, 16, 24), dtype=np.uint8)
    before, after = Bundle(whole, threads=1)(image), Bundle(copy, threads=1)(image)
    assert Bundle(copy).metadata == Bundle(whole).metadata
    assert np.abs(before["total"] - after["total"]).max() <= close * np.abs(before["total"]).max()
    assert not np.array_equal(before["total"], after["total"])


def test_weights_in_8_bits_are_whole_multiples_of_a_step(whole, copy):
    reduce_precision(copy, "int8")
    before, after = weights(whole), weights(copy)
    rounded = [name.removesuffix("_int8") for name in after if name.endswith("_int8")]
    assert rounded
    for name in rounded:
        step = after[f"{name}_step"].reshape(-1, *[1] * (before[name].ndim - 1))
        assert np.abs(after[f"{name}_int8"] * step - before[name]).max() <= step.max() / 2 + 1e-7
        assert np.abs(after[f"{name}_int8"]).max() == 127


def test_full_precision_changes_nothing(whole, copy):
    reduce_precision(copy, "float32")
    assert copy.read_bytes() == whole.read_bytes()
    with pytest.raises(ConfigError, match="precision is 'int4', expected one of float32, float16, int8"):
        reduce_precision(copy, "int4")


def test_the_whole_file_costs_nothing(run, whole):
    dataset = Scenes(2, size=(16, 24), seed=1)
    found = precision_cost(run, Bundle(whole, threads=1), dataset, progress=False)
    scores = run.task.scores()
    for sample in (dataset[0], dataset[1]):
        target, valid = run.task.target_and_mask(run.task.entries(sample))
        scores.update(run.predict(*run.inputs_of(sample)), target[None], valid[None])
    expected = scores.compute()
    assert {"miou", "accuracy"} <= found.keys()
    for name, (ours, theirs) in found.items():
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-3)
        assert ours == pytest.approx(float(torch.as_tensor(expected[name])), rel=1e-2, abs=1e-3)
