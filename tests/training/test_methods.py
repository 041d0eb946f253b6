"""Every method, from the plan to the run that is opened again."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sfumato.data import Scenes
from sfumato.data.sizes import Region
from sfumato.data.views import DatasetView
from sfumato.errors import ConfigError
from sfumato.methods import kl_divergence
from sfumato.objectives import build_objective
from sfumato.runs import Config, Run, build_network, task_and_likelihood
from sfumato.training import TrainingModule, fit, make_plan
from sfumato.training.loaders import Reading, TrainingData
from sfumato.training.optimizer import parameter_groups
from sfumato.training.parallel import clean_context

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
WALKS = {"snapshot": 6, "swag": 40}
SHARED = ("batch-ensemble", "multi-head")
EPOCHS = {
    **WALKS,
    "randomized-prior": 2,
    "variational": 3,
    "concrete-dropout": 3,
    "latent": 3,
    **dict.fromkeys(SHARED, 3),
}
POST_HOC = ("laplace", "feature-density", "test-time-augmentation", "variance-propagation")
CONFIG = {"network_args": {"widths": (4, 8), "dropout": 0.5}, "batch": 3, "samples": 3, "scale": (1.0, 1.0),
          "color": 0.0, "precision": "32-true"}  # fmt: skip


def scenes(count=6, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(method, **other):
    members = {} if method not in ("snapshot", *SHARED) else {"members": 3}
    choices = {**CONFIG, "epochs": EPOCHS.get(method, 2), **members, **other}
    return make_plan(Config(method=method, **choices), scenes(), device="cpu")[0]


def fitted(folder, known, **how):
    return fit(known, scenes(), None, folder, progress=False, device="cpu", **how)


def module(known):
    task, likelihood = task_and_likelihood(known)
    objective = build_objective(known, task, likelihood)
    return TrainingModule(build_network(known, likelihood), objective, known, 0, DatasetView(scenes()).entries)


def batch(count=2):
    samples = [scenes()[i] for i in range(count)]
    return {key: torch.stack([s[key] for s in samples]) for key in ("image", "classes", "classes_valid")}


@pytest.mark.parametrize("method", [*EPOCHS, *POST_HOC])
def test_a_run_is_opened_as_it_was_left(tmp_path, method):
    run = fitted(tmp_path / "run", plan(method))
    again = Run.open(run.folder)
    image = scenes(1, 5)[0]["image"][None]
    first, second = (r.predict(image, seed=3) for r in (run, again))
    assert torch.equal(first.probs, second.probs)
    assert first.probs.isfinite().all()
    if method not in ("feature-density", "test-time-augmentation"):
        assert first.epistemic.mean() > 0
    assert (first.novelty is not None) == (method == "feature-density")
    assert not list(run.folder.glob("*.ckpt"))


def test_snapshots_are_of_one_training(tmp_path):
    run = fitted(tmp_path / "run", plan("snapshot"))
    first, second, third = (n.state_dict()["network.head.weight"] for n in run.networks)
    # Cycles follow each other. The last one, which is the first member, is nearer to the second than to the first.
    assert (first - third).norm() < (first - second).norm()
    assert not torch.equal(second, third)


def test_swag_stands_at_its_mean(tmp_path):
    run = fitted(tmp_path / "run", plan("swag"))
    method = run.method(4)
    state = method.network.state_dict()
    assert int(method.swag_state.count) == 20
    assert all(torch.allclose(state[name], mean) for name, mean in method.swag_state.average().items())
    assert sum(len(chunk) for chunk in method.draws(torch.rand(1, 3, 16, 24))) == 4


@pytest.mark.parametrize("method", list(WALKS))
def test_too_short_a_training_is_refused_at_once(tmp_path, method):
    short = plan(method, epochs=1, **({"members": 3} if method == "snapshot" else {}))
    with pytest.raises(ConfigError, match="80 steps" if method == "swag" else "3 cycles in 2 steps"):
        fitted(tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", SHARED)
def test_members_in_one_network(tmp_path, method):
    run = fitted(tmp_path / "run", plan(method))
    assert len(run.networks) == 1
    assert [path.name for path in run.folder.glob("weights-*")] == ["weights-0.safetensors"]
    drawn = torch.cat(list(run.method().draws(torch.rand(2, 3, 16, 24))))
    assert drawn.shape == (3, 2, 8, 16, 24)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("method", SHARED)
def test_a_batch_that_members_cannot_share_is_refused_at_once(tmp_path, method):
    with pytest.raises(ConfigError, match=r"3 images cannot be divided among 2 members: .* such as 4"):
        fitted(tmp_path / "run", plan(method, members=2))
    assert not (tmp_path / "run").exists()


def test_factors_of_members_are_not_decayed():
    known = plan("batch-ensemble")
    trained = module(known)
    decayed, free = parameter_groups(trained, known)[:2]
    factors = {p for name, p in trained.named_parameters() if ".rank_one." in name}
    assert factors
    assert factors <= set(free["params"])
    assert not factors & set(decayed["params"])
    assert decayed["weight_decay"] > 0 == free["weight_decay"]


@pytest.mark.parametrize(("images", "size", "processes"), [(6, 3, 1), (7, 3, 2), (2, 3, 1), (9, 2, 4)])
def test_a_plan_knows_its_steps(images, size, processes):
    data = TrainingData(DatasetView(scenes(images)), None, Reading(size, Region((16, 24)), {}))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=processes, global_rank=0, strategy=strategy)
    known = plan("swag", batch=size, epochs=5)
    known = replace(known, facts=replace(known.facts, images=images))
    assert known.steps(processes) == 5 * len(data.train_dataloader())


@pytest.mark.parametrize(("method", "entry"), [("variational", "weight"), ("concrete-dropout", "logit")])
def test_what_is_learned_beside_the_weights_is_learned(tmp_path, method, entry):
    known = plan(method)
    state = fitted(tmp_path / "run", known).networks[0].state_dict()
    fresh = build_network(known, task_and_likelihood(known)[1]).state_dict()
    (name,) = [key for key in fresh if key.startswith("network.head.") and key.endswith(f"posterior.{entry}")]
    assert not torch.equal(state[name], fresh[name])
    reads_image = [key for key in state if key.startswith("network.detail.0.") and "posterior" in key]
    assert bool(reads_image) == (method == "variational")


@pytest.mark.parametrize("method", ["variational", "concrete-dropout"])
def test_the_loss_holds_the_divergence_of_a_pixel(method):
    trained = module(plan(method)).eval()  # without noise
    trained.augment = lambda given, entries: given
    trained.log_dict = lambda *_, **__: None
    given = batch()
    loss = trained.objective(trained.network, given)[0]["nll"]
    extra = trained.training_step(given) - loss
    torch.testing.assert_close(extra, kl_divergence(trained.network) / (6 * 16 * 24), rtol=1e-3, atol=1e-6)


def test_a_penalty_replaces_weight_decay():
    known = plan("variational")
    assert {group["weight_decay"] for group in parameter_groups(module(known), known)} == {0.0}


@pytest.mark.parametrize("method", ["variational", "swag"])
def test_killed_after_the_last_step(tmp_path, method, monkeypatch):
    """What is stored after resuming is the averaged weights, or the mean of the snapshots."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sfumato.training.member.save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "killed", plan(method))
    resumed = fitted(tmp_path / "killed", plan(method), resume=True).networks[0].state_dict()
    whole = fitted(tmp_path / "whole", plan(method)).networks[0].state_dict()
    assert all(torch.allclose(value.float(), resumed[key].float(), atol=1e-6) for key, value in whole.items())


def test_a_trained_network_is_converted(tmp_path):
    start = fitted(tmp_path / "start", plan("deterministic"))
    known = plan("variational", init_from=str(start.folder))
    state = build_network(known, task_and_likelihood(known)[1]).state_dict()
    assert all(torch.equal(state[key], value) for key, value in start.networks[0].state_dict().items())
    assert any("posterior" in key for key in state)


COMMAND = """
import importlib.util, torch
from pathlib import Path
spec = importlib.util.spec_from_file_location("tests_of_methods", {here!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
torch.set_num_threads(1)
tests.fitted(Path({folder!r}), tests.plan({method!r}, epochs=40), resume=True)
"""


@pytest.mark.parametrize("method", list(WALKS))
def test_killed_run_resumes_to_the_same_state(tmp_path, method):
    """Snapshots and moments included: at epoch 31 of 40, swag has some of its 20, and snapshot two of its three."""
    folder = tmp_path / "killed"
    code = COMMAND.format(here=__file__, folder=str(folder), method=method)
    process = clean_context().Process(target=exec, args=(code, {}))
    process.start()
    deadline, path = time.monotonic() + 300, folder / "member-0.ckpt"
    while time.monotonic() < deadline and process.is_alive():
        if path.exists() and torch.load(path, weights_only=True)["epoch"] >= 31:
            break
        time.sleep(0.005)
    process.kill()
    process.join(60)
    assert path.exists()
    assert not (folder / "weights-0.safetensors").exists(), "the run ended before it could be killed"
    known = plan(method, epochs=40)
    resumed, whole = fitted(folder, known, resume=True), fitted(tmp_path / "whole", known)
    for ours, theirs in zip(resumed.networks, whole.networks, strict=True):
        for key, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[key].float(), value.float(), atol=1e-6), key
