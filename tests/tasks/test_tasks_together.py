"""Tasks of values, and several tasks asked together."""

import math

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import SfumatoError
from sfumato.likelihoods import standardized
from sfumato.runs import likelihood_names
from sfumato.runs.resolve import build_likelihood
from sfumato.tasks import CenterOffsets, Depth, Disparity, Flow, InverseDepth, MultiTask, Semantic
from sfumato.testing import check_likelihood


@pytest.fixture(scope="module")
def sample():
    return Scenes(1, (24, 32), views=True, boxes=True)[0]


def test_scenes_ask_all_of_them(sample):
    tasks = Scenes(1, (24, 32)).tasks
    assert list(tasks) == [
        "classes", "depth", "inverse_depth", "centers", "disparity", "flow", "objects", "distances",
    ]  # fmt: skip
    for name, task in tasks.items():
        target, valid = task.target_and_mask(sample)
        assert task.key == name
        assert target.shape == ((task.dims, 24, 32) if task.dims else (24, 32))
        picture = task.color(target)
        assert (picture.shape, picture.dtype) == ((24, 32, 3), torch.uint8)
        assert valid.dtype == torch.bool


def test_inverse_depth_is_one_over_depth_and_0_in_the_sky(sample):
    sky = ~sample["depth_valid"]
    assert sky.any()
    assert sample["inverse_depth_valid"].all()
    assert (sample["inverse_depth"][0][sky] == 0).all()
    torch.testing.assert_close(sample["inverse_depth"][0][~sky], 1 / sample["depth"][0][~sky])


def test_colors_say_how_near_and_where_to():
    near, far = InverseDepth(1.0).color(torch.tensor([[[1.0, 0.0]]]))[0].tolist()
    assert (near, far) == ([122, 4, 3], [48, 18, 59])
    assert Depth(1, 80).color(torch.tensor([[1.0, 80.0]]))[0].tolist() == [near, far]
    vectors = torch.tensor([[0.0, 20.0, -20.0, 1e9], [0.0, 0.0, 0.0, 0.0]])[:, None]
    still, right, left, further = CenterOffsets(20).color(vectors)[0].tolist()
    assert still == [255, 255, 255]
    assert right == further == [255, 63, 63]
    assert left == [0, 191, 191]
    assert Flow(20).color(vectors).tolist() == CenterOffsets(20).color(vectors).tolist()
    assert Disparity(40).color(torch.tensor([[[40.0, 0.0]]]))[0].tolist() == [near, far]


@pytest.mark.parametrize("task", [Disparity, Flow])
@pytest.mark.parametrize("largest", [0.0, -1.0, math.inf, math.nan])
def test_the_largest_shift_is_a_number_above_0(task, largest):
    with pytest.raises(SfumatoError, match=f"is {largest} px, expected"):
        task(largest)


@pytest.mark.parametrize("task", [CenterOffsets(), InverseDepth(), Disparity(), Flow()])
def test_every_likelihood_of_values(task):
    target = torch.randn(2, task.dims, 4, 5)
    for name in likelihood_names(task):
        likelihood = build_likelihood(name, task)
        check_likelihood(likelihood, target)
        assert likelihood.unit == task.unit
        output = torch.randn(2, likelihood.channels, 4, 5)
        scores = task.scores()
        scores.update(likelihood.moments(output).prediction(), target, torch.ones(2, 4, 5) > 0)
        found = scores.compute()
        assert all(found[score].isfinite() for score in scores.headline)


@pytest.mark.parametrize("task", [Depth(0.5, 60.0, "ft"), CenterOffsets(), InverseDepth()])
def test_every_name_of_a_likelihood_is_in_the_unit_of_the_task(task):
    for name in (*likelihood_names(task), *likelihood_names(task, student=True)):
        found = build_likelihood(name, task, taught=True)
        found = getattr(found, "likelihood", found)  # a student reads another likelihood
        assert (found.dims, found.unit) == (task.dims, task.unit), name


def test_the_default_likelihood_is_listed_first():
    for task in (Depth(), CenterOffsets(), Scenes(1).tasks["classes"]):
        assert likelihood_names(task)[0] == task.default_likelihood


@pytest.mark.parametrize("name", ["categorical", "distilled-laplace", "no-such"])
def test_likelihoods_of_other_targets_and_students_are_refused(name):
    with pytest.raises(SfumatoError, match=r"expected one of|learns from a teacher"):
        build_likelihood(name, Depth())


@pytest.mark.parametrize("name", likelihood_names(InverseDepth()))
def test_standardized_targets_do_not_depend_on_the_unit(name):
    """The same output in meters and in millimeters: means in the ratio of the units, losses apart by its logarithm."""
    target, valid = 3 + torch.rand(2, 1, 4, 5), torch.ones(2, 4, 5) > 0
    inner = build_likelihood(name, InverseDepth())
    output = torch.randn(2, inner.channels, 4, 5)
    meters, millimeters = standardized(inner, 3.5, 0.3), standardized(inner, 3500.0, 300.0)
    near, far = (each.moments(output).prediction() for each in (meters, millimeters))
    torch.testing.assert_close(far.mean, 1000 * near.mean, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(far.total, 1e6 * near.total, rtol=1e-3, atol=1.0)
    apart = millimeters.nll(output, 1000 * target, valid) - meters.nll(output, target, valid)
    torch.testing.assert_close(apart, torch.full_like(apart, math.log(1000)), rtol=1e-3, atol=1e-2)


def test_a_sample_without_a_task_is_nowhere_valid(sample):
    task = MultiTask({"classes": Semantic(("a", "b"), ((0, 0, 0),) * 2), "depth": Depth(), "centers": CenterOffsets()})
    known = {key: sample[key] for key in ("image", "depth", "depth_valid")}
    entries = task.entries(known)
    targets, valids = task.target_and_mask(entries)
    assert {name: tuple(t.shape) for name, t in targets.items()} == {
        "classes": (24, 32), "depth": (1, 24, 32), "centers": (2, 24, 32),
    }  # fmt: skip
    assert targets["classes"].dtype == torch.int64
    assert {name: bool(v.any()) for name, v in valids.items()} == {"classes": False, "depth": True, "centers": False}


@pytest.mark.parametrize(
    "build", [lambda: CenterOffsets(0.0), lambda: InverseDepth(-1.0), lambda: InverseDepth(float("inf"))]
)
def test_ranges_that_make_no_sense_are_refused(build):
    with pytest.raises(ValueError, match="above 0"):
        build()
