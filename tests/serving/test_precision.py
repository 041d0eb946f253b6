"""Smaller files say nearly the same, and what is said of their cost is what they say."""

import shutil

import numpy as np
import pytest

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.serving import Bundle, cost, export, shrink
from sfumato.training import Plan, derive, evaluate, fit, subset

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(folder, task):
    train = Scenes(4, size=(16, 24))
    plan = Plan(
        data="scenes", task=task, task_args=vars(train.tasks[task]), original_size=(16, 24), batch=2, epochs=3,
        method="deterministic", members=1, network_args={"widths": (8, 16), "dropout": 0.0},
        likelihood=train.tasks[task].likelihoods[0],
    )  # fmt: skip
    plan = derive(subset(train, train.tasks[task]), train.tasks[task], plan, train.augmentation)
    return fit(plan, train, None, folder, progress=False)


@pytest.fixture(scope="module", params=["classes", "depth"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    run = trained(folder / "run", request.param)
    export(run, folder / "model.onnx")
    return run, folder / "model.onnx"


def bytes_of_weights(path):
    import onnx
    from onnx import numpy_helper

    return sum(numpy_helper.to_array(w).nbytes for w in onnx.load(path).graph.initializer)


@pytest.mark.parametrize(("precision", "smaller", "close"), [("float16", 0.6, 2e-3), ("int8", 0.4, 0.1)])
def test_smaller_files_say_nearly_the_same(exported, tmp_path, precision, smaller, close):
    whole = exported[1]
    path = tmp_path / "small.onnx"
    shutil.copy(whole, path)
    shrink(path, precision)
    assert bytes_of_weights(path) < smaller * bytes_of_weights(whole)
    image = np.random.default_rng(0).integers(255, size=(1, 3, 16, 24), dtype=np.uint8)
    before, after = Bundle(whole, threads=1)(image), Bundle(path, threads=1)(image)
    assert Bundle(path).metadata == Bundle(whole).metadata
    assert np.abs(before["total"] - after["total"]).max() <= close * np.abs(before["total"]).max()
    assert not np.array_equal(before["total"], after["total"])


def test_weights_in_8_bits_are_whole_multiples_of_a_step(exported, tmp_path):
    import onnx
    from onnx import numpy_helper

    path = tmp_path / "small.onnx"
    shutil.copy(exported[1], path)
    shrink(path, "int8")
    before = {w.name: numpy_helper.to_array(w) for w in onnx.load(exported[1]).graph.initializer}
    after = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    rounded = [name.removesuffix("_int8") for name in after if name.endswith("_int8")]
    assert rounded
    for name in rounded:
        shape = (-1, *[1] * (before[name].ndim - 1))
        step = after[f"{name}_step"].reshape(shape)
        assert np.abs(after[f"{name}_int8"] * step - before[name]).max() <= step.max() / 2 + 1e-7
        assert np.abs(after[f"{name}_int8"]).max() == 127


def test_cost_of_the_whole_file_is_nothing_and_its_scores_are_the_run_s(exported):
    run, path = exported
    dataset = Scenes(3, size=(16, 24), seed=1)
    found = cost(run, Bundle(path), dataset, progress=False)
    scores = evaluate(run, dataset, progress=False).scores.compute()
    for name, (ours, theirs) in found.items():
        assert theirs == pytest.approx(ours, rel=2e-3, abs=1e-3)
        assert ours == pytest.approx(float(scores[name]), rel=0.1, abs=0.01)  # images are rounded to bytes here


def test_from_the_command_line(exported, capsys, monkeypatch, tmp_path):
    run, _ = exported
    monkeypatch.setattr("sfumato.cli.export.data_of", lambda *_: Scenes(2, size=(16, 24), seed=1))
    out = f"--out={tmp_path / 'm.onnx'}"
    assert main(["export", str(run.folder), "--precision=float16", "--quiet", out]) == 0
    assert "→" in capsys.readouterr().out
    assert main(["export", str(run.folder), "--precision=int4", out]) == 2
    assert main(["export", str(run.folder), "--precision=int8", "--format=torch-export", out]) == 2
    assert "expected one of float32, float16, int8 of onnx" in capsys.readouterr().err
