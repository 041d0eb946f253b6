"""Other programs read what `sfumato predict` writes, and it means what the arrays say."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from sfumato.contracts import Task
from sfumato.errors import ResourceError
from sfumato.predictions import ClassPrediction, PredictionInterval, PredictionSet, ValuePrediction
from sfumato.runs import Predicted
from sfumato.serving.outputs import write_sample
from sfumato.tasks import Depth, Semantic

HEIGHT, WIDTH = 12, 18


def classes(count=4, height=HEIGHT, seed=0):
    torch.manual_seed(seed)
    probs = torch.randn(1, count, height, WIDTH).mul(2).softmax(1)
    found = ClassPrediction(probs, torch.zeros(1, height, WIDTH), 5)
    return ClassPrediction(probs, 0.99 * found.total, 5)


def task_of(count):
    return Semantic(tuple(f"class {n}" for n in range(count)), tuple((n % 256, n // 256, 7) for n in range(count)))


def write(tmp_path, prediction, task: Task, sets=None, cuts=(0, HEIGHT)):
    image = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    bands = [
        (slice(a, b), Predicted(rows_of(prediction, a, b), {} if sets is None else {task.key: rows_of(sets, a, b)}))
        for a, b in pairwise(cuts)
    ]
    write_sample(bands, {task.key: task}, image, tmp_path / "a.b")
    about = json.loads((tmp_path / "a.b.json").read_text())
    assert (about["height"], about["width"]) == (HEIGHT, WIDTH)
    return about["maps"]


def rows_of(value, top, bottom):
    cut = {name: each[..., top:bottom, :] if each.ndim > 2 else each for name, each in value.tensors().items()}
    return type(value)(**{**vars(value), **cut})


def read_map(tmp_path, maps, name):
    pixels = np.asarray(Image.open(tmp_path / f"a.b_{name}.png")).astype(np.float64)
    about = maps[f"a.b_{name}.png"]
    return about["offset"] + about["scale"] * pixels, about


def test_the_label_map_is_the_label_map_itself(tmp_path):
    prediction = classes()
    maps = write(tmp_path, prediction, task_of(4))
    with Image.open(tmp_path / "a.b_label.png") as picture:
        assert (picture.mode, picture.size) == ("P", (WIDTH, HEIGHT))
        assert np.array_equal(np.asarray(picture), prediction.label[0].numpy())
        assert picture.getpalette()[3:6] == [1, 0, 7]
    assert maps["a.b_label.png"]["classes"] == [f"class {n}" for n in range(4)]


def test_more_than_256_classes_have_16_bits(tmp_path):
    prediction = classes(300)
    write(tmp_path, prediction, task_of(300))
    with Image.open(tmp_path / "a.b_label.png") as picture:
        assert picture.mode.startswith("I")
        assert np.array_equal(np.asarray(picture), prediction.label[0].numpy())
    assert prediction.label.max() > 255
    assert ClassPrediction.load(tmp_path / "a.b.safetensors").probs.equal(prediction.probs)


@pytest.mark.parametrize("cuts", [(0, HEIGHT), (0, 5, 6, HEIGHT)])
def test_uncertainties_are_16_bit_pictures_with_unit_and_scale(tmp_path, cuts):
    prediction = classes()
    maps = write(tmp_path, prediction, task_of(4), cuts=cuts)
    for name, wanted in {
        "total": prediction.total, "aleatoric": prediction.aleatoric, "epistemic": prediction.epistemic,
        "probability": prediction.confidence,
    }.items():  # fmt: skip
        values, about = read_map(tmp_path, maps, name)
        np.testing.assert_allclose(values, wanted[0].numpy(), atol=0.51 * about["scale"])
        assert about["max"] == pytest.approx(float(wanted.max()))
        assert about["mean"] == pytest.approx(float(wanted.mean()), rel=1e-5)
        assert about["unit"] == ("" if name == "probability" else "nats")
        assert values.max() == pytest.approx(about["max"])  # all 16 bits are used, however small the uncertainty


def test_values_are_standard_deviations_in_their_unit(tmp_path):
    torch.manual_seed(0)
    mean, variance = torch.rand(1, 1, HEIGHT, WIDTH) * 9 + 1, torch.rand(1, 1, HEIGHT, WIDTH)
    prediction = ValuePrediction(mean, variance, 0.1 * variance, "m", 3)
    maps = write(
        tmp_path, prediction, Depth(1, 10), PredictionInterval(mean - 1, mean + variance, 0.9, "m"), (0, 7, 12)
    )
    wanted_maps = {"mean": mean, "total": prediction.std, "interval_width": 1 + variance}
    for name, wanted in wanted_maps.items():
        values, about = read_map(tmp_path, maps, name)
        np.testing.assert_allclose(values, wanted[0, 0].numpy(), atol=0.51 * about["scale"] + 1e-6)
        assert (about["unit"], about["standard_deviation"]) == ("m", name == "total")
    assert ValuePrediction.load(tmp_path / "a.b.safetensors").mean.equal(mean)


def test_the_arrays_need_no_sfumato_to_be_read(tmp_path):
    prediction = classes()
    members = torch.rand(1, 4, HEIGHT, WIDTH) > 0.5
    write(tmp_path, prediction, task_of(4), PredictionSet(members, 0.9), cuts=(0, 5, HEIGHT))
    arrays = load_file(tmp_path / "a.b.safetensors")
    assert np.array_equal(arrays["label"], prediction.label.numpy())
    for name in ("probs", "aleatoric", "epistemic", "total"):
        np.testing.assert_allclose(arrays[name], getattr(prediction, name).numpy(), atol=1e-6)
    again = ClassPrediction.load(tmp_path / "a.b.safetensors")
    assert (again.draws, again.probs.equal(prediction.probs)) == (5, True)
    assert PredictionSet.load(tmp_path / "a.b_sets.safetensors").members.equal(members)
    assert np.array_equal(load_file(tmp_path / "a.b_sets.safetensors")["size"], members.sum(1).numpy())


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfumato.serving.map_file._allocate", full)
    with pytest.raises(ResourceError, match="free some space"):
        write(tmp_path, classes(), task_of(4))
    assert list(tmp_path.iterdir()) == []
