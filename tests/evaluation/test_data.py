"""The data that a run is evaluated on."""

from dataclasses import replace

import pytest

from sfumato.errors import ConfigError
from sfumato.evaluation import dataset_for, ood_dataset


def test_the_data_of_the_run_at_its_size(run):
    found = dataset_for(run)
    assert found[0]["image"].shape[-2:] == (16, 24)
    assert found[0]["name"] == dataset_for(run, "scenes", split="val[:50%]")[0]["name"]


def test_another_data_set_has_other_images(run):
    assert "novel" in ood_dataset(run, "scenes:novel")[0]
    assert ood_dataset(run, "scenes")[0]["name"] == dataset_for(run)[0]["name"]
    assert len(ood_dataset(run, "scenes:val[:3%]")) == 3


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
