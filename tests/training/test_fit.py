"""From a plan to a run: repeatable, resumable, and stopped with a clear message."""

import csv
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import ConfigError, NotFiniteError, PluginError, ResourceError, RunError, RunExistsError
from sfumato.metrics import ClassScores
from sfumato.runs import Config, Run
from sfumato.training import TrainingModule, fit, make_plan
from sfumato.training.devices import check_deterministic
from sfumato.training.folder import locked
from sfumato.training.parallel import clean_context

SMALL = {"widths": (4, 8), "dropout": 0.2}
# What Lightning and torch tell developers; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def scenes(count=6, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(**choices):
    usual = {"network_args": SMALL, "epochs": 2, "batch": 3, "samples": 3, "scale": (1.0, 1.0), "color": 0.0}
    return make_plan(Config(**{**usual, **choices}), scenes(), device="cpu")[0]


def changed(known, **choices):
    return replace(known, config=replace(known.config, **choices))


def fitted(folder, known, train=None, val=None, **how):
    return fit(known, train or scenes(), val, folder, progress=False, device="cpu", **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "run", plan(), val=scenes(3, 1))


def weights(run):
    return {k: v.clone() for k, v in run.networks[0].state_dict().items()}


def same(ours, theirs, atol=0.0):
    return all(torch.allclose(value.float(), theirs[key].float(), atol=atol, rtol=0) for key, value in ours.items())


def rows(folder, member=0):
    with (folder / f"log/member-{member}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_can_be_opened_and_predicts_the_same(run):
    image = scenes(1, 5)[0]["image"][None]
    assert torch.equal(run.predict(image, seed=3).probs, Run.open(run.folder).predict(image, seed=3).probs)
    assert not list(run.folder.glob("*.ckpt"))
    assert not list(run.folder.glob("*.lock"))


def test_losses_and_the_learning_rate_are_logged_in_each_epoch(run):
    found = rows(run.folder)
    assert [row["epoch"] for row in found] == ["0", "1"]
    for row in found:
        assert float(row["train_loss"]) == float(row["train_nll"]) > 0
        assert 0 < float(row["learning_rate"]) <= 3e-3
        assert float(row["val_nll"]) > 0
        assert 0 <= float(row["val_miou"]) <= 1
    assert list((run.folder / "log" / "member-0").glob("events.*"))


def test_the_last_epoch_is_validated(tmp_path):
    fitted(tmp_path / "run", plan(epochs=7), val=scenes(2, 1))  # by thirds: 2, 4, 6
    assert [row["epoch"] for row in rows(tmp_path / "run") if row["val_nll"]] == ["1", "3", "5", "6"]


@pytest.mark.parametrize(
    ("task", "likelihood"),
    [("classes", "logit-normal"), ("depth", "gaussian"), ("depth", "laplace"), ("depth", "normal-inverse-gamma")],
)
def test_every_likelihood_trains(tmp_path, task, likelihood):
    found = fitted(tmp_path / "run", plan(task=task, likelihood=likelihood)).predict(scenes(1, 5)[0]["image"][None])
    assert found.total.isfinite().all()
    assert found.total.min() >= 0


def test_depth_in_other_units_trains_the_same_network(tmp_path):
    """One task is standardized too, so decimeters train what meters do."""

    class Decimeters(Scenes):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"inverse_depth": sample["inverse_depth"] / 10}

    runs = []
    for number, train in enumerate((scenes(), Decimeters(6, size=(16, 24), seed=0))):
        config = Config(task="inverse_depth", likelihood="laplace", network_args=SMALL, epochs=2, batch=3,
                        scale=(1.0, 1.0), color=0.0, precision="32-true")  # fmt: skip
        known = make_plan(config, train, device="cpu")[0]
        runs.append(fitted(tmp_path / str(number), known, train))
    assert same(weights(runs[0]), weights(runs[1]), atol=1e-4)
    meters, decimeters = (r.predict(scenes(1, 5)[0]["image"][None]).mean for r in runs)
    torch.testing.assert_close(meters, 10 * decimeters, rtol=1e-3, atol=1e-4)


def test_ensemble_trains_members_of_their_own(tmp_path):
    ensemble = fitted(tmp_path / "run", plan(method="ensemble", members=2))
    one, other = (n.state_dict()["network.head.weight"] for n in ensemble.networks)
    assert not torch.equal(one, other)
    prediction = ensemble.predict(scenes(1, 5)[0]["image"][None])
    assert prediction.draws == 2
    assert prediction.epistemic.mean() > 0


def test_training_twice_gives_the_same_weights(run, tmp_path, monkeypatch):
    modes = {}

    def noting(name, function):
        @wraps(function)  # the trainer looks at the signature
        def noted(*args):
            modes[name] = torch.are_deterministic_algorithms_enabled()
            return function(*args)

        return noted

    monkeypatch.setattr(TrainingModule, "training_step", noting("training", TrainingModule.training_step))
    for name in ("update", "compute"):
        monkeypatch.setattr(ClassScores, name, noting(name, getattr(ClassScores, name)))
    again = fitted(tmp_path / "again", plan(), val=scenes(3, 1), deterministic=True)
    assert same(weights(again), weights(run))
    # On a GPU the scores need algorithms that are not deterministic.
    assert modes == {"training": True, "update": False, "compute": False}
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_that_was_used_before_cannot_become_deterministic(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    check_deterministic("cuda")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    check_deterministic("cpu")
    with pytest.raises(ConfigError, match=r"set it to :4096:8"):
        check_deterministic("cuda")


def test_kernels_are_stored_channels_last_in_training(tmp_path, monkeypatch):
    found = []
    step = TrainingModule.training_step

    def noted(module, batch):
        kernels = [each for each in module.network.parameters() if each.ndim == 4 and min(each.shape) > 1]
        found.append(kernels and all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels))
        return step(module, batch)

    monkeypatch.setattr(TrainingModule, "training_step", noted)
    fitted(tmp_path / "run", plan(epochs=1))
    assert found
    assert all(found)


def test_workers_and_caches_change_nothing(run, tmp_path):
    for number, how in enumerate(({"workers": 1, "cache": "none"}, {"cache": "disk"})):
        assert same(weights(fitted(tmp_path / str(number), plan(), **how)), weights(run))


COMMAND = """
import faulthandler, os, signal, sys, torch
from pathlib import Path
os.dup2(os.open({errors!r}, os.O_WRONLY | os.O_CREAT), 2)
faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does not end
sys.stderr = os.fdopen(2, "w")
sys.path.insert(0, str(Path({here!r}).parent))
import test_fit as tests
torch.set_num_threads(1)
{call}
"""


def started(call, errors):
    """A process that runs a line, with this file as ``tests`` and its stderr in a file."""
    errors.touch()
    code = COMMAND.format(here=__file__, errors=str(errors), call=call)
    process = clean_context().Process(target=exec, args=(code, {}))
    process.start()
    return process


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.02)
    assert condition()


def stopped(tmp_path, number, epochs=40):
    """What a training that is stopped by a signal leaves: exit code and stderr."""
    folder, errors = tmp_path / "run", tmp_path / "errors"
    call = f"tests.fitted(Path({str(folder)!r}), tests.plan(epochs={epochs}), val=tests.scenes(2, 1))"
    process = started(call, errors)
    wait_for((folder / "member-0.ckpt").exists, process)
    os.kill(process.pid, number)
    process.join(60)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGUSR1)
        process.join(2)
        process.kill()
    assert not (folder / "weights-0.safetensors").exists(), "the run ended before it could be stopped"
    return process.exitcode, errors.read_text()


def test_killed_run_resumes_to_the_same_weights_and_one_log(tmp_path):
    epochs, folder = 40, tmp_path / "run"
    code, _ = stopped(tmp_path, signal.SIGKILL, epochs)
    assert code == -signal.SIGKILL
    known = plan(epochs=epochs)
    resumed = fitted(folder, known, val=scenes(2, 1), resume=True)
    whole = fitted(tmp_path / "whole", known, val=scenes(2, 1))
    assert same(weights(resumed), weights(whole), atol=1e-6)
    ours, theirs = rows(folder), rows(whole.folder)
    logged, every = [row["epoch"] for row in ours], [str(epoch) for epoch in range(epochs)]
    assert logged in (every, every[1:])  # a kill just after the first checkpoint leaves no row of its epoch
    assert float(ours[-1]["train_nll"]) == pytest.approx(float(theirs[-1]["train_nll"]), rel=1e-4)
    assert float(ours[-39]["train_nll"]) == pytest.approx(float(theirs[-39]["train_nll"]), rel=1e-4)


@pytest.mark.parametrize(
    ("number", "code", "error"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 1, "--resume goes on with it")]
)
def test_a_stopped_training_keeps_its_checkpoint_and_says_how_to_go_on(tmp_path, number, code, error):
    found, message = stopped(tmp_path, number, epochs=400)  # it must not end by itself before the signal
    assert found == code, message
    assert (tmp_path / "run" / "member-0.ckpt").exists()
    assert not (tmp_path / "run" / "fit.lock").exists()
    assert error in message


def test_a_finished_run_is_not_overwritten(run):
    with pytest.raises(RunExistsError, match="--resume"):
        fitted(run.folder, plan())
    before = weights(run)
    assert same(weights(fitted(run.folder, plan(), resume=True)), before)


def test_resuming_another_plan_is_refused(run):
    with pytest.raises(RunError, match="epochs was 2, now 5"):
        fitted(run.folder, plan(epochs=5), resume=True)


def test_a_checkpoint_that_is_cut_off_is_named(tmp_path):
    folder, known = tmp_path / "cut", plan()
    folder.mkdir()
    known.save(folder / "plan.yaml")
    (folder / "member-0.ckpt").write_bytes(b"PK\x03\x04 not all of it")
    with pytest.raises(RunError, match=r"member-0\.ckpt is cut off"):
        fitted(folder, known, resume=True)


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    """In this process, and in another one, which is named."""
    folder = tmp_path / "run"
    with locked(folder):
        with pytest.raises(RunError, match="this process is training in"):
            fitted(folder, plan())
        process = started(f"tests.locked(Path({str(folder)!r})).__enter__()", tmp_path / "errors")
        process.join(60)
        assert process.exitcode == 1
        assert f"process {os.getpid()} is training in" in (tmp_path / "errors").read_text()
    assert not (folder / "weights-0.safetensors").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    folder = tmp_path / "run"
    call = f"lock = tests.locked(Path({str(folder)!r})); lock.__enter__(); tests.time.sleep(60)"
    process = started(call, tmp_path / "errors")
    wait_for(lambda: (folder / "fit.lock").exists() and (folder / "fit.lock").read_text(), process)
    process.kill()
    process.join(60)
    assert (folder / "fit.lock").exists()
    with locked(folder):
        assert (folder / "fit.lock").read_text().strip() == str(os.getpid())
    assert not (folder / "fit.lock").exists()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    calls = []

    def spoil(batch):
        calls.append(1)
        return batch if len(calls) < 3 else batch | {"image": batch["image"] * float("nan")}

    with pytest.raises(NotFiniteError, match="the loss is nan at step 2"):
        fitted(tmp_path / "run", plan(epochs=4), batch_transform=spoil)
    assert not list((tmp_path / "run").glob("weights*"))
    state = torch.load(tmp_path / "run" / "member-0.ckpt", weights_only=True)["current_model_state"]
    assert all(value.isfinite().all() for name, value in state.items() if name.startswith("network."))


def test_the_average_of_a_short_training_has_forgotten_the_first_weights(tmp_path):
    """Two steps of EMA with decay 0.999 would leave the network where it started."""
    from sfumato.runs import build_network, task_and_likelihood

    known = plan(ema=0.999, epochs=12, precision="32-true")
    torch.manual_seed(0)
    import lightning

    lightning.seed_everything(0, verbose=False)
    fresh = build_network(known, task_and_likelihood(known)[1]).state_dict()
    averaged, last = (
        weights(fitted(tmp_path / name, changed(known, ema=ema))) for name, ema in (("a", 0.999), ("b", 0.0))
    )
    name = "network.head.weight"
    assert (averaged[name] - last[name]).norm() < 0.25 * (fresh[name] - last[name]).norm()


def test_members_trained_at_the_same_time_are_those_trained_in_turn(tmp_path):
    """In other processes, from the same seeds. One that is there already stays."""
    known = plan(method="ensemble", members=3)
    turn, once = fitted(tmp_path / "turn", known), tmp_path / "once"
    once.mkdir()
    known.save(once / "plan.yaml")
    kept = (turn.folder / "weights-1.safetensors").read_bytes()
    (once / "weights-1.safetensors").write_bytes(kept)
    both = fitted(once, known, parallel_members=2, resume=True)
    for ours, theirs in zip(both.networks, turn.networks, strict=True):
        assert same(ours.state_dict(), theirs.state_dict(), atol=1e-5)
    assert (once / "weights-1.safetensors").read_bytes() == kept
    assert not list(once.glob("*.ckpt"))


class Killed(Scenes):
    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_process_of_a_member_is_reported(tmp_path):
    known = plan(method="ensemble", members=2)
    with pytest.raises(ResourceError, match=r"was killed.*--resume"):
        fitted(tmp_path / "run", known, Killed(6, size=(16, 24), seed=0), parallel_members=2)
    assert (tmp_path / "run" / "plan.yaml").exists()


class Slow(Scenes):
    """Members whose process writes down its id."""

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            (Path(os.environ["PIDS"]) / str(os.getpid())).touch()
            time.sleep(0.05)
        return super().__getitem__(index)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_processes_of_members_end_with_their_parent(tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()
    call = (
        f"os.environ['PIDS'] = {str(pids)!r}\n"
        f"tests.fitted(Path({str(tmp_path / 'run')!r}), tests.plan(method='ensemble', members=2, epochs=500),"
        " tests.Slow(6, size=(16, 24), seed=0), parallel_members=2, cache='none')"
    )
    process = started(call, tmp_path / "errors")
    wait_for(lambda: len(list(pids.iterdir())) >= 2, process)
    process.kill()
    process.join(60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(alive(path.name) for path in pids.iterdir()):
        time.sleep(0.1)
    assert not [path.name for path in pids.iterdir() if alive(path.name)]


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        ("snapshot", {}, "snapshot is one training"),
        ("ensemble", {"devices": 2}, "either members or batches"),
        ("ensemble", {"batch_transform": dict}, "cannot be sent to other processes"),
    ],
)
def test_what_cannot_be_trained_at_the_same_time_is_refused(tmp_path, method, how, message):
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path / "run", plan(method=method, members=2), parallel_members=2, **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["no.such.Network", "sfumato.models.NoSuchNet", "UNet"])
def test_an_unknown_network(tmp_path, path):
    with pytest.raises(PluginError, match=path.split(".")[-1]):
        fitted(tmp_path / "run", plan(network=path))
    assert not (tmp_path / "run").exists()


def test_a_network_with_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="CHANNELS"):
        fitted(tmp_path / "run", plan(network_args={"no_such": 1}))


CONVOLUTION = {"in_channels": 3, "out_channels": "CHANNELS", "kernel_size": 1}


def test_a_users_own_network_by_class_path(tmp_path):
    own = plan(method="deterministic", network="torch.nn.Conv2d", network_args=CONVOLUTION)
    found = fitted(tmp_path / "run", own)
    assert found.predict(scenes(1, 5)[0]["image"][None]).probs.shape == (1, 8, 16, 24)


def test_a_network_with_wrong_channels(tmp_path, monkeypatch):
    code = "import torch\nclass Net(torch.nn.Conv2d):\n    def __init__(self, channels): super().__init__(3, 5, 1)\n"
    (tmp_path / "five_channels.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="8"):
        fitted(tmp_path / "run", plan(method="deterministic", network="five_channels.Net", network_args={}))
    assert not (tmp_path / "run").exists()


def test_mc_dropout_without_dropout_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="dropout"):
        fitted(tmp_path / "run", plan(network="torch.nn.Conv2d", network_args=CONVOLUTION))
    assert not (tmp_path / "run").exists()
