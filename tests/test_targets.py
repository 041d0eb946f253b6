"""Each kind of entry changes as the scene that it describes."""

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from sfumato.data.transforms import resize
from sfumato.errors import ConfigError, DataError
from sfumato.targets import (
    ENTRIES,
    ClassMap,
    Depth,
    Disparity,
    Image,
    ImageValue,
    Intrinsics,
    Mask,
    Normals,
    Pose,
    ScalarMap,
    Stacked,
    VectorMap,
    Warp,
    kind_of,
)


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
    assert resize(a, None) is a


@pytest.mark.parametrize("size", [(12, 16), (24, 32), (37, 53), (60, 80)])
def test_images_resize_as_pillow_does(size):
    pixels = (sample(48, 64)["image"] * 255).byte()
    pillow = Picture.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size[::-1], Picture.Resampling.BILINEAR)
    expected = torch.tensor(np.array(pillow)).permute(2, 0, 1)
    exact = Image().resize(pixels / 255, (48, 64), size) * 255
    assert (exact - expected).abs().max() < 1.1  # Pillow rounds twice
    rounded = Image().resize(pixels, (48, 64), size)
    assert rounded.dtype == torch.uint8
    assert (exact - rounded).abs().max() <= 0.5 + 1e-3


def test_batches_resize_like_their_images():
    pixels = torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8)
    found = Image().resize(pixels, (6, 8), (3, 5))
    assert torch.equal(found[1], Image().resize(pixels[1], (6, 8), (3, 5)))


@pytest.mark.parametrize("size", [(2, 3), (8, 12), (3, 5), (1, 1)])
def test_targets_take_one_old_pixel_together(size):
    b = resize(sample(4, 6), size)
    rows, columns = b["classes"] // 6, b["classes"] % 6
    assert b["image"].shape == (3, *size)
    assert torch.equal(b["depth"][0], 1.0 + columns)
    assert torch.equal(b["classes_valid"], columns % 2 == 0)
    # The old pixel's center is within half an old pixel of the new pixel's center.
    center = (torch.arange(size[0]) + 0.5) * 4 / size[0]
    assert ((rows[:, 0] + 0.5 - center).abs() <= 0.5).all()


def test_intrinsics_follow_the_corners():
    # The image's edges are at −½ and size − ½ before and after. The direction seen there stays the same.
    a, b = sample(4, 6)["intrinsics"], resize(sample(4, 6), (6, 18))["intrinsics"]
    for axis, old, new in ((0, 6, 18), (1, 4, 6)):
        for before, after in ((-0.5, -0.5), (old - 0.5, new - 0.5)):
            seen = (before - a[axis, 2]) / a[axis, axis]
            assert (after - b[axis, 2]) / b[axis, axis] == pytest.approx(float(seen))


def test_lengths_in_pixels_follow_the_size():
    maps = {"image": torch.zeros(3, 4, 6), "disparity": torch.full((1, 4, 6), 3.0), "flow": torch.ones(2, 4, 6)}
    out = resize(maps, (8, 18))
    assert out["disparity"].unique().tolist() == [9.0]
    assert out["flow"][0].unique().tolist() == [3.0]
    assert out["flow"][1].unique().tolist() == [2.0]


def test_what_has_no_kind_is_left_out_and_poses_stay():
    out = resize(sample(4, 6) | {"notes": torch.zeros(3)}, (2, 3))
    assert "notes" not in out
    assert out["name"] == "a"
    assert torch.equal(out["world_from_camera"], torch.eye(4))


def test_sizes_that_make_no_sense():
    with pytest.raises(ConfigError, match="height, width"):
        resize(sample(4, 6), (0, 5))
    with pytest.raises(DataError, match="image has 4 × 6 pixels but depth has 2 × 2"):
        resize(sample(4, 6) | {"depth": torch.zeros(1, 2, 2)}, (3, 3))


def warp(zoom=2.0, flip=1.0):
    matrix = torch.tensor([[[flip * zoom, 0, 1.0], [0, zoom, -2.0]]])
    return Warp(matrix, torch.tensor([zoom]), torch.tensor([flip]), (4, 4), (4, 4))


def test_a_zoomed_stereo_pair_agrees_with_its_depth():
    """Under disparity = f · baseline / depth, both rules for zoom say the same, because f stays."""
    depth = torch.rand(1, 1, 4, 4) + 1
    disparity = 30.0 / depth
    zoomed = 30.0 / Depth().warp(depth, warp())
    assert torch.allclose(Disparity().warp(disparity, warp()), zoomed)


def test_intrinsics_move_with_their_pixels():
    matrix = torch.tensor([[[30.0, 0.5, 12.0], [0, 25.0, 7.0], [0, 0, 1]]])
    for flip in (1.0, -1.0):
        moved = Intrinsics().warp(matrix, warp(flip=flip))
        # A point (X, Y, Z) is seen at p; in the new scene (±X, Y, Z / 2) has to be seen at the new place of p.
        point = torch.tensor([0.3, -0.2, 4.0])
        place = (matrix[0] @ point)[:2] / point[2]
        there = moved[0] @ torch.tensor([flip * 0.3, -0.2, 2.0])
        expected = warp(flip=flip).matrix[0] @ torch.cat([place, torch.ones(1)])
        assert torch.allclose(there[:2] / there[2], expected, atol=1e-5)


def test_normals_are_those_of_the_moved_surface():
    """Points of a sloping surface move by x → ±x, z → z / s; the normal is the cross product of two tangents."""
    first, second = torch.tensor([1.0, 0, 0.4]), torch.tensor([0, 1.0, -0.7])
    before = torch.linalg.cross(second, first)
    for flip in (1.0, -1.0):
        change = torch.tensor([flip, 1.0, 0.5])
        after = torch.linalg.cross(second * change, first * change) * flip
        value = (before / before.norm()).view(1, 3, 1, 1)
        found = Normals().warp(value, warp(flip=flip)).flatten()
        assert torch.allclose(found, after / after.norm(), atol=1e-6)


def test_blank_targets_have_the_right_shape_and_are_not_valid():
    for kind, shape, mask in (
        (ClassMap(), (4, 5), (4, 5)),
        (VectorMap(), (2, 4, 5), (4, 5)),
        (Stacked(((Depth(), 1), (ClassMap(), 1))), (2, 4, 5), (4, 5)),
        (ImageValue(dims=3), (3,), ()),
        (ImageValue(dims=0), (), ()),
        (Pose(), (4, 4), ()),
    ):
        assert kind.blank((4, 5)).shape == shape
        assert kind.blank_mask((4, 5)).shape == mask
        assert not kind.blank_mask((4, 5)).any()
    assert ImageValue(dims=0).blank((4, 5)).dtype == ClassMap().blank((4, 5)).dtype == torch.int64


def test_statistics_are_taken_channel_by_channel():
    pixels = torch.tensor([[[0, 255]], [[51, 51]], [[102, 204]]], dtype=torch.uint8)
    assert Image().numbers(pixels).mean(1).tolist() == pytest.approx([0.5, 0.2, 0.6])
    assert ImageValue(dims=2).numbers(torch.tensor([1.0, 2.0])).tolist() == [[1.0], [2.0]]
    assert ScalarMap(dims=2).numbers(torch.zeros(2, 3, 4)).shape == (2, 12)


def test_masks_have_the_kind_of_their_owner():
    assert kind_of("disparity_valid") == Mask(partner="disparity_right_valid")
    entries = {**ENTRIES, "label": ImageValue(dims=0)}
    assert kind_of("label_valid", entries) == ImageValue(dims=0)
    assert kind_of("else_valid", entries) is None
