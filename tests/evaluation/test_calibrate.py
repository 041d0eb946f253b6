"""A run is calibrated on some images and scored on others."""

import errno
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Subset

from sfumato.calibration import (
    ConformalIntervals,
    ConformalSets,
    Isotonic,
    QuantileMap,
    Temperature,
    VarianceScaling,
    local,
)
from sfumato.errors import ConfigError, DataError, ResourceError, RunError
from sfumato.evaluation import (
    CalibrationReport,
    calibrate,
    evaluate,
    fit_conformal,
    predict_sample,
    reset,
    run_state,
)
from sfumato.runs import Run

QUIET = {"progress": False}
FEW = {"progress": False, "workers": 0, "device": "cpu"}
FILES = ("calibrator.safetensors", "conformal.safetensors")


def stored(run):
    return {name: run.file(name).read_bytes() if run.file(name).exists() else None for name in FILES}


@pytest.mark.parametrize(
    ("task", "likelihood", "name", "kind"),
    [("classes", "categorical", "", Temperature), ("classes", "categorical", "isotonic", Isotonic),
     ("depth", "gaussian", "", VarianceScaling), ("depth", "gaussian", "quantile", QuantileMap)],
)  # fmt: skip
def test_what_is_fitted_is_stored_and_used(make, images, task, likelihood, name, kind):
    run = make("run", (task,), (likelihood,))
    fitted, _ = calibrate(run, images(5, 1), name, **QUIET)
    again = Run.open(run.folder)
    assert isinstance(again.calibrator, kind)
    assert [entry.split()[0] for entry in again.calibrator.fitted_on] == [f"scene-1-{i:06d}" for i in range(5)]
    before, first, second = (predict_sample(each, images(1, 9), 0)[1] for each in (run, fitted, again))
    assert torch.equal(first.total, second.total)
    assert not torch.equal(before.total, first.total)
    assert torch.equal(predict_sample(reset(again), images(1, 9), 0)[1].total, before.total)
    assert Run.open(run.folder).calibrator is None


def test_scores_before_and_after_are_of_the_same_draws(run, images):
    plain = evaluate(run, images(4, 2), **FEW).tasks["classes"]
    calibrated, _ = calibrate(run, images(5, 1), **QUIET)
    found = evaluate(calibrated, images(4, 2), **FEW).tasks["classes"]
    before = {name: each.value for name, each in found.uncalibrated.scores.items()}
    assert len(before) > 20
    assert before == pytest.approx({name: plain.scores[name].value for name in before}, nan_ok=True)
    assert found.scores["accuracy"].value == pytest.approx(plain.scores["accuracy"].value, abs=0.02)  # ties by rounding
    assert found.scores["nll"].value < plain.scores["nll"].value  # random weights are far from calibrated


def test_the_report_is_of_images_that_were_not_fitted_on(run, images):
    data = images(6, 1)
    _, report = calibrate(run, data, **QUIET)
    assert report.before.keys() == report.after.keys() == {"nll", "ece"}
    halves = [Subset(data, range(3)), Subset(data, range(3, 6))]
    after = []
    for fitted_on, scored in (halves, halves[::-1]):
        other, _ = calibrate(reset(run), fitted_on, **QUIET)
        after.append(evaluate(replace(other), scored, **FEW).tasks["classes"])
    pixels = [each.scores["pixels"].value for each in after]
    mean = sum(each.scores["nll"].value * n for each, n in zip(after, pixels)) / sum(pixels)
    assert report.after["nll"] == pytest.approx(mean, rel=1e-5)
    assert not report.harms
    assert "nll" in report.text


def test_a_calibration_that_harms_is_told():
    report = CalibrationReport({"nll": 0.5, "ece": 0.1}, {"nll": 0.6, "ece": 0.05})
    assert report.harms
    assert "worse" in report.text
    assert "too few" in CalibrationReport({}, {}).text


def test_one_image_is_enough_to_fit_but_not_to_check(run, images):
    fitted, report = calibrate(run, images(1, 1), **QUIET)
    assert fitted.calibrator is not None
    assert report.before == report.after == {}


def test_a_temperature_of_each_pixel_is_fitted_to_the_image_too(run, images, monkeypatch):
    monkeypatch.setattr(local, "STEPS", 5)
    fitted, _ = calibrate(run, images(4, 1), "local", **QUIET)
    assert fitted.calibrator.first.shape[1] == 8 + 3  # classes and colors
    assert evaluate(fitted, images(1, 7), **FEW).tasks["classes"].scores["nll"].value > 0


@pytest.mark.parametrize(
    ("task", "likelihood", "kind"),
    [("classes", "categorical", ConformalSets), ("depth", "gaussian", ConformalIntervals)],
)
def test_conformal_sets_are_stored_and_scored(make, images, task, likelihood, kind):
    run = make("run", (task,), (likelihood,))
    fit_conformal(run, images(12, 1), 0.8, **QUIET)
    again = Run.open(run.folder)
    assert isinstance(again.conformal, kind)
    assert again.conformal.images == 12
    scores = evaluate(again, images(8, 2), **FEW).tasks[task].scores
    assert 0 <= scores["risk"].value <= 0.45  # the mean over many such fits is at most 0.2
    assert scores["set_size"].value > 0


def test_conformal_sets_can_be_fitted_again_at_another_level(run, images):
    first = fit_conformal(run, images(12, 1), 0.8, **QUIET)
    second = fit_conformal(first, images(12, 1), 0.9, **QUIET)
    assert (first.conformal.level, second.conformal.level) == (0.8, 0.9)
    assert Run.open(run.folder).conformal.level == 0.9


def test_images_that_were_used_are_not_scored(run, images):
    fitted, _ = calibrate(run, images(3, 1), **QUIET)
    with pytest.raises(RunError, match=r"scene-1-000002 was used to calibrate"):
        evaluate(fitted, Subset(images(3, 1), [2]), **FEW)
    with pytest.raises(RunError, match="was used to calibrate"):
        fit_conformal(fitted, images(12, 1), **QUIET)
    with pytest.raises(RunError, match="was used to calibrate"):
        evaluate(fitted, images(1, 7), ood=images(3, 1), **FEW)


def test_a_leak_is_found_before_the_first_prediction(run, images, monkeypatch):
    fitted, _ = calibrate(run, images(2, 1), **QUIET)
    monkeypatch.setattr(Run, "predict_uncalibrated", lambda *_, **__: pytest.fail("an image was predicted"))
    mixed = torch.utils.data.ConcatDataset([images(3, 5), images(2, 1)])
    with pytest.raises(RunError, match="was used"):
        evaluate(fitted, mixed, **FEW)


def test_other_images_of_the_same_name_are_others(run, images):
    fitted, _ = calibrate(run, images(3, 1), **QUIET)
    fog = images(3, 1, shift="fog", severity=5)
    assert evaluate(fitted, fog, **FEW).tasks["classes"].scores["pixels"].value > 0


def test_a_new_calibrator_deletes_conformal_sets(run, images):
    fitted = fit_conformal(run, images(10, 1), **QUIET)
    assert calibrate(fitted, images(10, 1), **QUIET)[0].conformal is None
    assert Run.open(run.folder).conformal is None


@pytest.fixture
def complete(run, images):
    """A run with a calibrator and conformal sets."""
    return fit_conformal(calibrate(run, images(3, 1), **QUIET)[0], images(10, 3), **QUIET)


def test_a_failed_fit_changes_nothing(complete, images):
    before = stored(complete)
    with pytest.raises(ConfigError, match="not a calibrator"):
        calibrate(complete, images(3, 1), "scale", **QUIET)
    with pytest.raises(DataError, match="too few"):
        fit_conformal(complete, images(3, 2), 0.9, **QUIET)
    with pytest.raises(ConfigError, match="no class 'moon'"):
        fit_conformal(complete, images(3, 2), class_name="moon", **QUIET)
    with pytest.raises(DataError, match="empty"):
        calibrate(complete, [], **QUIET)
    assert stored(complete) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_kill_while_writing_changes_nothing(complete, images, monkeypatch, error):
    def fail(self, path):
        path.write_bytes(b"half")
        raise error

    before, state = stored(complete), run_state(complete)
    for kind in (Temperature, ConformalSets):
        monkeypatch.setattr(kind, "write_to", fail)
    for fit in (calibrate, fit_conformal):
        with pytest.raises((ResourceError, KeyboardInterrupt)):
            fit(complete, images(10, 4), **QUIET)
    assert stored(complete) == before
    assert run_state(complete) == state
    assert not list(complete.folder.glob("*.part"))
    assert Run.open(complete.folder).conformal is not None


def test_an_evaluation_is_outdated_by_a_calibration(run, images):
    found = evaluate(run, images(2, 2), **FEW)
    assert found.is_current(run)
    fitted, _ = calibrate(run, images(2, 1), **QUIET)
    assert not found.is_current(fitted)
    assert found.is_current(reset(fitted))


def test_one_of_several_tasks_is_calibrated(make, images):
    run = make("run", ("classes", "depth"), ("categorical", "gaussian"))
    with pytest.raises(ConfigError, match="--task"):
        calibrate(run, images(2, 1), **QUIET)
    calibrate(run.select_task("classes"), images(2, 1), **QUIET)
    again = Run.open(run.folder)
    assert isinstance(again.per_task["classes"].calibrator, Temperature)
    assert again.per_task["depth"].calibrator is None
    assert reset(again).per_task["classes"].calibrator is None


def test_a_cut_off_calibrator_is_named(run, images):
    calibrate(run, images(3, 1), **QUIET)
    path = run.folder / "calibrator.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"calibrator\.safetensors is cut off"):
        Run.open(run.folder)
