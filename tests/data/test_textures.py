"""Generated pictures, folders of images, and several data sets as one."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import JoinedDataset, Pictures, Scenes, Textures, load
from sfumato.data.views import files_of, names_of
from sfumato.errors import ConfigError, MissingFileError

SIZE = (24, 36)


def test_pictures_are_repeatable_and_all_different():
    first, again = Textures(12, SIZE), Textures(12, SIZE)
    pictures = [sample["image"] for sample in (first[index] for index in range(12))]
    assert all(picture.shape == (3, *SIZE) and picture.dtype == torch.uint8 for picture in pictures)
    assert all(torch.equal(again[index]["image"], picture) for index, picture in enumerate(pictures))
    assert len({picture.numpy().tobytes() for picture in pictures}) == 12
    assert not torch.equal(Textures(1, SIZE, seed=1)[0]["image"], pictures[0])
    assert first.names[3] == first[3]["name"] == "texture-0-000003"
    spreads = torch.stack([picture.float().std() for picture in pictures])
    assert spreads.min() > 1
    assert spreads.max() > 40


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 5)])
def test_any_size(size):
    assert all(Textures(20, size)[index]["image"].shape == (3, *size) for index in range(20))


def test_they_are_opened_by_name():
    assert len(load("textures")) == 512
    assert len(load("textures", split="train[:25%]")) == 128
    assert load("textures", split="val", size=(8, 9))[0]["image"].shape == (3, 8, 9)
    with pytest.raises(ConfigError, match="textures are generated: leave it out"):
        load("textures", "folder")
    with pytest.raises(ConfigError, match="split of textures is 'test', expected one of train, val"):
        load("textures", split="test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "count is 0"), ((1, (0, 3)), r"size is \(0, 3\)"), ((1, (2, 3), -1), "seed is -1")],
)
def test_faults(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Textures(*arguments)


def test_beyond_the_end():
    with pytest.raises(IndexError, match="texture 2 of 2: expected 0 to 1"):
        Textures(2, SIZE)[2]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "more").mkdir()
    for name, shade in (("b.png", 10), ("more/a.png", 20)):
        Image.fromarray(np.full((4, 6, 3), shade, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_images(folder):
    found = Pictures(folder)
    assert found.names == ["b", "more/a"]
    assert [int(found[index]["image"].max()) for index in range(2)] == [10, 20]
    assert found.files(1) == (folder / "more/a.png",)
    (folder / "empty").mkdir()
    with pytest.raises(MissingFileError, match="empty holds no image"):
        Pictures(folder / "empty")


def test_data_sets_are_joined(folder):
    joined = JoinedDataset([Pictures(folder), Textures(3, SIZE), Scenes(1, SIZE)])
    assert len(joined) == 6
    assert names_of(joined) == [joined[index]["name"] for index in range(6)]
    assert [len(files_of(joined, index)) for index in (1, 2)] == [1, 0]
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"image {index} of 6"):
            joined[index]
