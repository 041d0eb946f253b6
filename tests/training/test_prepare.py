"""A plan says what the training images say."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import sfumato
from sfumato import training
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, PluginError, UntrustedCodeError
from sfumato.registry import Trust
from sfumato.runs import Config
from sfumato.tasks import Semantic
from sfumato.training import default_crop, default_size, make_plan, prepare


def scenes(count=6, seed=0, **how):
    return Scenes(count, size=(16, 24), seed=seed, **how)


def planned(train=None, **choices):
    return make_plan(Config(**choices), train or scenes(), device="cpu")[0]


def test_colors_and_counts_are_those_of_the_images():
    plan, train = planned(), scenes()
    samples = [train[i] for i in range(len(train))]
    images = torch.stack([sample["image"] for sample in samples])
    found = plan.facts.normalization["image"]
    assert found["mean"] == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert found["std"] == pytest.approx(images.transpose(0, 1).flatten(1).std(1, correction=0).tolist(), abs=1e-4)
    labels = torch.cat([sample["classes"][sample["classes_valid"]] for sample in samples])
    assert list(plan.facts.counts) == torch.bincount(labels, minlength=8).tolist()
    assert plan.facts.images == 6
    assert plan.facts.original_size == plan.config.size == plan.config.crop == (16, 24)


def test_the_rest_is_filled_in():
    config = planned(limit=4).config
    assert (config.task, config.likelihood) == ("classes", "categorical")
    assert config.epochs == 3000  # 12,000 images
    assert config.members == 1
    assert config.precision in ("32-true", "bf16-mixed")
    assert planned(method="ensemble").config.members == 5
    assert planned(epochs=7, color=0.0, scale=(1.0, 1.0)).config.scale == (1.0, 1.0)


def test_targets_of_one_task_are_standardized_behind_the_link():
    """For log depth: mean and standard deviation of the logarithm of the valid depths."""
    train = scenes()
    plan = planned(task="depth", likelihood="gaussian")
    depth = torch.cat([s["depth"][:, s["depth_valid"]].flatten() for s in (train[i] for i in range(6))]).double().log()
    center, spread = plan.facts.scales["depth"]
    assert center == pytest.approx(float(depth.mean()), rel=1e-5)
    assert spread == pytest.approx(float(depth.std(correction=0)), rel=1e-4)
    assert plan.facts.counts == (len(depth),)
    assert planned().facts.scales == {}
    # A likelihood without a link is standardized in the unit of its targets.
    center, spread = planned(task="depth", likelihood="normal-inverse-gamma").facts.scales["depth"]
    assert (center, spread) == pytest.approx(
        (float(depth.exp().mean()), float(depth.exp().std(correction=0))), rel=1e-4
    )


class Stereo(Dataset):
    inputs = ("image", "right")
    tasks = Scenes(1, size=(16, 24)).tasks

    def __init__(self, count=4):
        self.whole = scenes(count, views=True)

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        return self.whole[index]


class Both(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(6, channels, 1)

    def forward(self, image, right):
        return self.layer(torch.cat([image, right], 1))


def test_every_image_that_is_an_input_is_normalized(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_pair", SimpleNamespace(Both=Both))
    plan = planned(Stereo(), network="own_pair.Both")
    assert plan.facts.inputs == ("image", "right")
    right = torch.stack([Stereo()[i]["right"] for i in range(4)])
    assert plan.facts.normalization["right"]["mean"] == pytest.approx(right.mean((0, 2, 3)).tolist(), abs=1e-4)


class Masked(Dataset):
    """Scenes without some classes."""

    def __init__(self, without):
        self.whole, self.without = scenes(), without
        self.tasks = self.whole.tasks

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        known = ~torch.isin(sample["classes"], torch.tensor(self.without, dtype=torch.int64))
        return sample | {"classes_valid": sample["classes_valid"] & known}


def test_a_class_without_a_pixel_is_named(capsys):
    seen = planned().facts.counts
    (first, *_) = [i for i, count in enumerate(seen) if count]
    capsys.readouterr()
    plan = planned(Masked([first]))
    assert plan.facts.counts[first] == 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert scenes().tasks["classes"].names[first] in line


def test_data_without_a_target_are_refused():
    with pytest.raises(DataError, match=r"no pixel.*valid classes"):
        planned(Masked(list(range(8))))


class Values(Dataset):
    """Depths of which some are 0."""

    tasks = Scenes(1, size=(16, 24)).tasks

    def __len__(self):
        return 2

    def __getitem__(self, index):
        sample = scenes(2)[index]
        return sample | {"depth_valid": torch.ones_like(sample["depth_valid"])}


def test_values_outside_the_range_of_the_link_are_refused():
    with pytest.raises(DataError, match=r"valid depth.*outside the range"):
        planned(Values(), task="depth")


class Plain(Dataset):
    """A torch data set that declares nothing."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        sample = scenes(3)[index]
        return {key: sample[key] for key in ("image", "depth", "depth_valid")}


def test_a_plain_data_set_is_given_a_task():
    plan = planned(Plain(), task="depth")
    assert plan.facts.inputs == ("image",)
    assert plan.facts.task_args["depth"]["maximum"] == 100.0
    with pytest.raises(ConfigError, match="declare no task: name one"):
        planned(Plain())


def test_objects_are_resized_only_on_request():
    plan, train, val = make_plan(Config(size=(8, 12)), scenes(), scenes(2, 1), device="cpu")
    assert train[0]["image"].shape == (3, 8, 12)
    assert val[1]["classes"].shape == (8, 12)
    assert (plan.facts.original_size, plan.config.size) == ((16, 24), (8, 12))


def test_data_are_loaded_by_name():
    plan, train, val = make_plan(Config(size=(8, 12), limit=2), device="cpu")
    assert (len(train), len(val)) == (512, 100)
    assert plan.facts.images == 512
    assert plan.facts.original_size == (8, 12)  # scenes are generated at any size
    assert isinstance(train.tasks["classes"], Semantic)


def test_the_fingerprint_is_of_names_and_of_the_first_image():
    first = planned().facts.fingerprint
    assert planned().facts.fingerprint == first
    assert planned(scenes(5)).facts.fingerprint != first
    assert planned(scenes(6, 1)).facts.fingerprint != first


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned(root="data", init_from="").config.root == str(tmp_path / "data")
    assert Path(planned(root="data").config.root).is_absolute()


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"method": "voting"}, PluginError, "no 'voting' among the methods"),
        ({"members": 3}, ConfigError, "mc-dropout has one network"),
        ({"likelihood": "gaussian"}, ConfigError, "expected one of categorical"),
        ({"likelihood": "distilled"}, ConfigError, "learns from a teacher"),
        ({"task": "odor"}, ConfigError, "no task 'odor'"),
        ({"objective": "hope"}, PluginError, "no 'hope' among the objectives"),
        ({"objective_args": {"power": 2}}, ConfigError, "objective NLL cannot be built"),
        ({"objective": "multi-task"}, ConfigError, "for several tasks"),
        ({"tasks": "classes,depth", "objective": "nll"}, ConfigError, "for one task"),
        ({"tasks": "classes,odor"}, ConfigError, "no task 'odor'"),
        ({"tasks": "classes,classes"}, ConfigError, "each once"),
        ({"tasks": "classes,"}, ConfigError, "names with commas"),
        ({"tasks": "classes,centers", "task": "depth"}, ConfigError, "leave one out"),
        ({"tasks": "classes,centers,depth", "likelihood": "categorical"}, ConfigError, "one for each"),
        ({"tasks": "classes,depth", "likelihood": "categorical,dirichlet"}, ConfigError, "for depth"),
        ({"tasks": "classes,depth", "weighting": "best"}, ConfigError, "expected one of uncertainty"),
        ({"tasks": "classes,centers", "weighting": "dwa"}, ConfigError, "of centers has a noise of its own"),
        ({"tasks": "classes,depth", "weighting": "fixed"}, ConfigError, "fixed weights of no task"),
        ({"tasks": "classes,depth", "weighting": "fixed", "weights": (1.0,)}, ConfigError, "one for each"),
        ({"tasks": "classes,depth", "weights": (1.0, 1.0)}, ConfigError, "use fixed"),
        ({"weighting": "equal"}, ConfigError, "for several tasks"),
    ],
)
def test_choices_that_cannot_be_met_are_refused_before_images_are_read(choices, error, message, monkeypatch):
    monkeypatch.setattr("sfumato.training.prepare._statistics", None)
    with pytest.raises(error, match=message):
        planned(**choices)


def test_class_paths_that_the_user_names_are_trusted_in_the_plan():
    plan = planned(network="torch.nn.Conv2d", network_args={"in_channels": 3, "kernel_size": 1})
    assert plan.trust.allows("torch.nn.Conv2d")
    assert not plan.trust.allows("torch.nn.Linear")
    assert not planned().trust.allows("torch.nn.Conv2d")
    known = make_plan(Config(), scenes(), trust=Trust.of("torch.nn.Linear"), device="cpu")[0]
    assert known.trust.allows("torch.nn.Linear")


def test_code_that_data_name_is_not_trusted():
    known = planned()
    with pytest.raises(UntrustedCodeError):
        replace(known, config=replace(known.config, method="os.path.join")).training  # noqa: B018


def test_images_keep_their_size_unless_they_are_very_large():
    assert default_size((1024, 2048)) == (1024, 2048)
    assert default_size((565, 584)) == (565, 584)
    assert default_size((6000, 4000)) == (1500, 1000)


def test_crops_of_large_images_are_small_on_a_cpu():
    assert default_crop((1024, 2048), "cpu") == (128, 256)
    assert default_crop((360, 480), "cpu") == (192, 256)
    assert default_crop((565, 584), "cpu") == (128, 160)
    assert default_crop((96, 128), "cpu") == (96, 128)


def test_what_suits_a_device_is_chosen_for_the_device_that_trains(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(prepare, "fast_precision", lambda device: asked.append(device) or "32-true")
    monkeypatch.setattr(training, "fit", lambda plan, *_, **__: pytest.fail("planned"))
    with pytest.raises(pytest.fail.Exception, match="planned"):
        sfumato.fit((scenes(2), None), out=tmp_path / "run", device="cpu")
    assert asked == ["cpu"]
