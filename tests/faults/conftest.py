"""A folder of small images, networks with needs of their own, and runs of them."""

import shutil
import sys
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.data.scenes import Scenes, dataset
from sfumato.runs import Config, Facts, Plan, build_network, save_weights, task_and_likelihood, weights_path

SIZE = (16, 24)
COLORS = {"image": {"mean": (0.5,) * 3, "std": (0.25,) * 3}}

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Enc32(nn.Module):
    """Takes sizes that 32 divides, and no others."""

    def __init__(self, channels):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.2), nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, image):
        if image.shape[-2] % 32 or image.shape[-1] % 32:
            raise RuntimeError("height and width must be divisible by 32")
        return self.head(self.drop(image))


class Halves(nn.Module):
    """Halves its input three times and puts it together again, without padding."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, channels, 1)

    def forward(self, image):
        features = self.down(image)
        small = F.max_pool2d(F.max_pool2d(F.max_pool2d(features, 2), 2), 2)
        return self.head(torch.cat([features, F.interpolate(small, scale_factor=8)], 1))


class Quarter(nn.Module):
    """Logits at a quarter of the size, in a dict as torchvision's, of an argument called num_classes."""

    def __init__(self, backbone: str = "small", num_classes: int = 21):
        super().__init__()
        assert backbone == "small"
        self.head = nn.Conv2d(3, num_classes, 4, stride=4, padding=1)

    def forward(self, image):
        found = self.head(image)
        return {"out": found, "aux": found[:, :1]}


def quarter(*, weights: str | None = None, num_classes: int | None = None) -> Quarter:
    return Quarter(num_classes=num_classes)


def anything(channels) -> str:
    raise SystemExit("this was called")


class Pair(nn.Module):
    """Two maps under names that nobody knows."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 1)

    def forward(self, image):
        return {"fine": self.head(image), "coarse": -self.head(image)}


class TakesDict(nn.Module):
    """Takes a dict of inputs."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 1)

    def forward(self, batch):
        return self.head(batch["image"])


class Valid(nn.Module):
    """Loses a border."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 5)

    def forward(self, image):
        return self.head(image)


class OneSize(nn.Module):
    """Takes crops of 48 x 56 only."""

    def __init__(self, channels):
        super().__init__()
        self.place, self.head = nn.Parameter(torch.zeros(3, 48, 56)), nn.Conv2d(3, channels, 1)

    def forward(self, image):
        return self.head(image + self.place)


class Sized(nn.Module):
    """Computes something else for wide images, which a graph cannot."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 1)

    def forward(self, image):
        return self.head(image) * (2 if image.shape[-1] > 80 else 1)


class Bessel(nn.Module):
    """An operation that ONNX has not."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 1)

    def forward(self, image):
        return self.head(torch.special.bessel_j0(image))
'''


def write_data(root, images=2, size=(50, 70), splits=("train", "val"), seed=0):
    """A folder data set of bright rectangles on a dark ground."""
    random, described = np.random.default_rng(seed), {}
    for split in splits:
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(images):
            label = np.zeros(size, np.uint8)
            label[8:20, 8:24] = 1
            image = np.where(label[..., None] > 0, 200, 40) + random.integers(0, 40, (*size, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"i{index}.png")
            Image.fromarray(label).save(root / split / "labels" / f"i{index}.png")
        described[split] = {"images": f"{split}/images", "labels": f"{split}/labels"}
    text = yaml.safe_dump({"splits": described, "classes": ["ground", "thing"]})
    (root / "sfumato.yaml").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with data in ``data`` and networks in ``faulty_networks.py``, which no path leads to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    (tmp_path / "faulty_networks.py").write_text(NETWORKS, encoding="utf-8")
    write_data(tmp_path / "data")
    yield tmp_path
    sys.modules.pop("faulty_networks", None)


@pytest.fixture
def fit(here):
    """Trains a network of ``faulty_networks`` for one epoch: ``fit("Enc32", …)`` gives the exit code."""

    def fitted(name, *words, method="deterministic"):
        return main(
            ["fit", "--data=data", f"--network=faulty_networks.{name}", f"--method={method}", "--out=run", "--batch=1",
             "--epochs=1", "--samples=2", "--device=cpu", "--workers=0", "--quiet", *words]
        )  # fmt: skip

    return fitted


@pytest.fixture
def complaint(capsys):
    """The only line on the standard error of the last command."""

    def line():
        (found,) = capsys.readouterr().err.splitlines()
        assert found.startswith("sfumato: ")
        return found

    return line


@pytest.fixture
def few_scenes(monkeypatch):
    """The generated scenes, four of each split."""
    for split, choices in dataset.SPLITS.items():
        monkeypatch.setitem(dataset.SPLITS, split, replace(choices, count=4))


@pytest.fixture
def write_run():
    """Makes a run that was never trained: ``write_run(folder, task, …)`` gives its folder."""

    def written(folder, task="classes", task_args=None, **choices):
        usual = {
            "task": task, "method": "deterministic", "likelihood": "categorical" if task == "classes" else "gaussian",
            "network_args": {"widths": (4, 8), "dropout": 0.2}, "members": 1, "samples": 2, "size": SIZE, "crop": SIZE,
            "epochs": 1, "precision": "32-true", "scale": (1.0, 1.0), "color": 0.0,
        }  # fmt: skip
        known = asdict(Scenes(1, size=SIZE).tasks[task]) if task_args is None else task_args
        facts = Facts(normalization=COLORS, original_size=SIZE, images=8, counts=(1,), task_args={task: known})
        plan = Plan(Config(**{**usual, **choices}), facts)
        folder.mkdir(parents=True)
        plan.save(folder / "plan.yaml")
        for member in range(plan.networks):
            torch.manual_seed(member)
            save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, member))
        return folder

    return written


@pytest.fixture
def run(tmp_path, write_run):
    return write_run(tmp_path / "run")


@pytest.fixture
def image(tmp_path):
    """The path of an image of the size of the runs."""
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def files_in():
    """Gives the bytes of every file below a folder, by name."""

    def found(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with data in ``data`` and a run in ``run`` that was trained, evaluated and calibrated."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder / "data", images=2, size=(16, 24))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(
            ["fit", "--data=data", "--out=run", "--network-args={widths: [4, 8], dropout: 0.2}", "--samples=2",
             "--epochs=1", "--batch=2", "--device=cpu", "--workers=0", "--quiet"]
        ) == 0  # fmt: skip
        assert main(["calibrate", "run", "--split=val", "--device=cpu", "--quiet"]) == 0
        write_data(folder / "third", images=3, size=(16, 24), seed=1)
        assert main(
            ["calibrate", "run", "--data=third", "--split=val", "--method=conformal", "--level=0.5", "--quiet"]
        ) == 0  # fmt: skip
        write_data(folder / "other", images=2, size=(16, 24), seed=2)
        assert main(["evaluate", "run", "--data=other", "--device=cpu", "--quiet", "--workers=0"]) == 0
    return folder


def contents(folder):
    """The bytes of every file below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.stat().st_size < 1 << 24 else path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def attempt(finished, tmp_path, monkeypatch, capfd):
    """Runs a command on a damaged copy of the finished run, and checks how it ends.

    ``attempt(words, damage)`` gives the exit code and the line of the error, which is empty after exit code 0.
    """
    place = tmp_path / "place"
    shutil.copytree(finished, place)
    plan = place / "run" / "plan.yaml"
    plan.write_text(plan.read_text(encoding="utf-8").replace(str(finished), str(place)), encoding="utf-8")
    monkeypatch.chdir(place)

    def attempted(words, damage=None):
        if damage is not None:
            damage(place)
        before = contents(place)
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = main(list(words))
        err = capfd.readouterr().err.splitlines()
        lines = [line for line in err if line.startswith("sfumato: ")]
        others = [line for line in err if line and not line.startswith(("sfumato: ", "warning: "))]
        assert not others
        assert code in (0, 1, 2)
        assert len(lines) == (code != 0)
        after = contents(place)
        assert not [name for name in after if name.endswith(".part")]
        if code:
            assert {name: after.get(name) for name in before} == before  # nothing is lost
        return code, "".join(lines)

    return attempted
