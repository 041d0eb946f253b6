"""Section E, own data: labels as they come, without conversion (30)."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.data import Folder, load
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.evaluation import Evaluation
from sfumato.runs import Config

FIRST = np.array([[0, 0, 255], [255, 255, 0]], np.uint8)
SECOND = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
REGION = np.array([[0, 255, 255], [255, 255, 255]], np.uint8)
VESSELS = {"classes": {0: "background", 255: "vessel"}}


def described(root, split, **entries):
    text = {"splits": split if "train" in split else {"train": split}, **VESSELS, **entries}
    (root / "sfumato.yaml").write_text(yaml.safe_dump(text))
    return root


def saved(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


@pytest.fixture
def eyes(tmp_path):
    """Five images as in DRIVE: NN_training.tif, NN_manual1.gif, NN_manual2.gif and NN_training_mask.gif."""
    for number in range(21, 26):
        saved(tmp_path / f"images/{number}_training.tif", np.full((2, 3, 3), number, np.uint8))
        saved(tmp_path / f"first/{number}_manual1.gif", FIRST)
        saved(tmp_path / f"second/{number}_manual2.gif", SECOND)
        saved(tmp_path / f"mask/{number}_training_mask.gif", REGION)
    return tmp_path


IMAGES, MANUAL1, MANUAL2 = "images/*_training.tif", "first/*_manual1.gif", "second/*_manual2.gif"
MASK = "mask/*_training_mask.gif"


def test_files_belong_together_by_what_the_star_of_a_pattern_stands_for(eyes):
    data = Folder(described(eyes, {"images": IMAGES, "labels": MANUAL1}))
    assert data.names == ["21", "22", "23", "24", "25"]
    assert [path.name for path in data.files(1)] == ["22_training.tif", "22_manual1.gif"]
    assert data[0]["classes"].tolist() == (FIRST // 255).tolist()
    assert data.tasks["classes"].names == ("background", "vessel")


def test_a_star_may_be_a_folder_and_only_one_star_is_allowed(tmp_path):
    for name in "ba":
        saved(tmp_path / name / "image.png", FIRST)
        saved(tmp_path / name / "label.png", FIRST)
    assert Folder(described(tmp_path, {"images": "*/image.png", "labels": "*/label.png"})).names == ["a", "b"]
    with pytest.raises(DataError, match=r"\*/\*\.png has several \*"):
        Folder(described(tmp_path, {"images": "*/*.png", "labels": "*/label.png"}))
    with pytest.raises(DataError, match="stands for no file"):
        Folder(described(tmp_path, {"images": "*/x.png", "labels": "*/label.png"}))


def test_outside_the_mask_nothing_is_valid(eyes):
    sample = Folder(described(eyes, {"images": IMAGES, "labels": MANUAL1, "mask": MASK}))[0]
    assert sample["classes_valid"].tolist() == (REGION > 0).tolist()


def test_several_observers_give_the_share_of_observers_of_each_class(eyes):
    data = Folder(described(eyes, {"images": IMAGES, "labels": [MANUAL1, MANUAL2], "mask": MASK}))
    sample = data[0]
    share = torch.tensor((FIRST / 510 + SECOND / 510) * (REGION > 0)).float()
    assert torch.equal(sample["class_probs"][1], share)
    assert torch.equal(sample["class_probs"].sum(0), torch.tensor(REGION > 0).float())
    assert torch.equal(sample["classes_soft"], sample["class_probs"])
    assert sample["classes"].tolist() == (FIRST // 255).tolist()  # the first observer decides where two disagree


def test_an_observer_does_not_count_where_it_is_void(tmp_path):
    saved(tmp_path / "x/a.png", FIRST)
    saved(tmp_path / "one/a.png", np.array([[0, 9, 1], [9, 1, 0]], np.uint8))
    saved(tmp_path / "two/a.png", np.array([[1, 1, 1], [9, 0, 9]], np.uint8))
    places = {"images": "x", "labels": ["one", "two"]}
    sample = Folder(described(tmp_path, places, classes=["no vessel", "vessel"], void=9))[0]
    assert sample["class_probs"][1].tolist() == [[0.5, 1, 1], [0, 0.5, 0]]
    assert sample["classes_valid"].tolist() == [[True, True, True], [False, True, True]]


def test_ids_may_be_any_numbers(tmp_path):
    saved(tmp_path / "x/a.png", FIRST)
    saved(tmp_path / "y/a.png", np.array([[7, 3, 1000], [3, 3, 7]], np.uint16))
    places = {"images": "x", "labels": "y"}
    sample = Folder(described(tmp_path, places, classes={3: "b", 1000: "c"}, void=7))[0]
    assert sample["classes"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert sample["classes_valid"].tolist() == [[False, True, True], [True, True, False]]
    with pytest.raises(DataError, match=r"a\.png holds label ids 1000, but the 2 classes have ids 3, 7"):
        Folder(described(tmp_path, places, classes={3: "b", 7: "c"}))[0]


COLORED = np.array([[[0, 0, 0], [255, 0, 0], [9, 9, 9]]], np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "bmp"])
def test_labels_may_hold_the_colors_of_the_classes(tmp_path, ending):
    saved(tmp_path / "x/a.png", COLORED)
    saved(tmp_path / f"y/a.{ending}", COLORED)
    entries = {"classes": ["road", "car"], "colors": [[0, 0, 0], [255, 0, 0]]}
    sample = Folder(described(tmp_path, {"images": "x", "labels": "y"}, **entries, void=[9, 9, 9]))[0]
    assert sample["classes"].tolist() == [[0, 1, 0]]
    assert sample["classes_valid"].tolist() == [[True, True, False]]
    with pytest.raises(DataError, match=rf"a\.{ending} holds the colors \(9, 9, 9\), which are of no class"):
        Folder(described(tmp_path, {"images": "x", "labels": "y"}, **entries))[0]
    with pytest.raises(DataError, match=r"has 3 channels, .* give the `colors:`"):
        Folder(described(tmp_path, {"images": "x", "labels": "y"}, classes=["road", "car"]))[0]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a.png", np.array([[0, 51, 255]], np.uint8)),
        ("a.png", np.array([[0, 13107, 65535]], np.uint16)),
        ("a.tif", np.array([[0, 0.2, 1]], np.float32)),
        ("a.npy", np.array([[0, 0.2, 1]])),
        ("a.npy", np.array([[[1, 0.8, 0]], [[0, 0.2, 1]]], np.float32)),
    ],
)
def test_soft_labels_are_read_as_probabilities(tmp_path, name, stored):
    saved(tmp_path / "x/a.png", COLORED)
    saved(tmp_path / "y" / name, stored)
    sample = Folder(described(tmp_path, {"images": "x", "probabilities": "y"}))[0]
    assert sample["class_probs"].flatten().tolist() == pytest.approx([1, 0.8, 0, 0, 0.2, 1])
    assert sample["classes"].tolist() == [[0, 0, 1]]
    assert sample["classes_valid"].all()


@pytest.mark.parametrize(
    ("name", "stored", "fault"),
    [
        ("a.tif", np.array([[0, np.nan, 1]], np.float32), "NaN"),
        ("a.npy", np.array([[0, 2.0, 1]]), "values outside 0 to 1"),
        ("a.npy", np.full((2, 1, 3), 0.4), "the sum 0.8"),
        ("a.npy", np.full((3, 1, 3), 1 / 3), r"expected \(2, height, width\)"),
        ("a.npy", np.zeros((1, 4)), "1 × 4 pixels but its image has 1 × 3"),
        ("a.png", COLORED, "has 3 channels, expected one"),
    ],
)
def test_what_is_no_probability_is_refused(tmp_path, name, stored, fault):
    saved(tmp_path / "x/a.png", COLORED)
    saved(tmp_path / "y" / name, stored)
    with pytest.raises(DataError, match=rf"{name}.*{fault}"):
        Folder(described(tmp_path, {"images": "x", "probabilities": "y"}))[0]


def test_one_probability_does_not_say_which_of_three_classes(tmp_path):
    saved(tmp_path / "x/a.png", COLORED)
    saved(tmp_path / "y/a.png", FIRST[:1])
    with pytest.raises(DataError, match=r"one probability for each pixel, but there are 3 classes"):
        Folder(described(tmp_path, {"images": "x", "probabilities": "y"}, classes=["a", "b", "c"]))[0]


def test_a_text_file_lists_images_and_labels(eyes):
    (eyes / "train.txt").write_text(
        "# image label\nimages/22_training.tif first/22_manual1.gif\n\nimages/21_training.tif\tfirst/21_manual1.gif\n"
    )
    data = Folder(described(eyes, {"train": "train.txt"}))
    assert data.names == ["22_training", "21_training"]
    assert data[1]["classes"].tolist() == (FIRST // 255).tolist()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "lists no image"),
        ("images/21_training.tif", "line 1, holds 1 names, expected `image labels`"),
        ("images/21_training.tif first/99.gif", r"line 1: .*99\.gif does not exist"),
        ("images/21_training.tif first/21_manual1.gif\n" * 2, "names images/21_training.tif again"),
    ],
)
def test_a_faulty_list_is_named_with_its_line(eyes, text, fault):
    (eyes / "train.txt").write_text(text)
    with pytest.raises((DataError, MissingFileError), match=rf"train\.txt.*{fault}"):
        Folder(described(eyes, {"train": "train.txt"}))


def test_equal_names_in_two_folders_stay_apart(eyes):
    (eyes / "other").mkdir()
    (eyes / "other/21_training.tif").write_bytes((eyes / "images/21_training.tif").read_bytes())
    (eyes / "train.txt").write_text("".join(f"{x}/21_training.tif first/21_manual1.gif\n" for x in ("images", "other")))
    assert Folder(described(eyes, {"train": "train.txt"})).names == ["images/21_training", "other/21_training"]


def test_each_image_is_in_one_fold_and_never_in_training_and_validation(eyes):
    described(eyes, {"images": IMAGES, "labels": MANUAL1}, folds=3)
    held = [load(str(eyes), split="val", fold=fold).names for fold in range(3)]
    kept = [load(str(eyes), split="train", fold=fold).names for fold in range(3)]
    assert held == [["21", "22"], ["23"], ["24", "25"]]
    assert all(sorted(val + train) == ["21", "22", "23", "24", "25"] for val, train in zip(held, kept))
    assert load(str(eyes)).names == ["21", "22", "23", "24", "25"]
    assert load(str(eyes), split="val[:50%]", fold=0).names == ["21"]


def test_training_images_of_any_data_set_are_divided_on_request(eyes):
    data = described(eyes, {"images": IMAGES, "labels": MANUAL1})
    assert load(str(data), split="val", fold=2, folds=3).names == ["24", "25"]
    train, val = (load("scenes", split=split, fold=1, folds=4) for split in ("train", "val"))
    assert len(train) == 3 * len(val)
    assert not set(train.names) & set(val.names)
    assert "val" in train.splits
    Config(data=str(data), fold=2, folds=3)
    for fold, folds in ((-1, 3), (0, 1), (0, -2), (-2, 3)):
        with pytest.raises(ConfigError, match="fold"):
            Config(fold=fold, folds=folds)


def test_folds_that_do_not_exist_are_refused(eyes):
    places = {"images": IMAGES, "labels": MANUAL1}
    described(eyes, places, folds=3)
    with pytest.raises(ConfigError, match="there are the folds 0 to 2"):
        load(str(eyes), fold=3)
    with pytest.raises(ConfigError, match="a fold is val after `fit --fold 0`"):
        load(str(eyes), split="val")
    with pytest.raises(ConfigError, match="the data have no folds"):
        load("scenes", fold=0)
    with pytest.raises(ConfigError, match="the data have no folds"):
        load(str(described(eyes, places)), fold=0)
    with pytest.raises(ConfigError, match="5 images cannot be divided into 9 folds"):
        load(str(described(eyes, places, folds=9)), fold=0)
    with pytest.raises(DataError, match="leave val out"):
        load(str(described(eyes, {"train": places, "val": dict(places)}, folds=3)))


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"folds": 1}, "at least 2"),
        ({"folds": True}, "at least 2"),
        ({"max_megapixels": "many"}, "million pixels"),
        ({"max_megapixels": 0}, "million pixels"),
        ({"classes": {0: "a", "b": "c"}}, "expected whole numbers"),
        ({"classes": {0: "a", -1: "c"}}, "expected whole numbers"),
        ({"void": 255}, "none of the classes"),
        ({"colors": [[1, 2, 3], [1, 2, 3]]}, "each color once"),
        ({"colors": [[1, 2, 3], [1, 2, 4]], "void": [1, 2, 3]}, "none of the classes"),
    ],
)
def test_a_faulty_description_is_one_line(eyes, entries, fault):
    with pytest.raises(DataError, match=rf"\A[^\n]*sfumato\.yaml: [^\n]*{fault}[^\n]*\Z"):
        Folder(described(eyes, {"images": IMAGES, "labels": MANUAL1}, **entries))


@pytest.mark.parametrize(
    "split",
    [
        {"images": IMAGES, "labels": MANUAL1, "probabilities": MANUAL1},
        {"images": [IMAGES, IMAGES], "labels": MANUAL1},
        {"images": IMAGES, "labels": []},
        {"images": IMAGES, "labels": MANUAL1, "region": MASK},
        {"images": IMAGES, "labels": 7},
    ],
)
def test_a_faulty_split_is_one_line(eyes, split):
    with pytest.raises(
        DataError, match=r"sfumato\.yaml: split train is .* expected \{images: FOLDER, labels: FOLDER\}"
    ):
        Folder(described(eyes, split))


def test_the_limit_of_pixels_is_a_key_of_the_description(eyes):
    data = Folder(described(eyes, {"images": IMAGES, "labels": MANUAL1}, max_megapixels=5e-6))
    with pytest.raises(DataError, match=r"max_megapixels in sfumato\.yaml"):
        data[0]


# From the folder to the scores


def test_labels_of_two_observers_are_learned_and_scored_in_the_fold_that_is_left_out(eyes, monkeypatch, capsys):
    for path in (eyes / "images").iterdir():  # a pixel shows what the observers see
        Image.fromarray(np.stack([FIRST, SECOND, REGION], -1)).save(path)
    described(eyes, {"images": IMAGES, "labels": [MANUAL1, MANUAL2], "mask": MASK}, folds=5)
    monkeypatch.chdir(eyes)
    words = ["--method", "deterministic", "--network-args", "{widths: [4, 8]}", "--epochs", "40", "--batch", "4"]
    words += ["--scale", "1", "1", "--color", "0", "--learning-rate", "0.02", "--precision", "32-true", "--seed", "1"]
    assert main(["fit", "--data", ".", "--fold", "3", "--out", "run", "--quiet", *words]) == 0
    assert main(["evaluate", "run", "--quiet", "--workers", "0"]) == 0
    found = Evaluation.load(eyes / "run/evaluation.json")
    assert found.images == 1
    assert found.tasks["classes"].scores["truth_kl"].value < 0.1  # the first observer alone would give at least 0.28
    assert found.tasks["classes"].scores["truth_pixels"].value == (REGION > 0).sum()


# sfumato check


def checked(root, capsys, *words):
    code = main(["check", str(root), "--quiet", "--out", str(root / "sheet.png"), *words])
    return code, *capsys.readouterr()


def test_check_prints_counts_sizes_and_shares_and_draws_a_picture(eyes, capsys):
    code, out, err = checked(described(eyes, {"images": IMAGES, "labels": MANUAL1, "mask": MASK}), capsys)
    assert (code, err) == (0, "")
    assert "5 of 2 × 3" in out
    assert "vessel │ 60 %" in " ".join(out.split())  # 3 of the 5 pixels inside the mask
    assert "valid │ 83.3 %" in " ".join(out.split())
    with Image.open(eyes / "sheet.png") as sheet:
        pixels = np.array(sheet)
    assert pixels.shape[2] == 3
    assert pixels[:, :, 0].max() > 200


def test_check_lists_every_problem_and_ends_with_2(eyes, capsys):
    (eyes / "first/21_manual1.gif").unlink()
    (eyes / "mask/23_training_mask.gif").unlink()
    (eyes / "images/24_training.tif").write_bytes(b"II*")
    saved(eyes / "first/25_manual1.gif", FIRST[:1])
    code, out, err = checked(described(eyes, {"images": IMAGES, "labels": MANUAL1, "mask": MASK}), capsys)
    problems = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert code == 2
    assert [text for text in ("21_", "23_", "24_", "25_") if not any(text in line for line in problems)] == []
    assert len(problems) == 4
    assert err.count("\n") == 1
    assert err.startswith("sfumato: problems of ")


def test_check_names_a_class_without_a_pixel(eyes, capsys):
    entries = {"classes": {0: "background", 7: "vessel"}, "void": 255}
    code, out, _ = checked(described(eyes, {"images": IMAGES, "labels": MANUAL1}, **entries), capsys)
    assert code == 2
    assert "has a pixel of vessel (classes). The data set ignores the id 255" in out
    assert "vessel │ no pixel" in " ".join(out.split())


def test_check_reads_data_sets_by_name(tmp_path, capsys):
    assert main(["check", "scenes", "--quiet", "--out", str(tmp_path / "sheet.png")]) == 0
    assert "20 of 96 × 128" in capsys.readouterr().out
    assert main(["check", "nothing"]) == 2


def test_the_first_of_several_missing_files_is_named_with_their_number(eyes):
    for number in (22, 24):
        (eyes / f"first/{number}_manual1.gif").unlink()
    with pytest.raises(MissingFileError, match=r"22_training\.tif has no labels .*\(2 such files; `sfumato check`"):
        Folder(described(eyes, {"images": IMAGES, "labels": MANUAL1}))
