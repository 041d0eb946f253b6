import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sfumato.data import Scenes
from sfumato.training import Plan, Run, derive, evaluate, fit, predict_image, subset
from sfumato.training import network as network_module

SMALL = {"widths": (4, 8), "dropout": 0.2}
# What Lightning and torch tell developers; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def scenes(count=6, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(task="classes", **choices):
    train = scenes()
    known = Plan(
        data="scenes", task=task, task_args=vars(train.tasks[task]), original_size=(16, 24), members=1, network_args=SMALL,
        epochs=2, batch=3, samples=3, scale=(1, 1), color=0, **{"likelihood": "categorical", **choices},
    )  # fmt: skip
    return derive(subset(train, train.tasks[task]), train.tasks[task], known)


def fitted(folder, known, **how):
    return fit(known, scenes(), scenes(3, 1), folder, progress=False, **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "run", plan())


def weights(run):
    return {k: v.clone() for k, v in run.networks[0].state_dict().items()}


def test_a_run_can_be_opened_and_predicts_the_same(run):
    again = Run.open(run.folder)
    image = scenes(1, 5)[0]["image"]
    first, second = (predict_image(r, image, seed=3) for r in (run, again))
    assert torch.equal(first.probs, second.probs)
    assert not torch.equal(first.probs, predict_image(run, image, seed=4).probs)


def test_derived_plan_is_what_the_data_say():
    known, train = plan(), scenes()
    images = torch.stack([train[i]["image"] for i in range(len(train))])
    assert known.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-3)
    assert known.std == pytest.approx(images.transpose(0, 1).flatten(1).std(1).tolist(), abs=1e-3)
    labels = torch.cat([train[i]["classes"][train[i]["classes_valid"]] for i in range(len(train))])
    assert list(known.counts) == torch.bincount(labels).tolist()


def test_plan_survives_its_file(tmp_path):
    known = plan()
    known.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml").difference(known) == ""
    assert "epochs was 2, now 3" in known.difference(replace(known, epochs=3))


@pytest.mark.parametrize(
    ("task", "likelihood"), [("classes", "logit-normal"), ("depth", "gaussian"), ("depth", "laplace")]
)
def test_every_likelihood_trains_and_scores(tmp_path, task, likelihood):
    found = evaluate(fitted(tmp_path / "run", plan(task, likelihood=likelihood)), scenes(3, 1), progress=False)
    assert all(torch.isfinite(found.scores.compute()[name]) for name in ("nll", "ause"))
    assert sorted(found.order.tolist()) == [0, 1, 2]


def test_members_trained_at_once_are_those_trained_in_turn(tmp_path):
    """In other processes, from the same seeds; one that is there already stays."""
    known = replace(plan(method="ensemble"), members=3)
    turn, once = fitted(tmp_path / "turn", known), tmp_path / "once"
    known.save(_made(once) / "plan.yaml")
    kept = (turn.folder / "weights-1.safetensors").read_bytes()
    (once / "weights-1.safetensors").write_bytes(kept)
    both = fitted(once, known, parallel_members=2, resume=True)
    for ours, theirs in zip(both.networks, turn.networks, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.allclose(value, theirs.state_dict()[name], atol=1e-5), name
    assert (once / "weights-1.safetensors").read_bytes() == kept
    assert not list(once.glob("*.ckpt"))


class _Killed(Scenes):
    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_process_of_a_member_is_told_of(tmp_path):
    known = replace(plan(method="ensemble"), members=2)
    with pytest.raises(ChildProcessError, match=r"was killed.*--resume"):
        fit(known, _Killed(6, size=(16, 24), seed=0), None, tmp_path / "run", parallel_members=2, progress=False)
    assert (tmp_path / "run" / "plan.yaml").exists()


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [("snapshot", {}, "snapshot is one training"), ("ensemble", {"devices": 2}, "either members or batches")],
)
def test_what_cannot_be_trained_at_once_is_refused(tmp_path, method, how, message):
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path / "run", replace(plan(method=method), members=2), parallel_members=2, **how)
    assert not (tmp_path / "run").exists()


def _made(folder):
    folder.mkdir()
    return folder


def test_ensemble_trains_members_of_their_own(tmp_path):
    ensemble = fitted(tmp_path / "run", replace(plan(method="ensemble"), members=2))
    one, other = (n.state_dict()["network.head.weight"] for n in ensemble.networks)
    assert not torch.equal(one, other)
    prediction = predict_image(ensemble, scenes(1, 5)[0]["image"])
    assert prediction.draws == 2
    assert prediction.epistemic.mean() > 0


def test_training_twice_gives_the_same_weights(run, tmp_path):
    again = fitted(tmp_path / "again", plan())
    assert all(torch.equal(v, weights(run)[k]) for k, v in weights(again).items())


COMMAND = """
import sys, torch
sys.path.insert(0, {tests!r})
from dataclasses import replace
from test_run import fitted, plan
from pathlib import Path
torch.set_num_threads(1)
fitted(Path({folder!r}), replace(plan(), epochs={epochs}), resume=True)
"""


def test_killed_run_resumes_to_the_same_weights(tmp_path):
    epochs, folder = 40, tmp_path / "killed"
    code = COMMAND.format(tests=os.path.dirname(__file__), folder=str(folder), epochs=epochs)  # noqa: PTH120
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "member-0.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "member-0.ckpt").exists()
    assert not (folder / "weights-0.safetensors").exists(), "the run ended before it could be killed"
    known = replace(plan(), epochs=epochs)
    resumed, whole = fitted(folder, known, resume=True), fitted(tmp_path / "whole", known)
    for key, value in weights(whole).items():
        assert torch.allclose(weights(resumed)[key].float(), value.float(), atol=1e-6), key


def test_a_finished_run_is_not_overwritten(run):
    with pytest.raises(FileExistsError, match="--resume"):
        fitted(run.folder, plan())
    before = weights(run)
    assert torch.equal(
        weights(fitted(run.folder, plan(), resume=True))["network.head.weight"], before["network.head.weight"]
    )


def test_resuming_another_plan_is_refused(run):
    with pytest.raises(ValueError, match="epochs was 2, now 5"):
        fitted(run.folder, replace(plan(), epochs=5), resume=True)


def copied(run, folder):
    folder.mkdir()
    for name in ("plan.yaml", "weights-0.safetensors"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    return folder


def test_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"plan\.yaml.*not a run"):
        Run.open(tmp_path)


def test_run_cut_off_before_its_weights(run, tmp_path):
    folder = copied(run, tmp_path / "cut")
    (folder / "weights-0.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="--resume"):
        Run.open(folder)


@pytest.mark.parametrize(("name", "keep"), [("plan.yaml", 40), ("weights-0.safetensors", 1000)])
def test_files_cut_off_mid_write(run, tmp_path, name, keep):
    folder = copied(run, tmp_path / "cut")
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=name):
        Run.open(folder)


def test_checkpoint_cut_off_mid_write_names_the_file(run, tmp_path):
    folder = copied(run, tmp_path / "cut")
    (folder / "weights-0.safetensors").unlink()
    (folder / "member-0.ckpt").write_bytes(b"PK\x03\x04 not all of it")
    with pytest.raises(ValueError, match=r"member-0\.ckpt is cut off"):
        fitted(folder, plan(), resume=True)


def test_weights_of_another_network(run, tmp_path):
    folder = copied(run, tmp_path / "other")
    entries = yaml.safe_load((folder / "plan.yaml").read_text())
    entries["network_args"]["widths"] = [4, 8, 8]
    (folder / "plan.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(ValueError, match="another network than the plan"):
        Run.open(folder)


def test_weights_are_tensors_only(run):
    assert set(load_file(run.folder / "weights-0.safetensors")) == set(weights(run))


@pytest.mark.parametrize("path", ["no.such.Network", "sfumato.models.NoSuchNet", "UNet"])
def test_unknown_class_path(tmp_path, path):
    with pytest.raises(ValueError, match="class path"):
        fitted(tmp_path / "run", replace(plan(), network=path))


def test_network_of_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="CHANNELS"):
        fitted(tmp_path / "run", replace(plan(), network_args={"no_such": 1}))


def test_a_users_own_network_by_class_path(tmp_path):
    own = replace(plan(method="deterministic"), network="torch.nn.Conv2d")
    own = replace(own, network_args={"in_channels": 3, "out_channels": "CHANNELS", "kernel_size": 1})
    assert predict_image(fitted(tmp_path / "run", own), scenes(1, 5)[0]["image"]).probs.shape == (1, 8, 16, 24)


def test_network_of_wrong_channels(tmp_path, monkeypatch):
    code = "import torch\nclass Net(torch.nn.Conv2d):\n    def __init__(self, channels): super().__init__(3, 5, 1)\n"
    (tmp_path / "five_channels.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(plan(method="deterministic"), network="five_channels.Net", network_args={})
    with pytest.raises(ValueError, match="8 output channels"):
        fitted(tmp_path / "run", own)


def test_mc_dropout_without_dropout_is_refused_before_training(tmp_path):
    own = replace(plan(), network="torch.nn.Conv2d")
    own = replace(own, network_args={"in_channels": 3, "out_channels": "CHANNELS", "kernel_size": 1})
    with pytest.raises(ValueError, match="dropout"):
        fitted(tmp_path / "run", own)
    assert not (tmp_path / "run" / "weights-0.safetensors").exists()


def test_full_disk_leaves_the_last_whole_weights(run, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    network_module.save_weights(run.networks[0], path)
    before = path.read_bytes()

    def full(tensors, target):
        save_file({"half": torch.zeros(1)}, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(network_module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        network_module.save_weights(run.networks[0], path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 20)])
def test_images_of_any_size(run, size):
    prediction = predict_image(run, torch.rand(3, *size))
    assert prediction.total.shape == (1, *size)
    assert torch.allclose(prediction.probs.sum(1), torch.ones(1, *size), atol=1e-5)


def test_scores_do_not_depend_on_the_order_of_images(run):
    one = evaluate(run, scenes(4, 1), progress=False).scores.compute()
    again = evaluate(run, scenes(4, 1), progress=False).scores.compute()
    assert all(torch.equal(one[k].nan_to_num(), again[k].nan_to_num()) for k in one)
    assert not torch.equal(one["nll"], evaluate(run, scenes(4, 1), progress=False, seed=1).scores.compute()["nll"])


def test_nothing_to_learn_from():
    class Void(Scenes):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"classes_valid": torch.zeros_like(sample["classes_valid"])}

    train = Void(2, size=(16, 24))
    with pytest.raises(ValueError, match="no pixel"):
        derive(subset(train, train.tasks["classes"]), train.tasks["classes"], Plan(task="classes"))
