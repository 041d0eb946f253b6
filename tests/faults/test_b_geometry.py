"""Images and targets are turned upright by one rule: each as its own EXIF entry says."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import read_turned_image
from sfumato.data.target_files import read_depth, read_labels, read_probabilities
from sfumato.errors import DataError

SHOWN = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
STORED = {  # how a picture that is shown as SHOWN is stored, by its EXIF orientation
    1: SHOWN,
    2: SHOWN[:, ::-1],
    3: SHOWN[::-1, ::-1],
    4: SHOWN[::-1],
    5: SHOWN.T,
    6: np.rot90(SHOWN, 1),
    7: SHOWN[::-1, ::-1].T,
    8: np.rot90(SHOWN, -1),
}


def saved(path, array, orientation=0):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_image_and_label_are_turned_by_the_same_rule(tmp_path, orientation, ending):
    image, found = read_turned_image(saved(tmp_path / f"a.{ending}", STORED[orientation], orientation))
    assert found == orientation
    assert torch.equal(image[0], torch.tensor(SHOWN))
    path = saved(tmp_path / f"b.{ending}", STORED[orientation], orientation)
    assert torch.equal(read_labels(path, 6, None, (2, 3), found)[0], torch.tensor(SHOWN).long())
    assert read_depth(path, 1, 1, 9, (2, 3), found)[0][0].tolist() == SHOWN.tolist()
    assert read_probabilities(path, 2, (2, 3), found)[1].mul(255).round().tolist() == SHOWN.tolist()


@pytest.mark.parametrize("orientation", STORED)
def test_a_label_with_an_entry_of_its_own_fits_an_image_without_one(tmp_path, orientation):
    path = saved(tmp_path / "b.png", STORED[orientation], orientation)
    assert torch.equal(read_labels(path, 6, None, (2, 3), 1)[0], torch.tensor(SHOWN).long())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_label_without_an_entry_that_has_the_size_of_what_is_shown_is_drawn_on_it(tmp_path, orientation):
    path = saved(tmp_path / "b.png", SHOWN)
    assert torch.equal(read_labels(path, 6, None, (2, 3), orientation)[0], torch.tensor(SHOWN).long())


@pytest.mark.parametrize("orientation", [orientation for orientation in STORED if orientation > 1])
def test_a_label_without_an_entry_that_may_be_drawn_on_either_is_refused(tmp_path, orientation):
    path = saved(tmp_path / "b.png", STORED[orientation])
    with pytest.raises(DataError, match=rf"EXIF .*orientation {orientation}.*b\.png has no such entry.*save the image"):
        read_labels(path, 6, None, (2, 3), orientation)


def test_a_square_label_may_be_drawn_on_either(tmp_path):
    path = saved(tmp_path / "b.png", SHOWN[:, :2])
    with pytest.raises(DataError, match="EXIF"):
        read_labels(path, 6, None, (2, 2), 6)
    np.save(tmp_path / "b.npy", SHOWN[:, :2])
    with pytest.raises(DataError, match="EXIF"):
        read_labels(tmp_path / "b.npy", 6, None, (2, 2), 3)


def test_another_size_names_the_exif_entry_if_there_is_one(tmp_path):
    path = saved(tmp_path / "b.png", SHOWN)
    with pytest.raises(DataError, match=r"2 × 3 pixels but its image has 4 × 6 \(height × width\) as the EXIF"):
        read_labels(path, 6, None, (4, 6), 6)
    with pytest.raises(DataError, match=r"4 × 6 \(height × width\): make both"):
        read_labels(path, 6, None, (4, 6))
