"""Methods whose uncertainty lives in the weights, from the plan to the run that is opened again."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sfumato.data import Scenes
from sfumato.methods import kl_divergence
from sfumato.training import METHODS, Plan, Run, derive, evaluate, fit, predict_image, question, subset
from sfumato.training.learner import Images, Learner
from sfumato.training.network import build
from sfumato.training.recipes import swag_rate
from sfumato.training.run import build_network

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
WALKS = {"snapshot": 6, "swag": 40}
SHARED = ("batch-ensemble", "multi-head")
EPOCHS = {**WALKS, "variational": 3, "concrete-dropout": 3, **dict.fromkeys(SHARED, 3)}


def scenes(count=6, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def chosen(method, **other):
    train = scenes()
    known = Plan(
        data="scenes",
        task="classes",
        task_args=vars(train.tasks["classes"]),
        original_size=(16, 24),
        likelihood="categorical",
        method=method,
        members=min(3, METHODS[method].members),
        network_args={"widths": (4, 8), "dropout": 0.5},
        epochs=EPOCHS[method],
        batch=3,
        samples=3,
        scale=(1, 1),
        color=0,
    )
    return replace(derive(subset(train, train.tasks["classes"]), train.tasks["classes"], known), **other)


def fitted(folder, known, **how):
    return fit(known, scenes(), scenes(3, 1), folder, progress=False, **how)


@pytest.mark.parametrize("method", list(EPOCHS))
def test_a_run_is_opened_as_it_was_left(tmp_path, method):
    run = fitted(tmp_path / "run", chosen(method))
    again = Run.open(run.folder)
    image = scenes(1, 5)[0]["image"]
    first, second = (predict_image(r, image, seed=3) for r in (run, again))
    assert torch.equal(first.probs, second.probs)
    assert first.epistemic.mean() > 0
    found = evaluate(again, scenes(2, 1), progress=False)
    assert math.isfinite(found.scores.compute()["nll"])
    assert not list(run.folder.glob("*.ckpt"))


def test_snapshots_are_of_one_training(tmp_path):
    run = fitted(tmp_path / "run", chosen("snapshot"))
    first, second, third = (n.state_dict()["network.head.weight"] for n in run.networks)
    # Cycles follow each other: the last, which is the first member, is nearer to the second than to the first.
    assert (first - third).norm() < (first - second).norm()
    assert not torch.equal(second, third)


def test_swag_stands_at_its_mean(tmp_path):
    run = fitted(tmp_path / "run", chosen("swag"))
    method = run.method(4)
    state = method.network.state_dict()
    assert int(method.swag_state.count) == 20
    assert all(torch.allclose(state[name], mean) for name, mean in method.swag_state.average().items())
    assert len(list(method.draws(torch.rand(1, 3, 16, 24)))) == 4


def test_swag_walks_in_the_last_quarter():
    rates = [swag_rate(step, 200) for step in range(200)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[150:] == pytest.approx([0.1] * 50)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("method", list(WALKS))
def test_too_short_a_training_is_refused_at_once(tmp_path, method):
    short = replace(chosen(method), epochs=1, members=3)
    with pytest.raises(ValueError, match="at least 80 steps" if method == "swag" else "3 cycles in 2 steps"):
        fitted(tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", SHARED)
def test_members_in_one_network(tmp_path, method):
    run = fitted(tmp_path / "run", chosen(method))
    assert len(run.networks) == 1
    assert [path.name for path in run.folder.glob("weights-*")] == ["weights-0.safetensors"]
    (drawn,) = run.method().draws(torch.rand(2, 3, 16, 24))
    assert drawn.shape == (3, 2, 8, 16, 24)
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("method", SHARED)
def test_a_batch_that_members_cannot_share_is_refused_at_once(tmp_path, method):
    with pytest.raises(ValueError, match=r"3 images cannot be shared out among 2 members: .* such as 4"):
        fitted(tmp_path / "run", chosen(method, members=2))
    assert not (tmp_path / "run").exists()


def test_factors_of_members_are_not_decayed():
    known = chosen("batch-ensemble")
    task, likelihood = question(known)
    learner = Learner(build(known, likelihood), likelihood, task, known, 0)
    learner.trainer = SimpleNamespace(estimated_stepping_batches=10)
    decayed, free = learner.configure_optimizers()["optimizer"].param_groups[:2]
    factors = {p for name, p in learner.named_parameters() if ".rank_one." in name}
    assert factors <= set(free["params"])
    assert not factors & set(decayed["params"])
    assert decayed["weight_decay"] > 0 == free["weight_decay"]


@pytest.mark.parametrize(("images", "batch", "processes"), [(6, 3, 1), (7, 3, 2), (2, 3, 1), (9, 2, 4)])
def test_a_plan_knows_its_steps(images, batch, processes):
    loader = Images(scenes(images), None, batch, 0)
    loader.trainer = SimpleNamespace(world_size=processes, global_rank=0)
    known = replace(chosen("swag"), images=images, batch=batch, epochs=5)
    assert known.steps(processes) == 5 * len(loader.train_dataloader())
    assert replace(known, limit=3).steps(1) == 5 * max(1, 3 // batch if images > 3 else images // batch)


@pytest.mark.parametrize(("method", "entry"), [("variational", "weight"), ("concrete-dropout", "logit")])
def test_what_is_learnt_beside_the_weights_is_learnt(tmp_path, method, entry):
    known = chosen(method)
    state = fitted(tmp_path / "run", known).networks[0].state_dict()
    fresh = build(known, question(known)[1]).state_dict()
    name = f"network.head.posterior.{entry}"
    assert not torch.equal(state[name], fresh[name])
    assert ("network.detail.0.posterior.weight" in state) == (method == "variational")  # which reads the image


@pytest.mark.parametrize("method", ["variational", "concrete-dropout"])
def test_the_loss_holds_the_divergence_of_a_pixel(method):
    known = chosen(method)
    task, likelihood = question(known)
    learner = Learner(build(known, likelihood), likelihood, task, known, 0).eval()  # without noise
    assert all(module.p == 0 for module in learner.network.modules() if isinstance(module, torch.nn.Dropout))
    samples = [scenes()[i] for i in range(2)]
    batch = {k: torch.stack([s[k] for s in samples]) for k in ("image", "classes", "classes_valid")}
    learner.augment = lambda batch: batch
    learner.log = lambda *_, **__: None
    loss, _ = learner.objective(learner.network(batch["image"]).float(), *task.target_and_mask(batch))
    extra = learner.training_step(batch) - loss
    torch.testing.assert_close(extra, kl_divergence(learner.network) / (6 * 16 * 24), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["variational", "swag"])
def test_killed_after_the_last_step(tmp_path, method, monkeypatch):
    """What is stored then is what would have been: the averaged weights, or the mean of the snapshots."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sfumato.training.run.save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "killed", chosen(method))
    resumed = fitted(tmp_path / "killed", chosen(method), resume=True).networks[0].state_dict()
    whole = fitted(tmp_path / "whole", chosen(method)).networks[0].state_dict()
    assert all(torch.allclose(value.float(), resumed[key].float(), atol=1e-6) for key, value in whole.items())


def test_a_trained_network_is_converted(tmp_path):
    start = fitted(tmp_path / "start", replace(chosen("variational"), method="deterministic"))
    known = replace(chosen("variational"), init_from=str(start.folder))
    network = build_network(known, question(known)[1])
    state = network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in start.networks[0].state_dict().items())
    assert "network.head.posterior.weight" in state


COMMAND = """
import importlib.util, torch
from pathlib import Path
spec = importlib.util.spec_from_file_location("recipes", {here!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
torch.set_num_threads(1)
tests.fitted(Path({folder!r}), tests.chosen({method!r}, epochs=40), resume=True)
"""


@pytest.mark.parametrize("method", [*WALKS, "variational"])
def test_killed_run_resumes_to_the_same_state(tmp_path, method):
    """Snapshots and moments included; at epoch 31 of 40, swag has some of its 20, and snapshot two of its three."""
    folder = tmp_path / "killed"
    code = COMMAND.format(here=__file__, folder=str(folder), method=method)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, path = time.monotonic() + 300, folder / "member-0.ckpt"
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and torch.load(path, weights_only=True)["epoch"] >= 31:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    assert not (folder / "weights-0.safetensors").exists(), "the run ended before it could be killed"
    known = chosen(method, epochs=40)
    resumed, whole = fitted(folder, known, resume=True), fitted(tmp_path / "whole", known)
    for ours, theirs in zip(resumed.networks, whole.networks, strict=True):
        for key, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[key].float(), value.float(), atol=1e-6), key
