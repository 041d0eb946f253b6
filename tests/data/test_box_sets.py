"""COCO, Pascal VOC, BCCD and YOLO: small files made here, with correct and with wrong boxes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import BCCD, COCO, YOLO, PascalVOC, Scenes, box_entries, load
from sfumato.data.transforms import Augmentation, resize
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.targets import Boxes, EdgeDistances

HEIGHT, WIDTH = 24, 32


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)


def coco(root, annotations, images=None, categories=None):
    picture(root / "train" / "a.png")
    picture(root / "train" / "b.png")
    known = {
        "images": images or [{"id": 5, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": categories or [{"id": 7, "name": "cup"}, {"id": 3, "name": "ball"}],
        "annotations": annotations,
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(known))
    return root


def box(number=1, image=5, category=7, bbox=(4, 2, 16, 12), **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def voc(root, objects, size=(HEIGHT, WIDTH), split="train"):
    picture(root / "JPEGImages" / "a.jpg")
    parts = [
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b, hard in objects
    ]
    about = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{about}{''.join(parts)}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")
    return root


def yolo(root, lines):
    picture(root / "images" / "train" / "a.png")
    picture(root / "images" / "train" / "b.png")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text(lines)
    (root / "data.yaml").write_text("names: {0: cup, 1: ball}\n")
    return root


def test_the_same_box_in_three_formats(tmp_path):
    """Columns 4 to 19 and rows 2 to 13: written by hand in each format."""
    sets = [
        COCO(coco(tmp_path / "coco", [box()])),
        PascalVOC(voc(tmp_path / "voc", [("cup", (5, 3, 20, 14), 0)])),
        YOLO(yolo(tmp_path / "yolo", f"0 {12 / WIDTH} {8 / HEIGHT} {16 / WIDTH} {12 / HEIGHT}\n")),
    ]
    for data in sets:
        assert data[0]["boxes"][0, :4].tolist() == pytest.approx([4, 2, 20, 14])
        assert data.classes[int(data[0]["boxes"][0, 4])] == "cup"
        assert data.tasks["objects"].names[int(data[0]["objects"][8, 12])] == "cup"


def test_maps_of_a_box():
    found = box_entries(torch.tensor([[4.0, 2, 20, 14, 1, 0]]), (HEIGHT, WIDTH))
    y, x = (found["objects"] == 2).nonzero(as_tuple=True)
    assert x.min() == 8
    assert x.max() == 15  # 4 px on each side of the center at 12
    assert y.min() == 5
    assert y.max() == 10
    left, top, right, bottom = found["distances"][:, y, x]
    assert torch.equal(x + 0.5 - left, torch.full_like(left, 4))
    assert torch.equal(y + 0.5 + bottom, torch.full_like(left, 14))
    assert torch.equal(left + right, torch.full_like(left, 16))
    assert torch.equal(top + bottom, torch.full_like(left, 12))


def test_the_smaller_box_is_on_top_and_the_smallest_has_a_pixel():
    boxes = torch.tensor([[8.0, 8, 12, 12, 1, 0], [0, 0, 20, 20, 0, 0], [30.2, 3.2, 30.6, 3.4, 0, 0]])
    found = box_entries(boxes, (HEIGHT, WIDTH))
    assert found["objects"][10, 10] == 2
    assert found["objects"][10, 6] == 1
    assert found["objects"][3, 30] == 1


def test_a_crowd_is_not_learned(tmp_path):
    data = COCO(coco(tmp_path, [box(iscrowd=1, bbox=(0, 0, 16, 24)), box(2, bbox=(4, 4, 8, 8))]))
    sample = data[0]
    assert not sample["objects_valid"][0, 0]
    assert sample["objects_valid"][8, 8]  # an object within it is
    assert sample["objects_valid"][0, 20]
    assert sample["boxes"][:, 5].tolist() == [1, 0]


def test_an_image_without_boxes_is_a_sample(tmp_path):
    for data in (COCO(coco(tmp_path / "a", [box()])), YOLO(yolo(tmp_path / "b", "0 0.5 0.5 0.5 0.5\n"))):
        sample = data[1]
        assert sample["boxes"].shape == (0, 6)
        assert not sample["objects"].any()
        assert sample["objects_valid"].all()
        assert not sample["distances_valid"].any()


def test_a_box_that_ends_outside_is_cut(tmp_path):
    found = COCO(coco(tmp_path, [box(bbox=(-4, 10, 12, 40))]))[0]["boxes"]
    assert found[0, :4].tolist() == [0, 10, 8, HEIGHT]


WRONG = {
    "lies outside": [box(bbox=(40, 2, 4, 4))],
    "has no area": [box(bbox=(4, 2, 0, 4))],
    "is not finite": [box(bbox=(float("nan"), 2, 3, 4))],
    "category 99, expected one of": [box(category=99)],
    "annotation id 1 occurs twice": [box(), box()],
    "image 77, which is not": [box(image=77)],
    "bbox": [box(bbox=(1, 2, 3))],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_boxes_are_named(tmp_path, message):
    with pytest.raises(DataError, match=message) as caught:
        COCO(coco(tmp_path, WRONG[message]))[0]
    assert "instances_train2017.json" in str(caught.value)


def test_wrong_documents(tmp_path):
    images = [{"id": 5, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}]
    with pytest.raises(DataError, match="image id 5 occurs twice"):
        COCO(coco(tmp_path / "a", [], images))
    with pytest.raises(MissingFileError, match=r"c\.png"):
        COCO(coco(tmp_path / "b", [], [{"id": 5, "file_name": "c.png"}]))
    with pytest.raises(MissingFileError, match=r"\.\./secret"):
        COCO(coco(tmp_path / "c", [], [{"id": 5, "file_name": "../secret.png"}]))
    with pytest.raises(MissingFileError, match="annotations"):
        COCO(tmp_path / "nothing")
    (tmp_path / "a" / "annotations" / "instances_train2017.json").write_text("[1")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        COCO(tmp_path / "a")
    with pytest.raises(ConfigError, match="split"):
        COCO(tmp_path / "a", "everything")


def test_thousands_of_boxes(tmp_path):
    many = [box(i, bbox=(i % 20, i // 20 % 15, 3, 3)) for i in range(3000)]
    sample = COCO(coco(tmp_path, many))[0]
    assert sample["boxes"].shape == (3000, 6)
    assert sample["distances"].isfinite().all()


def test_wrong_voc(tmp_path):
    with pytest.raises(DataError, match=r"a\.xml has the class 'RBX', expected one of RBC"):
        BCCD(voc(tmp_path / "a", [("RBX", (1, 1, 4, 4), 0)]))[0]
    with pytest.raises(DataError, match="is of an image of 20 × 32"):
        PascalVOC(voc(tmp_path / "b", [], size=(20, 32)))[0]
    root = voc(tmp_path / "c", [("RBC", (1, 1, 4, 4), 1)])
    assert BCCD(root)[0]["boxes"][0, 5] == 1  # difficult
    (root / "Annotations" / "a.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>")
    with pytest.raises(DataError, match="document type"):
        BCCD(root)[0]
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(DataError, match="cannot be read as XML"):
        BCCD(root)[0]
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\na\n")
    with pytest.raises(DataError, match="a twice"):
        BCCD(root)


def test_wrong_yolo(tmp_path):
    for number, (line, message) in enumerate({"2 0.5 0.5 0.1 0.1": "class 2, expected 0 to 1", "0 1 2": "3 numbers",
                                              "0 x 0.5 0.1 0.1": "'x' where a number"}.items()):  # fmt: skip
        with pytest.raises(DataError, match=message) as caught:
            YOLO(yolo(tmp_path / str(number), f"\n{line}\n"))[0]
        assert "line 2" in str(caught.value)


def test_boxes_of_scenes_enclose_their_instances():
    sample = Scenes(1, seed=3).providing(["boxes"])[0]
    ids = sample["instances"]
    known = {tuple(b) for b in sample["boxes"][:, :4].tolist()}
    for number in ids.unique()[1:].tolist():
        y, x = (ids == number).nonzero(as_tuple=True)
        assert (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)) in known
    assert "boxes" not in Scenes(1, seed=3)[0]


def test_maps_and_boxes_move_together():
    """Distances at a pixel still lead to the edges of the box after a resize, and after zoom, crop and flip."""
    boxes = torch.tensor([[4.0, 2, 20, 14, 1, 0]])
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    sample = {"image": image, **box_entries(boxes, (HEIGHT, WIDTH))}
    small = resize(sample, (48, 48))
    y, x = small["distances_valid"].nonzero(as_tuple=True)
    left, top, right, bottom = small["distances"][:, y, x]
    assert torch.stack([x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom]).mean(1).tolist() == (
        pytest.approx(small["boxes"][0, :4].tolist(), abs=0.6)
    )
    torch.manual_seed(2)
    batch = {key: torch.stack([value] * 8) for key, value in sample.items()}
    moved = Augmentation((20, 28), (0.8, 1.25), color=0.0)(batch)
    assert len(moved["boxes"].unique(dim=0)) > 4
    for i in range(8):
        y, x = moved["distances_valid"][i].nonzero(as_tuple=True)
        left, top, right, bottom = moved["distances"][i][:, y, x]
        found = torch.stack([x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom]).mean(1)
        assert torch.allclose(found, moved["boxes"][i, 0, :4], atol=0.7)


def test_kinds():
    assert EdgeDistances().blank((2, 3)).shape == (4, 2, 3)
    assert Boxes().blank((2, 3)).shape == (0, 6)
    assert load("scenes").tasks["objects"].names == ("background", "box", "sphere", "cylinder", "pole")
