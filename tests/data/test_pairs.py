"""Images and targets of the same stem."""

import pytest

from sfumato.data.pairs import pairs


@pytest.fixture
def folders(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, names in ((images, ("b.JPG", "a.png")), (labels, ("a.png", "b.png", "c.png"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    return images, labels


def test_in_the_order_of_names_and_labels_may_be_left_over(folders):
    assert [(a.name, b.name) for a, b in pairs(*folders)] == [("a.png", "a.png"), ("b.JPG", "b.png")]


def test_what_is_no_image_is_passed_over(folders):
    for name in (".DS_Store", "._a.png", "readme.txt"):
        (folders[0] / name).touch()
    assert len(pairs(*folders)) == 2


def test_missing_label(folders):
    (folders[1] / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.JPG has no label or depth in .*labels .*: add it"):
        pairs(*folders)


def test_jpeg_labels_do_not_count(folders):
    (folders[1] / "b.png").rename(folders[1] / "b.jpg")
    with pytest.raises(FileNotFoundError, match=r"b\.JPG"):
        pairs(*folders)


@pytest.mark.parametrize("which", [0, 1])
def test_empty_and_missing_folder(folders, which):
    for path in folders[which].iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=rf"{folders[which].name} is empty: expected files ending in \.png"):
        pairs(*folders)
    folders[which].rmdir()
    with pytest.raises(FileNotFoundError, match=rf"{folders[which].name} is not a folder"):
        pairs(*folders)


def test_two_images_of_one_stem(folders):
    (folders[0] / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"a\.png and a\.jpg have the same stem: keep one"):
        pairs(*folders)
