"""A user's own folder, and every fault its description may have."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from sfumato.data import Folder

CLASSES = {
    "splits": {"train": {"images": "x", "labels": "y"}, "val": {"images": "x", "labels": "y"}},
    "classes": ["road", "car", "other"],
    "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "void": 255,
}
DEPTH = {
    "splits": {"train": {"images": "x", "depth": "z"}},
    "depth": {"unit": 0.001, "minimum": 0.3, "maximum": 10},
}


@pytest.fixture
def folder(tmp_path):
    """Two images, their labels in y and their depths in z, in millimeters."""
    ids = np.array([[0, 1, 2], [1, 2, 255]], np.uint8)
    for name, array, ending in (
        ("x", np.stack([ids] * 3, -1), "jpg"),
        ("y", ids, "png"),
        ("z", 500 * (ids % 255 + 1).astype(np.uint16), "png"),
    ):
        (tmp_path / name).mkdir()
        for stem in "ba":
            Image.fromarray(array).save(tmp_path / name / f"{stem}.{ending}")
    return tmp_path


def described(folder, entries):
    text = entries if isinstance(entries, str) else yaml.safe_dump(entries)
    (folder / "sfumato.yaml").write_text(text)
    return folder


def test_classes(folder):
    data = Folder(described(folder, CLASSES), "val")
    assert data.tasks["classes"].names == ("road", "car", "other")
    assert data.tasks["classes"].palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert [sample["name"] for sample in data] == ["a", "b"]
    assert data[0]["image"].shape == (3, 2, 3)
    assert data[0]["classes"].tolist() == [[0, 1, 2], [1, 2, 0]]
    assert data[0]["classes_valid"].tolist() == [[True, True, True], [True, True, False]]


def test_depth_without_classes(folder):
    data = Folder(described(folder, DEPTH))
    assert list(data.tasks) == ["depth"]
    assert (data.tasks["depth"].minimum, data.tasks["depth"].maximum) == (0.3, 10)
    assert data[1]["depth"][0].flatten().tolist() == pytest.approx([0.5, 1, 1.5, 1, 1.5, 0.5])
    assert data[1]["depth_valid"].all()


def test_both_at_once_batch_and_resize(folder):
    splits = {"train": {"images": "x", "labels": "y", "depth": "z"}}
    data = Folder(described(folder, {**CLASSES, **DEPTH, "splits": splits}), size=(4, 6))
    batch = next(iter(DataLoader(data, 2)))
    assert batch["classes"].shape == batch["depth_valid"].shape == (2, 4, 6)
    assert torch.allclose(batch["depth"][:, 0], 0.5 * (batch["classes"] + 1))


def test_unit_in_scientific_notation(folder):
    text = yaml.safe_dump(DEPTH).replace("0.001", "1e-3")
    assert yaml.safe_load(text)["depth"]["unit"] == "1e-3"  # so YAML 1.1 reads it
    assert Folder(described(folder, text))[0]["depth"].max() == pytest.approx(1.5)


def test_colors_of_their_own(folder):
    entries = {key: value for key, value in CLASSES.items() if key != "colors"} | {
        "classes": [f"c{i}" for i in range(30)]
    }
    palette = Folder(described(folder, entries)).tasks["classes"].palette
    assert len(set(palette)) == 30
    assert all(0 <= v < 256 for color in palette for v in color)


def test_a_description_by_another_name(folder):
    (described(folder, CLASSES) / "sfumato.yaml").rename(folder / "mine.yml")
    assert len(Folder(folder / "mine.yml")) == 2


@pytest.mark.parametrize(
    ("entries", "remedy"),
    [
        ("splits: [", "while parsing"),
        ("", "expected the entries splits, classes"),
        ("hello", "expected the entries splits, classes"),
        ({**CLASSES, "colours": []}, "expected the entries splits, classes"),
        ({"splits": CLASSES["splits"]}, "add `classes:"),
        ({**CLASSES, "splits": {}}, "expected `splits: {train: {images: FOLDER, labels: FOLDER}}`"),
        ({**CLASSES, "splits": {"train": "x"}}, "expected {images: FOLDER, labels: FOLDER}"),
        ({**CLASSES, "splits": {"train": {"images": "x"}}}, "expected {images: FOLDER, labels: FOLDER}"),
        ({**CLASSES, "classes": ["road", False]}, "quoted"),
        ({**CLASSES, "classes": {"road": 1}}, "expected a list of names"),
        ({**CLASSES, "classes": ["road"]}, "at least two"),
        ({**CLASSES, "classes": ["road", "car", "car"]}, "each named once"),
        ({**CLASSES, "colors": [[1, 2, 3]]}, r"expected 3 of \[red, green, blue\]"),
        ({**CLASSES, "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 300]]}, r"expected 3 of \[red, green, blue\]"),
        ({**CLASSES, "colors": 7}, r"expected 3 of \[red, green, blue\]"),
        ({**CLASSES, "void": 1}, "none of the classes"),
        ({**CLASSES, "void": "none"}, "none of the classes"),
        ({**DEPTH, "depth": {"unit": 0.001}}, "expected {unit: 0.001, minimum: 0.3, maximum: 10}"),
        ({**DEPTH, "depth": {"unit": 0, "minimum": 1, "maximum": 2}}, "meters that a stored 1 stands for"),
        ({**DEPTH, "depth": {"unit": "mm", "minimum": 1, "maximum": 2}}, "'mm'"),
        ({**DEPTH, "depth": {"unit": 1, "minimum": 2, "maximum": 1}}, "min < max"),
    ],
)
def test_faulty_descriptions(folder, entries, remedy):
    with pytest.raises(ValueError, match=rf"\A[^\n]*sfumato\.yaml: [^\n]*{remedy}[^\n]*\Z"):
        Folder(described(folder, entries))


def test_description_that_is_no_text(folder):
    (folder / "sfumato.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"\A[^\n]*sfumato\.yaml: [^\n]*\Z"):
        Folder(folder)


def test_no_description(folder):
    with pytest.raises(FileNotFoundError, match=r"sfumato\.yaml does not exist: describe"):
        Folder(folder)


def test_unknown_split(folder):
    with pytest.raises(ValueError, match=r"split is 'test', but .*sfumato\.yaml has \['train', 'val'\]"):
        Folder(described(folder, CLASSES), "test")


def test_missing_label_and_label_of_another_size(folder):
    described(folder, CLASSES)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "y" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has 4 × 6 pixels but its image has 2 × 3"):
        Folder(folder)[0]
    (folder / "y" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg has no label"):
        Folder(folder)


def test_a_label_outside_the_classes_names_the_file(folder):
    with pytest.raises(ValueError, match=r"a\.png holds label ids 2, but the 2 classes"):
        Folder(described(folder, {**CLASSES, "classes": ["road", "car"], "colors": [[0, 0, 0], [1, 1, 1]]}))[0]
