"""Run folders made by hand, without training, of a network that is exported in seconds."""

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch

from sfumato.data import Scenes
from sfumato.registry import Trust
from sfumato.runs import Config, Facts, Plan, Run, build_network, save_weights, task_and_likelihood, weights_path
from sfumato.tasks import Semantic

COLORS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
MODULE = '''"""A network of one or more images."""
import torch
from torch import nn
from torch.nn.functional import pad


class Tiny(nn.Module):
    stride = 4

    def __init__(self, channels, images=1):
        super().__init__()
        self.layer, self.pool = nn.Conv2d(3 * images, 4, 3, padding=1), nn.AvgPool2d(4)
        self.up, self.dropout, self.head = nn.Upsample(scale_factor=4), nn.Dropout2d(0.3), nn.Conv2d(4, channels, 1)

    def forward(self, *images):
        height, width = images[0].shape[-2:]
        x = pad(torch.cat(images, 1), (0, -width % 4, 0, -height % 4), mode="replicate")
        x = self.layer(x).relu()
        x = self.head(self.dropout(x + self.up(self.pool(x))))
        return x[..., :height, :width]
'''


@pytest.fixture(scope="session", autouse=True)
def module_of_tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "tiny_network.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def a_run(folder, task="classes", inputs=("image",), tasks=None, **choices):
    """A run of small networks with random weights."""
    known = tasks or Scenes(2, size=(16, 24)).tasks
    facts = Facts(
        inputs=inputs, normalization=dict.fromkeys(inputs, COLORS), original_size=(16, 24), images=4, counts=(1, 1),
        fingerprint="0", task_args={task: asdict(known[task])},
    )  # fmt: skip
    given = {
        "network": "tiny_network.Tiny", "network_args": {"images": len(inputs)}, "size": (16, 24), "crop": (16, 24),
        "epochs": 1, "members": 1, "samples": 3, "method": "deterministic", "precision": "32-true",
        "likelihood": known[task].default_likelihood,
    }  # fmt: skip
    plan = Plan(Config(task=task, **{**given, **choices}), facts, Trust.of("all"))
    folder.mkdir(parents=True)
    plan.save(folder / "plan.yaml")
    _, likelihood = task_and_likelihood(plan)
    for member in range(plan.networks):
        torch.manual_seed(member)
        save_weights(build_network(plan, likelihood), weights_path(folder, member))
    return Run.open(folder, trust="all")


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    def make(**how):
        return a_run(tmp_path_factory.mktemp("runs") / "run", **how)

    return make


@pytest.fixture(scope="module")
def many_classes():
    """A task of 300 classes."""
    colors = tuple((i % 256, i // 256, 7) for i in range(300))
    return {"classes": Semantic(tuple(f"class {i}" for i in range(300)), colors)}


@contextmanager
def answering(model, key="", timeout=30.0):
    """The address of a service in another thread."""
    from sfumato.service import application, listening
    from sfumato.service.server import server_of

    listener, server = listening("127.0.0.1", 0), server_of(application(model, key), timeout)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serve():
    """Starts services: ``with serve(model) as address``."""
    return answering


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """An exported ensemble of two networks with conformal sets, and the folder of its run."""
    from sfumato.calibration import ConformalSets
    from sfumato.serving import export

    run = a_run(tmp_path_factory.mktemp("runs") / "scenes", method="ensemble", members=2)
    ConformalSets(torch.full((len(run.task.names),), 0.9), 0.9).save(run.file("conformal.safetensors"))
    run = Run.open(run.folder, trust="all")
    path = run.folder / "model.onnx"
    export(run, path)
    return path
