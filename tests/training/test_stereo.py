"""Every method on both stereo networks, and what ``fit`` tells a network about disparities."""

import pytest

from sfumato.data import Scenes
from sfumato.distillation import distill
from sfumato.errors import ConfigError
from sfumato.runs import Config, Run
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
NETWORKS = {"light-stereo": {"width": 4, "features": 16}, "gc-net": {"width": 2, "blocks": 1}}
EPOCHS = {"swag": 40, "snapshot": 3}
TRAINED = ("deterministic", "mc-dropout", "concrete-dropout", "variational", "swag", "ensemble", "snapshot",
           "batch-ensemble", "multi-head", "laplace", "feature-density", "variance-propagation", "latent")  # fmt: skip
ONE_DRAW = ("deterministic", "feature-density")


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 32), seed=seed, views=True)


def plan(network, method="deterministic", likelihood="planes", **other):
    members = {"members": 2} if method in ("snapshot", "ensemble", "batch-ensemble", "multi-head") else {}
    config = Config(
        task="disparity", network=network, network_args=NETWORKS[network], method=method, likelihood=likelihood,
        batch=2, samples=3, epochs=EPOCHS.get(method, 1), precision="32-true", **members, **other,
    )  # fmt: skip
    return make_plan(config, scenes(), device="cpu")[0]


def fitted(folder, known):
    return fit(known, scenes(), None, folder, progress=False, device="cpu", logger="csv")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", TRAINED)
def test_every_method_on_both_networks(tmp_path, network, method):
    run = Run.open(fitted(tmp_path / "run", plan(network, method)).folder)
    sample = scenes(1, 5)[0]
    found = run.predict(sample["image"][None], sample["right"][None], seed=3)
    assert found.mean.shape == (1, 1, 16, 32)
    assert found.mean.isfinite().all()
    assert (found.aleatoric > 0).all()
    assert bool(found.epistemic.mean() > 0) == (method not in ONE_DRAW)


def test_no_standard_deviation_is_shared_by_many_pixels(tmp_path):
    """In the published statistics of SEDNet, at least 90 % of the pixels have the same uncertainty, that of a floor."""
    run = fitted(tmp_path / "run", plan("light-stereo"))
    sample = scenes(1, 5)[0]
    std = run.predict(sample["image"][None], sample["right"][None]).std
    assert std.unique(return_counts=True)[1].max() < 0.05 * std.numel()


@pytest.mark.parametrize("network", NETWORKS)
def test_mirroring_two_views_is_refused(tmp_path, network):
    with pytest.raises(ConfigError, match="2 inputs whose geometry a flip may break"):
        fitted(tmp_path / "run", plan(network, "test-time-augmentation"))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", ["laplace", "laplace-mixture", "gaussian"])
def test_other_likelihoods_read_the_planes(tmp_path, network, likelihood):
    run = fitted(tmp_path / "run", plan(network, "mc-dropout", likelihood))
    sample = scenes(1, 5)[0]
    found = run.predict(sample["image"][None], sample["right"][None], seed=3)
    assert found.mean.isfinite().all()
    assert (found.aleatoric > 0).all()
    assert found.epistemic.mean() > 0


def test_the_task_gives_the_number_of_planes():
    known = plan("light-stereo")
    assert known.config.network_args["planes"] == scenes().tasks["disparity"].planes
    assert make_plan(Config(task="disparity", batch=2), scenes(), device="cpu")[0].config.network == "light-stereo"
    assert make_plan(Config(task="flow", batch=2), scenes(), device="cpu")[0].config.network == "light-flow"
    assert "planes" not in make_plan(Config(task="depth", batch=2), scenes(), device="cpu")[0].config.network_args


def test_fewer_planes_than_the_data_need_are_refused():
    with pytest.raises(ConfigError, match=r"disparity up to .*, but the network has 2 planes, from 0 to 1"):
        make_plan(
            Config(task="disparity", network="light-stereo", network_args={"planes": 2}, likelihood="laplace"), scenes()
        )


def test_planes_are_for_tasks_with_planes():
    with pytest.raises(ConfigError, match="tasks with planes, such as disparity"):
        make_plan(Config(task="depth", likelihood="planes"), scenes())


def test_variance_propagation_refuses_the_softmax_of_other_likelihoods(tmp_path):
    with pytest.raises(ConfigError, match="variance cannot be propagated through softmax"):
        fitted(tmp_path / "run", plan("light-stereo", "variance-propagation", "laplace"))


def test_a_student_of_the_planes(tmp_path):
    teacher = fitted(tmp_path / "teacher", plan("light-stereo", "mc-dropout"))
    student = distill(teacher, scenes(), None, tmp_path / "student", progress=False, epochs=1)
    assert student.plan.config.likelihood == "distilled-planes"
    sample = scenes(1, 5)[0]
    found = student.predict(sample["image"][None], sample["right"][None])
    assert (found.epistemic > 0).all()
