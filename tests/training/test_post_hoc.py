"""Methods that are fitted to a finished run."""

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import ConfigError, RunExistsError
from sfumato.runs import Config, Run
from sfumato.storage import read_tensors
from sfumato.training import fit, fit_post_hoc, make_plan, post_hoc_methods
from sfumato.training.post_hoc import TrainingBatches

SMALL = {"widths": (4, 8), "dropout": 0.3}
pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
QUIET = {"progress": False}


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def trained(folder, **choices):
    usual = {"network_args": SMALL, "epochs": 2, "batch": 2, "samples": 4, "method": "deterministic",
             "scale": (1.0, 1.0), "color": 0.0}  # fmt: skip
    plan, train, _ = make_plan(Config(**{**usual, **choices}), scenes(), device="cpu")
    return fit(plan, train, None, folder, progress=False, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run")


def image():
    return scenes(1, 5)[0]["image"][None]


@pytest.mark.parametrize(
    "method", ["laplace", "feature-density", "test-time-augmentation", "variance-propagation", "mc-dropout"]
)
def test_a_finished_run_gets_another_method(run, tmp_path, method):
    found = fit_post_hoc(run, method, tmp_path / "new", scenes(), **QUIET)
    again = Run.open(tmp_path / "new").predict(image(), seed=1)
    assert torch.equal(found.predict(image(), seed=1).probs, again.probs)
    assert found.config.method == method
    assert found.plan.facts == run.plan.facts
    theirs = run.networks[0].state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in found.networks[0].state_dict().items())
    if method in ("laplace", "mc-dropout", "variance-propagation"):
        assert again.epistemic.mean() > 0
    assert (again.novelty is not None) == (method == "feature-density")


def test_the_method_of_a_training_is_fitted_after_it(run, tmp_path):
    """``fit --method laplace`` equals a deterministic training and a fit afterwards."""
    whole = trained(tmp_path / "whole", method="laplace")
    after = fit_post_hoc(run, "laplace", tmp_path / "after", scenes(), **QUIET)
    ours, theirs = (read_tensors(r.folder / "method.safetensors")[0] for r in (whole, after))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-6)


def test_no_fit_is_needed_and_no_data(run, tmp_path):
    assert fit_post_hoc(run, "mc-dropout", tmp_path / "new", samples=7, **QUIET).predict(image()).draws == 7


def test_fewer_images_give_a_wider_posterior(run, tmp_path):
    all_of_them, one = (
        fit_post_hoc(run, "laplace", tmp_path / str(limit), scenes(), limit=limit, **QUIET) for limit in (0, 1)
    )
    assert one.predict(image()).epistemic.mean() > all_of_them.predict(image()).epistemic.mean()


def test_batches_are_of_all_images_and_can_be_read_again(run):
    batches = TrainingBatches(run, scenes(), progress=False)
    for _ in range(2):
        found = list(batches)
        assert [len(target) for _, target, _ in found] == [2, 2]
    ((pixels,), target, valid) = found[0]
    assert pixels.dtype == torch.float32
    assert float(pixels.max()) <= 1
    assert torch.equal(target[1], scenes()[1]["classes"])
    assert torch.equal(valid[1], scenes()[1]["classes_valid"])


def test_the_run_stays_and_its_calibrator_is_left_behind(run, tmp_path):
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    (run.folder / "calibrator.safetensors").touch()
    fit_post_hoc(run, "laplace", tmp_path / "new", scenes(), **QUIET)
    (run.folder / "calibrator.safetensors").unlink()
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "plan.yaml", "weights-0.safetensors", "method.safetensors",
    }  # fmt: skip


def test_what_cannot_be_fitted_is_refused_and_nothing_is_written(run, tmp_path):
    refused = tmp_path / "none"
    with pytest.raises(ConfigError, match=r"ensemble is trained, not fitted.*laplace"):
        fit_post_hoc(run, "ensemble", refused, scenes(), **QUIET)
    plain = trained(tmp_path / "plain", network_args={"widths": (4, 8), "dropout": 0.0})
    with pytest.raises(ConfigError, match="dropout"):
        fit_post_hoc(plain, "mc-dropout", refused, scenes(), **QUIET)
    several = trained(tmp_path / "several", method="ensemble", members=2, epochs=1)
    with pytest.raises(ConfigError, match="has 2 networks: laplace takes one"):
        fit_post_hoc(several, "laplace", refused, scenes(), **QUIET)
    assert not refused.exists()
    with pytest.raises(RunExistsError, match="holds a run already"):
        fit_post_hoc(run, "laplace", several.folder, scenes(), **QUIET)


def test_several_tasks(tmp_path):
    joint = trained(tmp_path / "joint", tasks="classes,depth")
    with pytest.raises(ConfigError, match=r"targets of one task, but .* has the tasks classes,depth"):
        fit_post_hoc(joint, "laplace", tmp_path / "none", scenes(), **QUIET)
    with pytest.raises(ConfigError, match="give the run of all its tasks"):
        fit_post_hoc(joint.per_task["classes"], "mc-dropout", tmp_path / "none", scenes(), **QUIET)
    found = fit_post_hoc(joint, "mc-dropout", tmp_path / "new", scenes(), **QUIET).predict(image())
    assert found["depth"].epistemic.mean() > 0


def test_names():
    found = post_hoc_methods()
    assert set(found) >= {"deterministic", "mc-dropout", "laplace", "feature-density"}
    assert not set(found) & {"ensemble", "swag", "latent", "batch-ensemble", "variational"}
