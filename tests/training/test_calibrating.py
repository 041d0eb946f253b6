"""A run is calibrated on some images and scored on others."""

import shutil

import pytest
import torch

from sfumato.calibration import ConformalIntervals, ConformalSets, Isotonic, QuantileMap, Temperature, VarianceScaling
from sfumato.data import Scenes
from sfumato.training import Plan, Run, calibrate, derive, evaluate, fit, fit_conformal, forget, predict_image, subset

pytestmark = pytest.mark.filterwarnings("ignore")


def scenes(count, seed):
    return Scenes(count, size=(16, 24), seed=seed)


def trained(folder, task, likelihood):
    train = scenes(6, 0)
    plan = Plan(
        data="scenes", task=task, task_args=vars(train.tasks[task]), original_size=(16, 24), members=1, epochs=2, batch=3,
        network_args={"widths": (4, 8), "dropout": 0.2}, samples=3, likelihood=likelihood,
    )  # fmt: skip
    plan = derive(subset(train, train.tasks[task]), train.tasks[task], plan, train.augmentation)
    return fit(plan, train, None, folder, progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {"classes": trained(folder / "c", "classes", "categorical"),
            "depth": trained(folder / "d", "depth", "gaussian")}  # fmt: skip


@pytest.fixture
def copied(runs, tmp_path):
    def copy(task):
        return Run.open(shutil.copytree(runs[task].folder, tmp_path / task))

    return copy


@pytest.mark.parametrize(
    ("task", "name", "kind"),
    [("classes", "", Temperature), ("classes", "isotonic", Isotonic), ("depth", "", VarianceScaling),
     ("depth", "quantile", QuantileMap)],
)  # fmt: skip
def test_what_is_fitted_is_kept_and_used(copied, task, name, kind):
    run = copied(task)
    fitted = calibrate(run, scenes(5, 1), name, progress=False)
    again = Run.open(run.folder)
    assert isinstance(again.calibrator, kind)
    assert [seen.split()[0] for seen in again.calibrator.fitted_on] == [f"scene-1-{i:06d}" for i in range(5)]
    image = scenes(1, 9)[0]["image"]
    before, first, second = (predict_image(r, image, seed=1) for r in (run, fitted, again))
    assert torch.equal(first.total, second.total)
    assert not torch.equal(before.total, first.total)
    assert torch.equal(predict_image(forget(again), image, seed=1).total, before.total)
    assert Run.open(run.folder).calibrator is None


def test_scores_before_and_after_are_of_the_same_draws(copied):
    run = copied("classes")
    plain = evaluate(run, scenes(4, 2), progress=False)
    assert plain.uncalibrated is None
    found = evaluate(calibrate(run, scenes(5, 1), progress=False), scenes(4, 2), progress=False)
    before, after = found.uncalibrated.compute(), found.scores.compute()
    assert {k: float(v) for k, v in before.items()} == pytest.approx(
        {k: float(v) for k, v in plain.scores.compute().items()}, nan_ok=True
    )
    assert float(after["accuracy"]) == pytest.approx(float(before["accuracy"]), abs=0.01)  # but for ties by rounding
    assert after["nll"] < before["nll"]  # two epochs leave it far from calibrated


@pytest.mark.parametrize(("task", "kind"), [("classes", ConformalSets), ("depth", ConformalIntervals)])
def test_a_promise_is_kept_with_the_run_and_scored(copied, task, kind):
    run = fit_conformal(copied(task), scenes(12, 1), 0.8, progress=False)
    again = Run.open(run.folder)
    assert isinstance(again.conformal, kind)
    assert again.conformal.images == 12
    sets = evaluate(again, scenes(8, 2), progress=False).sets.compute()
    assert 0 <= sets["risk"] <= 0.45  # 0.2 is promised as a mean over many such draws
    assert sets["set_size"] > 0


def test_what_was_fitted_on_is_not_scored_on(copied):
    run = calibrate(copied("classes"), scenes(3, 1), progress=False)
    with pytest.raises(ValueError, match=r"scene-1-000002 was used to fit the Temperature"):
        evaluate(run, torch.utils.data.Subset(scenes(3, 1), [2]), progress=False)
    with pytest.raises(ValueError, match="was used to fit the Temperature"):
        fit_conformal(run, scenes(12, 1), progress=False)


def test_other_images_of_the_same_name_are_others(copied):
    run = calibrate(copied("classes"), scenes(3, 1), progress=False)
    fog = Scenes(3, size=(16, 24), seed=1, shift="fog", severity=5)
    assert evaluate(run, fog, progress=False).scores.compute()["pixels"] > 0


def test_a_new_calibrator_voids_the_promise(copied):
    run = fit_conformal(copied("classes"), scenes(10, 1), progress=False)
    assert calibrate(run, scenes(10, 1), progress=False).conformal is None
    assert Run.open(run.folder).conformal is None


def test_a_failed_fit_loses_nothing(copied):
    run = calibrate(copied("classes"), scenes(3, 1), progress=False)
    with pytest.raises(ValueError, match="not a calibrator"):
        calibrate(run, scenes(3, 1), "scale", progress=False)
    with pytest.raises(ValueError, match="too few"):
        fit_conformal(run, scenes(3, 2), 0.9, progress=False)
    assert Run.open(run.folder).calibrator is not None


def test_a_cut_off_calibrator_is_named(copied):
    run = calibrate(copied("classes"), scenes(3, 1), progress=False)
    path = run.folder / "calibrator.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"calibrator.safetensors is not a whole safetensors file"):
        Run.open(run.folder)
