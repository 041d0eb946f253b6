"""Areas and the files of annotation programs: partitions, an independent decoder, and the way there and back."""

import json

import numpy as np
import pytest
import torch

from sfumato.acquisition import Annotation, Area, Picture, label_maps, polygon, read_answers
from sfumato.acquisition.areas import from_runs, runs_of
from sfumato.acquisition.coco import to_coco
from sfumato.acquisition.cvat import to_cvat
from sfumato.acquisition.label_studio import pack, to_label_studio, unpack
from sfumato.errors import DataError, MissingFileError

PICTURES = [Picture("street/a.png", 12, 17), Picture("b.jpg", 9, 8)]
LABELS = ("road", "car", "sky")


def random_mask(height, width, seed=0):
    return (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.4).numpy()


def annotations():
    a = random_mask(12, 17)
    dot = np.zeros((12, 17), bool)
    dot[11, 16] = True
    block = np.zeros((9, 8), bool)
    block[2:5, 1:4] = True
    about = {"rank": 1, "entropy": 0.5}
    return [
        Annotation(0, "road", Area.of(a & ~dot), about),
        Annotation(0, "car", Area.of(dot), about | {"rank": 2}),
        Annotation(1, "sky", Area.of(block), about | {"rank": 3}),
    ]


def test_polygons_that_share_edges_are_a_partition():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y = (torch.randint(1, 24, (2,), generator=generator) * 0.5).tolist()
        corners = [(0, 0), (12, 0), (12, 12), (0, 12)]
        parts = [polygon([corners[i], corners[(i + 1) % 4], (x, y)], 12, 12).astype(int) for i in range(4)]
        assert (sum(parts) == 1).all()  # also where an edge goes through centers of pixels


def test_a_polygon_has_the_area_of_the_polygon():
    circle = [(50 + 40 * np.cos(t), 50 + 40 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 200, endpoint=False)]
    assert polygon(circle, 100, 100).sum() == pytest.approx(np.pi * 1600, rel=0.005)
    assert polygon([(-5, -5), (200, -5), (200, 200), (-5, 200)], 10, 12).all()  # cut off at the edges


def test_runs_there_and_back():
    for seed in range(5):
        flat = random_mask(5, 8, seed).ravel()
        assert (from_runs(runs_of(flat), 40) == flat).all()
    assert runs_of(np.ones(3, bool)) == [0, 3]
    with pytest.raises(DataError, match="expected 40"):
        from_runs([3, 4], 40)


@pytest.mark.parametrize("write", [to_coco, to_cvat, lambda p, a, labels: to_label_studio(p, a)])
def test_what_is_written_is_read_back(tmp_path, write):
    path = tmp_path / "answers"
    path.write_text(write(PICTURES, annotations(), LABELS))
    found = label_maps(read_answers(path, PICTURES, LABELS), PICTURES, LABELS) if "predictions" not in path.read_text(
    ) else label_maps(read_answers(_accepted(path), PICTURES, LABELS), PICTURES, LABELS)  # fmt: skip
    expected = label_maps(annotations(), PICTURES, LABELS)
    assert found.keys() == expected.keys()
    assert all((found[number] == expected[number]).all() for number in found)


def _accepted(path):
    """What Label Studio exports when a person accepts its pre-annotations."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{"was_cancelled": False, "result": task.pop("predictions")[0]["result"]}]
    path.write_text(json.dumps(tasks))
    return path


def test_an_independent_reader_of_coco_sees_the_same_masks(tmp_path):
    mask = pytest.importorskip("faster_coco_eval.core").mask
    content = json.loads(to_coco(PICTURES, annotations(), LABELS))
    for entry, each in zip(content["annotations"], annotations()):
        picture = PICTURES[each.picture]
        shape, size = entry["segmentation"], (picture.height, picture.width)
        packed = mask.frPyObjects(shape, *size)
        decoded = mask.decode(packed[0] if isinstance(packed, list) else packed)
        assert (decoded.astype(bool) == each.area.full(*size)).all()
        assert entry["area"] == each.area.size
        if isinstance(shape, dict):  # a program may compress the runs
            entry["segmentation"] = {"size": shape["size"], "counts": mask.frPyObjects(shape, *size)["counts"].decode()}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(content))
    found = label_maps(read_answers(path, PICTURES, LABELS), PICTURES, LABELS)
    assert all((found[n] == values).all() for n, values in label_maps(annotations(), PICTURES, LABELS).items())


def test_brush_masks_in_bits():
    assert pack(np.array([], np.uint8)) == [0, 0, 0, 0, 0b00111001, 0b00011011, 0b11111000]  # n, then sizes 8; 3 4 8 16
    values = np.repeat(np.array([0, 255, 255, 7], np.uint8), [3, 70000, 9, 1])
    assert (unpack(pack(values), len(values)) == values).all()
    with pytest.raises(DataError, match="expected 5"):
        unpack(pack(values), 5)
    with pytest.raises(DataError, match="cut off"):
        unpack(pack(values)[:8], len(values))


def test_shapes_that_people_draw(tmp_path):
    path = tmp_path / "cvat.xml"
    path.write_text(
        '<annotations><image name="b.jpg"><box label="car" xtl="1" ytl="2" xbr="4" ybr="5"/>'
        '<points label="sky" points="0.5,8.9;7.5,0.2"/><polygon label="road" points="4,0;7,0;7,2;4,2"/>'
        "</image></annotations>"
    )
    cvat = label_maps(read_answers(path, PICTURES, LABELS), PICTURES, LABELS)[1]
    path = tmp_path / "ls.json"
    common = {"original_width": 8, "original_height": 9}
    result = [
        {**common, "type": "rectanglelabels",
         "value": {"x": 12.5, "y": 200 / 9, "width": 37.5, "height": 300 / 9, "rectanglelabels": ["car"]}},
        {**common, "type": "keypointlabels", "value": {"x": 6.25, "y": 98.9, "keypointlabels": ["sky"]}},
        {**common, "type": "keypointlabels", "value": {"x": 93.75, "y": 2.2, "keypointlabels": ["sky"]}},
        {**common, "type": "polygonlabels", "value": {"points": [[50, 0], [87.5, 0], [87.5, 200 / 9], [50, 200 / 9]],
                                                      "polygonlabels": ["road"]}},
        {"type": "choices", "value": {"choices": ["blurred"]}},
    ]  # fmt: skip
    image = "/data/upload/3/1a2b3c4d-b.jpg"  # a copy that was uploaded
    path.write_text(json.dumps([{"data": {"image": image}, "annotations": [{"result": []}, {"result": result}]}]))
    studio = label_maps(read_answers(path, PICTURES, LABELS), PICTURES, LABELS)[1]
    expected = np.full((9, 8), 255, np.uint8)
    expected[2:5, 1:4], expected[8, 0], expected[0, 7], expected[0:2, 4:7] = 1, 2, 2, 0
    assert (cvat == expected).all()
    assert (studio == expected).all()


def coco(**change):
    content = json.loads(to_coco(PICTURES, annotations(), LABELS))
    return json.dumps({**content, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        (coco(annotations=[]), "it holds no annotation"),
        ("[]", "it holds no annotation"),
        ("{", "it is no JSON"),
        ("{}", "expected the images, categories and annotations of COCO"),
        ("[1]", "expected tasks of Label Studio"),
        ("<annotations><image/></annotations>", "expected XML of CVAT"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "document type"),
        (coco(categories=[{"id": 1, "name": "raod"}, {"id": 2, "name": "car"}, {"id": 3, "name": "sky"}]),
         "has the class 'raod' (did you mean 'road'?)"),
        (coco(images=[{"id": 1, "file_name": "z.png"}, {"id": 2, "file_name": "b.jpg"}]), "'z.png' is not in the pool"),
        (coco(annotations=[{"image_id": 1, "category_id": 1, "segmentation": {"size": [2, 2], "counts": [4]}}]),
         "annotate the image at its own size"),
        (coco(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1]]}]), "expected"),
        (coco(annotations=[{"id": 1, "image_id": 7, "category_id": 1, "segmentation": []}]), "it has no 7"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_answers(path, PICTURES, LABELS)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        read_answers(tmp_path / "none.json", PICTURES, LABELS)


def test_two_classes_for_one_pixel_are_refused_and_one_class_twice_is_not():
    one, other = (np.zeros((9, 8), bool) for _ in range(2))
    one[2:6, 2:6], other[5:8, 5:8] = True, True
    twice = [Annotation(1, "road", Area.of(one)), Annotation(1, "road", Area.of(other))]
    assert (label_maps(twice, PICTURES, LABELS)[1] == np.where(one | other, 0, 255)).all()
    with pytest.raises(DataError, match=r"b.jpg overlap: row 5, column 5 is 'car' and 'road'"):
        label_maps([twice[0], Annotation(1, "car", Area.of(other))], PICTURES, LABELS)
