"""Every odd or broken file: correct behavior, or one line that names it and says what to do."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import read_image
from sfumato.data.stored import read_channel
from sfumato.data.target_files import read_depth, read_labels
from sfumato.errors import DataError, MissingFileError

GRAY = np.array([[0, 51, 255], [102, 153, 204]], np.uint8)


def saved(path, array, mode=None, **kwargs):
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **kwargs)
    return path


def refused(kind, path, remedy):
    """Expects one line that names the file and the remedy."""
    return pytest.raises(kind, match=rf"\A[^\n]*{path.name}[^\n]*{remedy}[^\n]*\Z")


# Images


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK"])
def test_the_same_gray_picture_in_any_mode(tmp_path, mode):
    path = saved(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}", GRAY, mode)
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.tensor(GRAY).expand(3, -1, -1))


def test_color_channels_stay_in_order(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[[255, 0, 51]]], np.uint8))
    assert read_image(path).flatten().tolist() == [255, 0, 51]


def test_palette_is_looked_up(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", picture, transparency=bytes([0, 255]))
    assert read_image(path)[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def test_alpha_is_dropped(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[[255, 51, 0, 0]]], np.uint8))
    assert read_image(path).flatten().tolist() == [255, 51, 0]


def test_sixteen_bits_keep_their_depth(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 1, 65535]], np.uint16))
    assert read_image(path)[1, 0].tolist() == pytest.approx([0, 1 / 65535, 1], rel=1e-6)


def test_one_pixel(tmp_path):
    assert read_image(saved(tmp_path / "a.png", GRAY[:1, 1:2])).shape == (3, 1, 1)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the file
    path = saved(tmp_path / "a.png", GRAY, exif=exif)
    assert torch.equal(read_image(path)[0], torch.tensor(np.rot90(GRAY, -1).copy()))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("left", [0, 20, 0.5])
def test_truncated_files(tmp_path, ending, left):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path / f"a.{ending}", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    with refused(ValueError, path, "copy it again"):
        read_image(path)


def test_missing_file(tmp_path):
    with refused(FileNotFoundError, tmp_path / "a.png", "does not exist"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_float_pictures_outside_0_to_1(tmp_path, value):
    path = saved(tmp_path / "a.tif", np.array([[0.5, value]], np.float32))
    with refused(ValueError, path, "rescale"):
        read_image(path)


# Labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_and_void(tmp_path, dtype):
    path = saved(tmp_path / "a.png", np.array([[0, 2, 11]], dtype))
    classes, valid = read_labels(path, 11, void=11, shape=(1, 3))
    assert classes.dtype == torch.int64
    assert classes.tolist() == [[0, 2, 0]]
    assert valid.tolist() == [[True, True, False]]


def test_palette_labels_are_indices_not_colors(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([9, 9, 9, 7, 7, 7])
    picture.putpixel((1, 0), 1)
    assert read_labels(saved(tmp_path / "a.png", picture), 2)[0].tolist() == [[0, 1]]


def test_ids_count_from_one_where_void_is_zero(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8))
    classes, valid = read_labels(path, 2, void=0)
    assert classes.tolist() == [[0, 0, 1]]
    assert valid.tolist() == [[False, True, True]]


def test_all_void_is_no_error(tmp_path):
    path = saved(tmp_path / "a.png", np.full((2, 2), 255, np.uint8))
    classes, valid = read_labels(path, 3, void=255)
    assert not valid.any()
    assert not classes.any()


@pytest.mark.parametrize("void", [None, 255, 0])
def test_ids_outside_the_classes(tmp_path, void):
    path = saved(tmp_path / "a.png", np.array([[1, 7, 9]], np.uint8))
    with refused(ValueError, path, "ids 7, 9, but the 3 classes .* correct the label"):
        read_labels(path, 3, void)


def test_labels_of_another_size(tmp_path):
    path = saved(tmp_path / "a.png", GRAY)
    with refused(ValueError, path, "2 × 3 pixels but its image has 4 × 6 .* same size"):
        read_labels(path, 256, shape=(4, 6))


def test_colored_labels(tmp_path):
    path = saved(tmp_path / "a.png", GRAY, "RGB")
    with refused(ValueError, path, "gray PNG"):
        read_labels(path, 11)


def test_float_labels(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 2)))
    with refused(ValueError, path, "as integers"):
        read_labels(path, 11)


# Depth


def test_millimeters(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 500, 1234, 65535]], np.uint16))
    depth, valid = read_depth(path, 0.001, 0.5, 10, shape=(1, 4))
    assert depth.dtype == torch.float32
    assert depth.shape == (1, 1, 4)
    assert depth.flatten().tolist() == pytest.approx([0, 0.5, 1.234, 0])
    assert valid.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_depth_that_is_no_number(tmp_path, name, value):
    path, depth = tmp_path / name, np.array([[1.0, value]], np.float32)
    np.save(path, depth) if name.endswith("npy") else saved(path, depth)
    with refused(ValueError, path, "write 0 where depth is missing"):
        read_depth(path, 1, 0.1, 10)


def test_negative_depth(tmp_path):
    path = saved(tmp_path / "a.tif", np.array([[1.0, -1]], np.float32))
    with refused(ValueError, path, "negative"):
        read_depth(path, 1, 0.1, 10)


def test_truncated_array(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((20, 20)))
    path.write_bytes(path.read_bytes()[:200])
    with refused(ValueError, path, "save it again"):
        read_depth(path, 1, 0.1, 10)


def test_array_of_another_shape(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 2, 3)))
    with refused(ValueError, path, r"shape \(H, W\)"):
        read_depth(path, 1, 0.1, 10)


# Files that are no files


@pytest.mark.parametrize("read", [read_image, read_channel])
@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_a_pipe_is_refused_at_once(tmp_path, read, name):
    path = tmp_path / name
    os.mkfifo(path)  # opening it would wait forever for a writer
    with refused(DataError, path, "a pipe or a device, expected a regular file"):
        read(path)
    path.unlink()
    path.mkdir()
    with refused(DataError, path, "is a folder"):
        read(path)
    path.rmdir()
    with refused(MissingFileError, path, "does not exist"):
        read(path)
