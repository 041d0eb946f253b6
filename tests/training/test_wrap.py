"""A network that somebody else has trained becomes a run."""

import importlib.util
import pickle
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sfumato
from sfumato.cli import main
from sfumato.data.scenes import Scenes
from sfumato.errors import ConfigError, DataError, MissingFileError, RunError
from sfumato.runs.checkpoint import load_checkpoint, match, read_checkpoint
from sfumato.tasks import Semantic

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = {"progress": False}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class Brightness(nn.Module):
    """Dark and bright pixels, for images in the range that it was made for."""

    def __init__(self, low: float = 0.0, high: float = 1.0, order: tuple[int, ...] = (0, 1), dropout: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.low, self.high, self.order, self.dropout = low, high, order, nn.Dropout(dropout)

    def forward(self, image):
        level = (image.mean(1, keepdim=True) - self.low) / (self.high - self.low)
        logits = 20 * (self.dropout(level) - 0.5) + self.weight
        # A network that gets numbers far from those it knows says anything.
        logits = torch.where((level > -0.5) & (level < 1.5), logits, -logits)
        return torch.cat([-logits, logits], 1)[:, list(self.order)]


class Pixels:
    """Images whose pixels are dark or bright, and which of the two they are."""

    inputs: ClassVar = ("image",)
    names: ClassVar = [f"{n}" for n in range(12)]
    tasks: ClassVar = {"classes": Semantic(("dark", "bright"), ((0, 0, 0), (255, 255, 255)))}

    def __len__(self):
        return 12

    def __getitem__(self, index):
        bright = torch.rand(16, 24, generator=torch.Generator().manual_seed(index)) < 0.4
        image = torch.where(bright, 230, 20).expand(3, -1, -1).byte()
        return {"name": str(index), "image": image, "classes": bright.long(), "classes_valid": bright | ~bright}


def wrap(network, tmp_path, **choices):
    return sfumato.wrap(network, Pixels(), out=tmp_path / "run", **QUIET, **choices)


@pytest.mark.parametrize(("name", "low", "high"), [("unit", 0, 1), ("bytes", 0, 255), ("symmetric", -1, 1)])
def test_the_range_of_the_inputs_is_found(tmp_path, capsys, name, low, high):
    run = wrap(Brightness(low, high), tmp_path)
    assert f"images are normalized as {name!r}" in capsys.readouterr().out
    scores = run.evaluate(Pixels(), device="cpu", workers=0, **QUIET).tasks["classes"].scores
    assert scores["accuracy"].value == 1.0


def test_a_wrong_range_is_named(tmp_path, capsys):
    wrap(Brightness(0, 255), tmp_path, normalization="unit")
    assert "fits better with --normalization bytes" in capsys.readouterr().out


def test_an_unknown_normalization_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="normalization is 'half', expected auto, "):
        wrap(Brightness(), tmp_path, normalization="half")
    assert not (tmp_path / "run" / "plan.yaml").exists()


def test_another_order_of_the_classes_is_named(tmp_path, capsys):
    wrap(Brightness(order=(1, 0)), tmp_path, normalization="unit")
    assert "dark is predicted as bright, bright is predicted as dark" in capsys.readouterr().out


class Probabilities(Brightness):
    def forward(self, image):
        return super().forward(image).softmax(1)


def test_probabilities_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"returns probabilities.*without the softmax"):
        wrap(Probabilities(), tmp_path)


def test_a_class_too_few_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"1 channels, expected 2.* dark, bright. For a sigmoid"):
        wrap(Brightness(order=(1,)), tmp_path)


def test_dropout_is_used(tmp_path):
    run = wrap(Brightness(dropout=0.3), tmp_path, samples=4)
    assert run.config.method == "mc-dropout"
    assert run.predict(Pixels()[0]["image"][None]).epistemic.max() > 0


class Opened(Pixels):
    """Counts how often the training images are opened."""

    count = 0

    def __init__(self, root, split, size):
        Opened.count += split == "train"


def test_the_data_are_opened_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Opened, "count", 0)
    monkeypatch.setitem(sys.modules, "their_pixels", SimpleNamespace(Opened=Opened))
    sfumato.wrap(Brightness(), "their_pixels.Opened", out=tmp_path / "run", **QUIET)
    assert Opened.count == 1


def test_a_network_that_its_class_does_not_make_anew_is_named(tmp_path, capsys):
    sfumato.wrap(nn.Conv2d(3, 2, 1), Pixels(), out=tmp_path / "run", **QUIET)
    printed = capsys.readouterr().out
    assert "cannot be opened again" in printed
    assert 'network="my_package.make"' in printed


def test_a_network_of_a_script_is_named(tmp_path, capsys):
    local = type("Local", (Brightness,), {"__module__": "__main__"})
    wrap(local(), tmp_path)
    assert f"only this script can open {tmp_path / 'run'}" in capsys.readouterr().out


MODULE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, image):
        return {"out": self.head(self.features(image))}


class Fixed(Net):
    def __init__(self):
        super().__init__(2)


class Scaled(Fixed):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, image):
        return {"out": self.factor * super().forward(image)["out"]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a user has: images with labels, a module with a network, and its weights."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for index in range(8):
            sample = Pixels()[index]
            picture = Image.fromarray(sample["image"].permute(1, 2, 0).numpy())
            picture.save(tmp_path / f"data/{split}/images/{index}.png")
            Image.fromarray(sample["classes"].byte().numpy()).save(tmp_path / f"data/{split}/labels/{index}.png")
    splits = {split: {"images": f"{split}/images", "labels": f"{split}/labels"} for split in ("train", "val")}
    (tmp_path / "data/sfumato.yaml").write_text(yaml.safe_dump({"splits": splits, "classes": ["dark", "bright"]}))
    (tmp_path / "their_net.py").write_text(MODULE)
    spec = importlib.util.spec_from_file_location("their_net", tmp_path / "their_net.py")
    module = sys.modules["their_net"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.Net(2)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    images = torch.stack([Pixels()[index]["image"] for index in range(8)]) / 255
    labels = torch.stack([Pixels()[index]["classes"] for index in range(8)])
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network((images - MEAN) / STD)["out"], labels).backward()
        optimizer.step()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, "best.pt")
    yield tmp_path
    sys.modules.pop("their_net", None)


def test_everything_works_on_a_wrapped_network(folder, capsys):
    command = ["wrap", "--network=their_net.Net", "--weights=best.pt", "--data=data", "--out=run", "--quiet"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "images are normalized as 'imagenet'" in printed
    assert "--trust their_net" in printed
    trusted = ["--trust=their_net", "--quiet", "--device=cpu"]
    assert main(["calibrate", "run", *trusted]) == 0
    assert main(["evaluate", "run", "--split=val[50%:]", "--workers=0", *trusted]) == 0
    assert main(["posthoc", "run", "laplace", *trusted]) == 0
    assert main(["evaluate", "run-laplace", "--workers=0", *trusted]) == 0
    assert main(["predict", "run", "data/val/images", "--out=maps", *trusted]) == 0
    assert main(["report", "run", "--trust=their_net", "--device=cpu"]) == 0
    assert main(["export", "run", "--trust=their_net"]) == 0
    label = np.asarray(Image.open("maps/0_label.png"))
    assert (label == Pixels()[0]["classes"].numpy()).mean() > 0.95
    assert main(["predict", "run", "data/val/images", "--out=other", "--quiet"]) == 2  # not trusted


def test_a_network_without_arguments_is_made_without_any(folder, capsys):
    command = ["wrap", "--network=their_net.Fixed", "--weights=best.pt", "--data=data", "--out=run", "--quiet"]
    assert main(command) == 0
    assert "Next: sfumato calibrate run --trust their_net" in capsys.readouterr().out
    assert main(["calibrate", "run", "--trust=their_net", "--quiet", "--device=cpu"]) == 0
    assert "sfumato evaluate run --split 'val[50%:]' --trust their_net" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "named"), [(2.0, False), (3.0, True)])
def test_a_run_that_opens_as_another_network_is_noticed(folder, capsys, factor, named):
    module = sys.modules["their_net"]
    sfumato.wrap(
        module.Scaled(factor), "data", weights="best.pt", out="run", **QUIET
    )  # opened as Scaled(2), by classes
    assert ("opens as another network" in capsys.readouterr().out) is named


def test_a_run_is_not_overwritten(folder, capsys):
    command = ["wrap", "--network=their_net.Net", "--weights=best.pt", "--data=data", "--out=run", "--quiet"]
    assert main(command) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in folder.glob("run/*") if path.is_file()}
    assert main(command) == 2
    assert "choose another folder with --out" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.glob("run/*") if path.is_file()}


class Scaled(nn.Module):
    """A network that returns meters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        return self.scale * image.mean(1, keepdim=True)


def test_a_network_of_values_needs_no_scale(tmp_path):
    data = Scenes(6, size=(16, 24))
    run = sfumato.wrap(Scaled(), (data, data), out=tmp_path / "run", task="depth", normalization="unit", **QUIET)
    image = data[0]["image"][None]
    assert run.config.likelihood == "l1"
    expected = 20 * image.float().mean(1, keepdim=True) / (255 if image.dtype == torch.uint8 else 1)
    torch.testing.assert_close(run.predict(image).mean, expected)
    report = run.calibrate(data)
    assert report.after["nll"] < report.before["nll"]


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("nested", [False, True])
def test_checkpoints_of_other_programs_are_read(tmp_path, prefix, nested):
    torch.manual_seed(0)
    known = network()
    state = {prefix + name: value for name, value in known.state_dict().items()}
    torch.save({"epoch": 1, "model_state_dict": state} if nested else state, tmp_path / "best.pt")
    found = match(read_checkpoint(tmp_path / "best.pt"), network())
    assert (found.missing, found.shapes, found.unused) == ((), {}, ())
    assert found.weights["0.weight"].equal(known[0].weight)


def test_a_network_with_a_prefix_of_its_own_is_matched(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    inside = nn.ModuleDict({"backbone": network()})
    assert match(read_checkpoint(tmp_path / "w.safetensors"), inside).missing == ()


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Code()}))
    torch.save({"state_dict": Code()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(DataError, match=rf"{name} (holds code|is no whole checkpoint)"):
            read_checkpoint(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingFileError, "does not exist"),
        (b"", DataError, "no whole checkpoint"),
        (b"PK\x03\x04 half a file", DataError, "no whole checkpoint"),
        ({"epoch": 3}, DataError, "holds no state_dict"),
        ({"0.weight": torch.zeros(4, 3, 5, 5)}, RunError, "0.weight is|is missing"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, content, error, message):
    path = tmp_path / "best.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(error, match=message):
        load_checkpoint(network(), path)
