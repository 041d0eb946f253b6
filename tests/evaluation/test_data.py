"""The data that a run is evaluated on."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import ConfigError, MissingFileError
from sfumato.evaluation import dataset_for, evaluate, evaluated_data, ood_dataset, unlabeled_dataset


def test_the_data_of_the_run_at_its_size(run):
    found = dataset_for(run)
    assert found[0]["image"].shape[-2:] == (16, 24)
    assert found[0]["name"] == dataset_for(run, "scenes", split="val[:50%]")[0]["name"]


def test_a_data_set_without_a_name_cannot_be_opened_again(run):
    found = evaluate(run, dataset_for(run, split="val[:2%]"), progress=False, workers=0)
    with pytest.raises(ConfigError, match=r"a data set without a name: give it to sfumato\.report\.write_report"):
        evaluated_data(run, replace(found, data=""))


def test_another_data_set_has_other_images(run):
    assert "novel" in ood_dataset(run, "scenes:novel")[0]
    assert ood_dataset(run, "scenes")[0]["name"] == dataset_for(run)[0]["name"]
    assert len(ood_dataset(run, "scenes:val[:3%]")) == 3


def test_unlabeled_images_of_several_sources(run, tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "photo.png")
    found = unlabeled_dataset(run, f"scenes:train[:1%], textures:val[:2%],{tmp_path}")
    assert found.names[-3:] == ["texture-1-000000", "texture-1-000001", "photo"]
    assert found[0]["name"] == "scene-0-000000"
    assert found[-2 + len(found)]["image"].shape == (3, 16, 24)  # generated at the size of the run's own images
    assert len(unlabeled_dataset(run, "textures")) == 512  # those of train
    assert ood_dataset(run, tmp_path.name, str(tmp_path.parent)).names == ["photo"]


def test_the_root_is_that_of_what_is_read_from_files(run, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    assert len(unlabeled_dataset(run, "textures:val[:1%],photos", str(tmp_path))) == 2
    with pytest.raises(ConfigError, match="textures are generated"):
        unlabeled_dataset(run, "textures", str(tmp_path))


def test_unlabeled_images_that_are_not_there(run, tmp_path):
    with pytest.raises(ConfigError, match="expected names of data sets with commas"):
        unlabeled_dataset(run, " ,")
    with pytest.raises(MissingFileError, match="holds no image"):
        unlabeled_dataset(run, str(tmp_path))
    with pytest.raises(ConfigError, match="so it has no split 'val': leave :val out"):
        unlabeled_dataset(run, f"scenes,{tmp_path}:val")


def test_other_classes_are_refused(run):
    task = run.task
    other = replace(run, task=replace(task, names=("moon", *task.names[1:])))
    with pytest.raises(ConfigError, match=r"has the classes.*only be --ood"):
        dataset_for(other)


def test_a_task_that_the_data_lack_is_refused(run, monkeypatch):
    from sfumato.evaluation import data

    monkeypatch.setattr(data, "tasks_of", lambda dataset: {})
    with pytest.raises(ConfigError, match="none, not 'classes'"):
        dataset_for(run)
