"""Every odd or broken file: correct behavior, or one line that names it and says what to do."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import read_depth, read_image, read_labels, resized

GREY = np.array([[0, 51, 255], [102, 153, 204]], np.uint8)


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
    path = saved(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}", GREY, mode)
    image = read_image(path)
    assert image.dtype == torch.float32
    assert torch.allclose(image, torch.tensor(GREY / 255).float().expand(3, -1, -1), atol=1e-6)


def test_color_channels_stay_in_order(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[[255, 0, 51]]], np.uint8))
    assert read_image(path).flatten().tolist() == pytest.approx([1, 0, 0.2])


def test_palette_is_looked_up(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", picture, transparency=bytes([0, 255]))
    assert read_image(path)[:, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_alpha_is_dropped(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[[255, 51, 0, 0]]], np.uint8))
    assert read_image(path).flatten().tolist() == pytest.approx([1, 0.2, 0])


def test_sixteen_bits_keep_their_depth(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 1, 65535]], np.uint16))
    assert read_image(path)[1, 0].tolist() == pytest.approx([0, 1 / 65535, 1], rel=1e-6)


def test_one_pixel(tmp_path):
    assert read_image(saved(tmp_path / "a.png", GREY[:1, 1:2])).shape == (3, 1, 1)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the file
    path = saved(tmp_path / "a.png", GREY, exif=exif)
    assert torch.equal(read_image(path)[0], torch.tensor(np.rot90(GREY, -1) / 255).float())


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("left", [0, 20, 0.5])
def test_truncated_files(tmp_path, ending, left):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path / f"a.{ending}", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    with refused(ValueError, path, "copy it anew"):
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
    path = saved(tmp_path / "a.png", GREY)
    with refused(ValueError, path, "2 × 3 pixels but its image has 4 × 6 .* same size"):
        read_labels(path, 256, shape=(4, 6))


def test_colored_labels(tmp_path):
    path = saved(tmp_path / "a.png", GREY, "RGB")
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
    with refused(ValueError, path, "save it anew"):
        read_depth(path, 1, 0.1, 10)


def test_array_of_another_shape(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 2, 3)))
    with refused(ValueError, path, r"shape \(H, W\)"):
        read_depth(path, 1, 0.1, 10)


# Size


def sample(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return {
        "name": "a",
        "image": torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)),
        "classes": rows * width + columns,
        "classes_valid": columns % 2 == 0,
        "depth": (1.0 + columns)[None],
        "depth_valid": columns % 2 == 0,
        "intrinsics": torch.tensor([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]),
        "world_from_camera": torch.eye(4),
    }


def test_no_size_changes_nothing():
    a = sample(4, 6)
    assert resized(a, None) is a


@pytest.mark.parametrize("size", [(12, 16), (24, 32), (37, 53), (60, 80)])
def test_images_resize_as_pillow_does(size):
    a = (sample(48, 64)["image"] * 255).byte()
    image = resized({"image": a / 255}, size)["image"]
    pillow = Image.fromarray(a.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    assert (image * 255 - torch.tensor(np.array(pillow)).permute(2, 0, 1)).abs().max() < 1.1


@pytest.mark.parametrize("size", [(2, 3), (8, 12), (3, 5), (1, 1)])
def test_targets_take_one_old_pixel_together(size):
    a = sample(4, 6)
    b = resized(a, size)
    rows, columns = b["classes"] // 6, b["classes"] % 6
    assert b["image"].shape == (3, *size)
    assert torch.equal(b["depth"][0], 1.0 + columns)
    assert torch.equal(b["classes_valid"], columns % 2 == 0)
    # the old pixel's center is within half an old pixel of the new pixel's center
    center = (torch.arange(size[0]) + 0.5) * 4 / size[0]
    assert ((rows[:, 0] + 0.5 - center).abs() <= 0.5).all()


def test_intrinsics_follow_the_corners():
    # The image's edges lie at −½ and size − ½ before and after: what is seen there stays.
    a, b = sample(4, 6)["intrinsics"], resized(sample(4, 6), (6, 18))["intrinsics"]
    for axis, old, new in ((0, 6, 18), (1, 4, 6)):
        for before, after in ((-0.5, -0.5), (old - 0.5, new - 0.5)):
            seen = (before - a[axis, 2]) / a[axis, axis]
            assert (after - b[axis, 2]) / b[axis, axis] == pytest.approx(float(seen))


def test_size_that_is_none():
    with pytest.raises(ValueError, match="height, width"):
        resized(sample(4, 6), (0, 5))
