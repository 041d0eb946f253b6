"""Section B, data: absent classes are named (13), and data are found where they were (16)."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from PIL import Image

from sfumato.data.catalog import absolute_place
from sfumato.errors import ConfigError, MissingFileError, RunError
from sfumato.evaluation import dataset_for, evaluate
from sfumato.models import UNet
from sfumato.runs import Config, Plan, Run, task_and_likelihood
from sfumato.training import fit_post_hoc, make_plan

CHOICES = {"method": "deterministic", "network_args": {"widths": [4, 8]}, "epochs": 1, "precision": "32-true"}


def made(root, shade=0, foreground=1, **extra):
    """Four images with their labels in train, two in val."""
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            label = np.zeros((16, 24), np.uint8)
            label[4:12, 4:12] = foreground
            image = np.stack([label + np.uint8(shade + number)] * 3, -1)
            Image.fromarray(image).save(root / split / f"images/i{number}.png")
            Image.fromarray(label).save(root / split / f"labels/i{number}.png")
    splits = {split: {kind: f"{split}/{kind}" for kind in ("images", "labels")} for split in ("train", "val")}
    text = {"splits": splits, "classes": ["background", "vessel"], **extra}
    (root / "sfumato.yaml").write_text(yaml.safe_dump(text))
    return root


def run_of(plan, folder):
    """A run of a plan, whose network is not trained."""
    task, likelihood = task_and_likelihood(plan)
    return Run(folder, plan, task, likelihood, (UNet(likelihood.channels, (4, 8)),))


def test_a_class_without_a_pixel_is_named_with_the_likely_cause(tmp_path, capsys):
    made(tmp_path / "e", foreground=255, void=255)
    make_plan(Config(data=str(tmp_path / "e"), **CHOICES))
    assert (
        "has a pixel of vessel (classes). The data set ignores the id 255, which may be one" in capsys.readouterr().err
    )


def test_classes_that_all_have_pixels_are_not_mentioned(tmp_path, capsys):
    made(tmp_path / "e", foreground=1, void=255)
    make_plan(Config(data=str(tmp_path / "e"), **CHOICES))
    assert "pixel of" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["d", "d/sfumato.yaml"])
def test_a_plan_keeps_the_absolute_path_of_its_data(tmp_path, monkeypatch, name):
    made(tmp_path / "here/d")
    made(tmp_path / "there/d", shade=50)
    monkeypatch.chdir(tmp_path / "here")
    plan = make_plan(Config(data=name, **CHOICES))[0]
    assert plan.config.data == str(tmp_path / "here" / name)
    plan.save(tmp_path / "plan.yaml")
    monkeypatch.chdir(tmp_path / "there")
    moved = run_of(Plan.load(tmp_path / "plan.yaml"), tmp_path)
    assert dataset_for(moved)[0]["image"].max() < 50


def test_an_evaluation_keeps_the_absolute_paths_of_its_data(tmp_path, monkeypatch):
    run = run_of(make_plan(Config(data=str(made(tmp_path / "d")), **CHOICES))[0], tmp_path / "r")
    made(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    quiet = {"device": "cpu", "workers": 0, "progress": False}
    found = evaluate(run, dataset_for(run, "other"), data="other", ood=dataset_for(run), ood_name="d:val", **quiet)
    assert (found.data, found.root) == (str(tmp_path / "other"), "")
    assert found.tasks["classes"].ood.name == f"{tmp_path / 'd'}:val"
    assert absolute_place("camvid", "d") == ("camvid", str(tmp_path / "d"))


def test_a_post_hoc_fit_refuses_other_images_than_those_of_the_run(tmp_path):
    data = made(tmp_path / "d")
    run = run_of(make_plan(Config(data=str(data), **CHOICES))[0], tmp_path / "r")
    made(data, shade=50)
    with pytest.raises(RunError, match="d holds other images than those that the run was trained on: put those"):
        fit_post_hoc(run, "laplace", tmp_path / "laplace", progress=False)


def test_the_data_of_a_run_are_refused_if_other_images_lie_at_their_place(tmp_path):
    data = made(tmp_path / "d")
    run = run_of(make_plan(Config(data=str(data), **CHOICES))[0], tmp_path / "r")
    assert len(dataset_for(run)) == 2
    made(data, shade=50)
    with pytest.raises(RunError, match=r"d holds other images than those .* trained on: name the data of .*r with"):
        dataset_for(run)
    assert len(dataset_for(run, str(data))) == 2  # the user says that it is right
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"not at their place \(.*d does not exist.*\): name the data of .* with --data"):
        dataset_for(run)
    assert len(dataset_for(run, str(tmp_path / "elsewhere"))) == 2


def test_an_image_that_was_added_is_noticed(tmp_path):
    data = made(tmp_path / "d")
    run = run_of(make_plan(Config(data=str(data), **CHOICES))[0], tmp_path / "r")
    for kind in ("images", "labels"):
        (data / f"train/{kind}/new.png").write_bytes((data / f"train/{kind}/i0.png").read_bytes())
    with pytest.raises(RunError, match="other images"):
        dataset_for(run)


def test_a_path_that_does_not_exist_is_no_unknown_name(tmp_path):
    with pytest.raises(MissingFileError, match="nothing does not exist: expected a folder"):
        make_plan(Config(data=str(tmp_path / "nothing"), **CHOICES))


def test_the_fold_of_a_run_goes_with_its_data(tmp_path, capsys):
    data = made(tmp_path / "d", folds=2)
    described = yaml.safe_load((data / "sfumato.yaml").read_text())
    del described["splits"]["val"]
    (data / "sfumato.yaml").write_text(yaml.safe_dump(described))
    assert make_plan(Config(data=str(data), **CHOICES))[2] is None
    assert "without --fold all images are trained on, and none is left" in capsys.readouterr().err
    plan, train, val = make_plan(Config(data=str(data), fold=1, **CHOICES))
    assert capsys.readouterr().err == ""
    assert (train.names, val.names) == (["i0", "i1"], ["i2", "i3"])
    plan.save(tmp_path / "plan.yaml")
    run = run_of(Plan.load(tmp_path / "plan.yaml"), tmp_path / "r")
    assert asdict(run.config)["fold"] == 1
    assert dataset_for(run).names == dataset_for(run, "", "", "val[:100%]").names == ["i2", "i3"]
    data.rename(tmp_path / "moved")
    assert dataset_for(run, str(tmp_path / "moved")).names == ["i2", "i3"]
    assert len(dataset_for(run, str(made(tmp_path / "other")))) == 2  # data that are not divided
    with pytest.raises(ConfigError, match="opened by name"):
        make_plan(replace(run.config, epochs=1), train)
