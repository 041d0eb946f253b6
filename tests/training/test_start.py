"""Training starts from the weights of a run, or of a checkpoint that another program wrote."""

import importlib
import os
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sfumato
from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.errors import DataError, MissingFileError, RunError
from sfumato.models import JointUNet, UNet
from sfumato.runs import Config, Plan, Run, build_network, task_and_likelihood
from sfumato.runs.checkpoint import read_checkpoint
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
MODULE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, width=8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image):
        return self.head(self.encoder(image))
"""
CLASSES = 8  # of the generated scenes
STILL = ("--learning-rate=1e-12", "--weight-decay=0")  # training leaves the parameters as they are
FIT = ("fit", "--data=scenes", "--size=16,24", "--limit=4", "--batch=2", "--epochs=1", "--samples=2", "--device=cpu",
       "--method=deterministic", "--network=start_net.Net", "--workers=0", "--quiet", *STILL)  # fmt: skip


@pytest.fixture
def net(tmp_path, monkeypatch):
    """The class of a network in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "start_net.py").write_text(MODULE)
    torch.manual_seed(7)
    yield importlib.import_module("start_net").Net
    sys.modules.pop("start_net", None)


@pytest.fixture
def command(capsys):
    """Runs the command line: ``command(*words)`` gives the exit code and the lines about the start, or the error."""

    def ran(*words):
        capsys.readouterr()
        code = main(list(words))
        lines = capsys.readouterr().err.splitlines()
        return code, [line for line in lines if "start" in line or line.startswith("sfumato:")]

    return ran


def trained(folder="run", member=0):
    """The parameters of a network of a run, by the names of the inner network."""
    network = Run.open(folder, trust="start_net").networks[member].network
    return {name: value.detach() for name, value in network.named_parameters()}


def same(ours, theirs):
    return all(torch.allclose(ours[name], value.float(), atol=1e-6) for name, value in theirs.items() if name in ours)


class Module(L.LightningModule):
    """What a user of Lightning trains."""

    def __init__(self, classes):
        super().__init__()
        self.save_hyperparameters()
        self.net = importlib.import_module("start_net").Net(classes)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def lightning(network, path):
    module = Module(CLASSES)
    module.net.load_state_dict(network.state_dict())
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


FORMS = {
    "plain.pth": lambda network, path: torch.save(network.state_dict(), path),
    "parallel.pt": lambda network, path: torch.save({"model": nn.DataParallel(network).state_dict(), "epoch": 3}, path),
    "lightning.ckpt": lightning,
    "model.safetensors": lambda network, path: save_file(
        {f"model.{k}": v for k, v in network.state_dict().items()}, path
    ),
    "half.pt": lambda network, path: torch.save({k: v.half() for k, v in network.state_dict().items()}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_training_starts_from_checkpoints_of_other_programs(net, command, form):
    theirs = net(CLASSES)
    FORMS[form](theirs, form)
    code, lines = command(*FIT, f"--init-from={form}", "--out=run")
    assert (code, lines) == (0, [])
    expected = {name: value.half().float() if "half" in form else value for name, value in theirs.named_parameters()}
    assert same(trained(), expected)
    assert Plan.load(Path("run/plan.yaml")).config.init_from == str(Path(form).absolute())


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_an_encoder_is_taken_alone(net, command, prefix):
    theirs = net(CLASSES).encoder
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}, "encoder.pt")
    code, lines = command(*FIT, "--init-from=encoder.pt", "--out=run")
    assert code == 0
    assert lines == [
        f"warning: training starts from {Path('encoder.pt').absolute()} with 14 of the 16 weights of the network; "
        "2 missing (head.weight, head.bias), 2 in the file but not used (fc.weight, fc.bias)"
    ]
    assert same(trained(), {f"encoder.{name}": value for name, value in theirs.named_parameters()})


def test_a_head_of_another_number_of_classes_is_left_as_it_is(net, command):
    theirs = net(5)
    torch.save(theirs.state_dict(), "five.pt")
    code, lines = command(*FIT, "--init-from=five.pt", "--out=run")
    assert code == 0
    (line,) = lines
    assert line.endswith("14 of the 16 weights of the network; 2 of another shape (head.weight, head.bias)")
    fresh = command(*FIT, "--out=fresh")
    assert fresh == (0, [])
    ours = trained()
    assert same(ours, {name: value for name, value in theirs.named_parameters() if "head" not in name})
    assert same(ours, {name: value for name, value in trained("fresh").items() if "head" in name})


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


class Code:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.fixture
def damaged(net, tmp_path):
    """Files that training cannot start from, and what the message says about each."""
    whole = net(CLASSES).state_dict()
    torch.save(UNet(CLASSES, widths=(4, 8)).state_dict(), "unet.pt")
    torch.save(net(CLASSES, width=16).state_dict(), "wide.pt")
    torch.save(whole | {"head.weight": torch.zeros(8, 8).to_sparse()}, "sparse.pt")
    torch.save({"state_dict": whole, "code": Code()}, "code.pt")
    torch.save(net(CLASSES), "object.pt")
    torch.save({"epoch": 3}, "nothing.pt")
    torch.save(whole | {"encoder.0.bias": torch.full((6,), torch.nan)}, "nan.pt")
    torch.save(whole, "cut.pt")
    cut(tmp_path / "cut.pt")
    save_file(whole, "cut.safetensors")
    cut(tmp_path / "cut.safetensors")
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet.pt", "of the 16 weights of the network with the same name and shape: "),
        ("wide.pt", "encoder.3.weight is (16, 6, 3, 3), expected (8, 6, 3, 3); "),
        ("code.pt", "holds code or objects beside tensors ("),
        ("object.pt", "holds code or objects beside tensors (start_net.Net), which are not loaded"),
        ("nothing.pt", "holds no state_dict"),
        ("sparse.pt", "holds no state_dict of plain tensors"),
        ("nan.pt", "network.encoder.0.bias of "),
        ("cut.pt", "is no whole checkpoint"),
        ("text.pt", "is no whole checkpoint"),
        ("cut.safetensors", "cut off"),
        ("folder", "is no run and no file with weights"),
        ("gone.pt", "is no run and no file with weights"),
    ],
)
def test_what_training_cannot_start_from(damaged, command, name, message):
    code, (line,) = command(*FIT, f"--init-from={name}", "--out=run")
    assert code == 2
    assert message in line
    assert str(damaged / name) in line
    assert not (damaged / "executed").exists()
    assert not (damaged / "run" / "plan.yaml").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_read_or_refused(tmp_path, zipped):
    path, random = tmp_path / "best.pt", torch.Generator().manual_seed(0)
    torch.save({"state_dict": nn.Conv2d(3, 4, 3).state_dict()}, path, _use_new_zipfile_serialization=zipped)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        data = bytearray(whole)
        for place in torch.randint(min(len(data), 1000), (3,), generator=random).tolist():
            data[place] = int(torch.randint(256, (), generator=random))
        path.write_bytes(data)
        try:
            assert all(isinstance(value, torch.Tensor) for value in read_checkpoint(path).values())
        except DataError:
            refused += 1
    assert refused > 50


SMALL = {"widths": (4, 8), "dropout": 0.2}
CONFIG = {"network_args": SMALL, "batch": 3, "samples": 2, "scale": (1.0, 1.0), "color": 0.0, "precision": "32-true"}


def scenes(count=6):
    return Scenes(count, size=(16, 24))


def plan(**choices):
    return make_plan(Config(**{**CONFIG, "epochs": 1, **choices}), scenes(), device="cpu")[0]


def fitted(known, folder, **how):
    return fit(known, scenes(), None, folder, progress=False, device="cpu", **how)


def state_of(known):
    return build_network(known, task_and_likelihood(known)[1]).state_dict()


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    network = UNet(CLASSES, **SMALL)
    torch.save(network.state_dict(), tmp_path / "best.pt")
    return network, tmp_path / "best.pt"


def test_a_run_and_the_weights_of_one_give_the_same_start(tmp_path):
    start = fitted(plan(method="ensemble", members=2), tmp_path / "start")
    folder, file = (state_of(plan(init_from=start.folder / name)) for name in ("", "weights-0.safetensors"))
    first = start.networks[0].state_dict()
    assert all(torch.equal(folder[name], value) and torch.equal(file[name], value) for name, value in first.items())
    with pytest.raises(RunError, match="cannot start from"):
        state_of(plan(init_from=start.folder, network_args={"widths": (4, 6)}))


def test_every_member_starts_from_the_checkpoint(tmp_path, checkpoint):
    network, path = checkpoint
    known = plan(method="ensemble", members=2, init_from=path, learning_rate=1e-12, weight_decay=0.0)
    run = fitted(known, tmp_path / "run")
    for member in run.networks:
        assert same(dict(member.network.named_parameters()), dict(network.named_parameters()))


def test_one_layer_is_no_start_for_a_whole_network(tmp_path, checkpoint):
    network, _ = checkpoint
    torch.save(network.head.state_dict(), tmp_path / "layer.pt")
    with pytest.raises(RunError, match="of another architecture"):
        state_of(plan(init_from=tmp_path / "layer.pt"))


def test_methods_add_what_they_learn_to_a_checkpoint(checkpoint):
    network, path = checkpoint
    state = state_of(plan(method="variational", init_from=path))
    assert all(torch.equal(state[f"network.{name}"], value) for name, value in network.state_dict().items())
    assert any("posterior" in name for name in state)


def test_a_network_of_several_tasks_starts_from_a_checkpoint(tmp_path):
    tasks = {"tasks": "classes,depth", "likelihood": "categorical,laplace", "network_args": {}}
    network = JointUNet({"classes": CLASSES, "depth": 2})
    torch.save({f"model.{name}": value for name, value in network.state_dict().items()}, tmp_path / "joint.pt")
    known, notes = plan(**tasks, init_from=tmp_path / "joint.pt"), []
    state = build_network(known, task_and_likelihood(known)[1], note=notes.append).state_dict()
    assert all(torch.equal(state[f"network.network.{name}"], value) for name, value in network.state_dict().items())
    assert notes == []


class Stop:
    """Ctrl-C in a step."""

    def __init__(self, after):
        self.left = after

    def __call__(self, batch):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return batch


def test_a_resumed_training_needs_its_start_no_more(tmp_path, checkpoint):
    _, path = checkpoint
    known = plan(method="ensemble", members=2, epochs=3, init_from=path)
    whole = fitted(known, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(known, tmp_path / "run", batch_transform=Stop(10))  # in the second epoch of the second member
    assert (tmp_path / "run" / "member-1.ckpt").exists()
    path.unlink()
    resumed = fitted(known, tmp_path / "run", resume=True)
    for ours, theirs in zip(resumed.networks, whole.networks, strict=True):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert len(fitted(known, tmp_path / "run", resume=True).networks) == 2
    (tmp_path / "run" / "weights-1.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"cannot start from .*best.pt"):
        fitted(known, tmp_path / "run", resume=True)  # the second member would have to begin


def test_snapshots_of_one_training_are_resumed_without_the_start(tmp_path, checkpoint):
    _, path = checkpoint
    known = plan(method="snapshot", members=3, epochs=6, init_from=path)
    with pytest.raises(KeyboardInterrupt):
        fitted(known, tmp_path / "run", batch_transform=Stop(7))
    path.unlink()
    assert len(fitted(known, tmp_path / "run", resume=True).networks) == 3


def test_paths_from_python_are_stored_absolute(tmp_path, checkpoint, monkeypatch):
    network, _ = checkpoint
    monkeypatch.chdir(tmp_path)
    quiet = {"progress": False, "device": "cpu"}
    run = sfumato.fit((scenes(), None), out="run", init_from="best.pt", **CONFIG, epochs=1, **quiet)
    assert run.config.init_from == str(tmp_path / "best.pt")
    student = run.distill(
        "student", scenes(), init_from=Path("best.pt"), learning_rate=1e-12, weight_decay=0.0, **quiet
    )
    assert student.config.init_from == str(tmp_path / "best.pt")
    theirs = {name: value for name, value in network.named_parameters() if "head" not in name}
    assert same(dict(student.networks[0].network.named_parameters()), theirs)


def test_a_student_is_refused_before_its_teacher_predicts(tmp_path, checkpoint, command):
    _, path = checkpoint
    known = plan(data="scenes", size=(16, 24), limit=4)
    teacher = fitted(known, tmp_path / "teacher")
    cut(path)
    code, (line,) = command("distill", str(teacher.folder), f"--init-from={path}", "--device=cpu", "--quiet")
    assert code == 2
    assert "is no whole checkpoint" in line
    assert not (teacher.folder / "distillation-targets").exists()
