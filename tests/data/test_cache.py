"""A cache never changes what is read, whatever happens to it."""

import pickle
import resource
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from sfumato.data import CachedDataset, CamVid, SelectedDataset, subset
from sfumato.data.cache import compact, widened
from sfumato.data.loading import loader
from sfumato.errors import ConfigError

SIZE = 3 * 100 * 100  # bytes of one sample


class Counted(Dataset):
    """Random images; counts how often each is read."""

    def __init__(self, count=4, seed=0):
        self.reads, self.count, self.seed = [0] * count, count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads[index] += 1
        generator = torch.Generator().manual_seed(100 * self.seed + index)
        pixels = torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8, generator=generator)
        return {"name": f"{self.seed}-{index}", "image": pixels}


def same(cache, data):
    for index in range(len(data)):
        one, other = cache[index], data[index]
        assert one.keys() == other.keys()
        assert one["name"] == other["name"]
        assert torch.equal(one["image"], other["image"])
        assert one["image"].dtype == torch.uint8


@pytest.fixture
def roomy(monkeypatch):
    """A disk with enough free space, whatever the real one has."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**13, 0, 10**13))


@pytest.mark.parametrize("mode", ["none", "memory", "disk", "auto"])
def test_what_is_read_is_the_same(tmp_path, mode, roomy):
    cache = CachedDataset(Counted(), mode, folder=tmp_path)
    for _ in range(2):
        same(cache, Counted())


def test_memory_reads_once_and_every_process_for_itself():
    data = Counted()
    cache = CachedDataset(data, "memory")
    first = list(data.reads)
    for _ in range(3):
        _ = [cache[index] for index in range(4)]
    assert [after - before for after, before in zip(data.reads, first)] == [1] * 4
    assert pickle.loads(pickle.dumps(cache))._samples == {}
    cache[0]["name"] = "changed"
    assert cache[0]["name"] == "0-0"


def test_auto_is_memory_where_it_fits():
    assert CachedDataset(Counted(), budget_bytes=4 * SIZE).describe() == "cache: memory, 4 images, 0.0 GB"
    assert CachedDataset(Counted(), budget_bytes=4 * SIZE, processes=2).mode == "none"
    small = CachedDataset(Counted(), budget_bytes=SIZE)
    assert small.describe() == "cache: none, because 4 images, 0.0 GB exceed the budget of 3e-05 GB"
    assert CachedDataset(Counted(), "none").describe() == "cache: none"
    assert CachedDataset(Counted(0)).describe() == "cache: memory, 0 images, 0.0 GB"


def test_disk_is_shared_by_runs_and_workers(tmp_path, roomy):
    data = Counted()
    cache = CachedDataset(data, "disk", folder=tmp_path)
    assert cache.describe() == f"cache: disk, 4 images, 0.0 GB in {cache.folder}"
    names = [batch["name"] for batch in loader(cache, 2, workers=2)]
    assert names == [["0-0", "0-1"], ["0-2", "0-3"]]
    assert sorted(path.name for path in cache.folder.iterdir()) == [f"00000{i}.safetensors" for i in range(4)]
    later = CachedDataset(Counted(), "disk", folder=tmp_path)
    later.whole.reads = [0] * 4
    same(later, data)
    assert later.whole.reads == [0] * 4


def test_another_data_set_has_another_folder(tmp_path):
    folders = {CachedDataset(data, "disk", folder=tmp_path).folder for data in (Counted(), Counted(5), Counted(seed=1))}
    assert len(folders) == 3
    assert CachedDataset(subset(Counted(8), 4), "disk", folder=tmp_path).folder not in folders


def test_a_damaged_file_is_written_again(tmp_path, roomy):
    cache = CachedDataset(Counted(), "disk", folder=tmp_path)
    same(cache, Counted())
    path = cache.folder / "000002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    same(cache, Counted())
    assert path.read_bytes() == whole


def test_a_changed_file_is_read_again(tmp_path, roomy):
    labels = np.zeros((4, 5), np.uint8)
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        for name in "abcde":
            Image.fromarray(labels).save(tmp_path / folder / f"{name}.png")

    def opened():
        data = CamVid(tmp_path)
        return CachedDataset(
            SelectedDataset(data, data.inputs, list(data.tasks.values())), "disk", folder=tmp_path / "c"
        )

    cache = opened()
    assert not cache[1]["classes"].any()
    Image.fromarray(labels + 3).save(tmp_path / "trainannot" / "b.png")  # neither first, middle nor last
    again = opened()
    assert again.folder == cache.folder
    assert again[1]["classes"].unique().tolist() == [3]


def test_a_full_disk_loses_nothing(tmp_path, roomy, capsys):
    """A limit on the size of files makes the operating system refuse the write in the middle of it."""
    cache = CachedDataset(Counted(), "disk", folder=tmp_path)
    _ = cache[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        same(cache, Counted())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in cache.folder.iterdir()] == ["000000.safetensors"]  # no half file is left
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: no more samples are cached in {cache.folder} (")
    assert line.endswith("): the others are read from the data set")
    same(cache, Counted())


def test_space_is_kept_free_for_checkpoints(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 10**9))
    cache = CachedDataset(Counted(), "disk", folder=tmp_path)
    same(cache, Counted())
    assert not list(cache.folder.iterdir())
    assert "1.0 GB are free, of which 1 GB are kept for checkpoints" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = CachedDataset(Counted(), "disk", folder=tmp_path / "file")
    same(cache, Counted())
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_choices_that_cannot_be_met():
    with pytest.raises(ConfigError, match="cache is 'fast', expected one of auto, none, memory, disk"):
        CachedDataset(Counted(), "fast")
    with pytest.raises(ConfigError, match="there is no folder for it"):
        CachedDataset(Counted(), "disk")


def test_class_ids_are_kept_as_bytes_and_come_back_as_they_were():
    for last in (255, 256):
        sample = {"name": "a", "classes": torch.tensor([[0, last]]), "classes_valid": torch.tensor([[True, False]])}
        kept = compact(sample)
        assert kept["classes"].element_size() == (1 if last == 255 else 8)
        back = widened(kept)
        assert type(back["classes"]) is torch.Tensor
        assert torch.equal(back["classes"], sample["classes"])
        assert back["classes"].dtype == torch.int64
