"""Everything that is known of a pixel moves with it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data.transforms import Augmentation, to_float
from sfumato.errors import DataError
from sfumato.targets import ENTRIES, ClassMap, Depth, Image, ImageValue, Stacked, VectorMap

often = settings(deadline=None, max_examples=40)

crops = st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
sizes = st.tuples(st.integers(2, 24), st.integers(2, 24))
scales = st.tuples(st.floats(0.4, 1.0), st.floats(1.0, 3.0))
seeds = st.integers(0, 2**31)
B, F = 4, 30.0
IDS = "instances"  # row · W + column: which old pixel a new one is


def ramps(size, seed=0):
    """Images whose red is the column and whose green is the row; targets of which each pixel knows its place."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([columns / width, rows / height, torch.zeros(size)]).expand(B, -1, -1, -1)
    mask = torch.rand(B, *size, generator=generator) > 0.2
    center = torch.tensor([0.3 * width, 0.7 * height]).view(2, 1, 1)
    return {
        "name": list("abcd"),
        "image": image.clone(),
        IDS: (rows * width + columns).expand(B, -1, -1).clone(),
        "classes": (columns % 5).expand(B, -1, -1).where(mask, 0),
        "classes_valid": mask,
        "depth": (1 + torch.rand(B, 1, *size, generator=generator)).where(mask[:, None], 0),
        "depth_valid": mask,
        "centers": (center - torch.stack([columns, rows])).expand(B, -1, -1, -1).clone(),
        "centers_valid": torch.ones(B, *size, dtype=torch.bool),
        "intrinsics": torch.tensor([[F, 0, 0.4 * width], [0, F, 0.6 * height], [0, 0, 1]]).expand(B, -1, -1),
    }


def augmented(batch, seed, **options):
    torch.manual_seed(seed)
    return Augmentation(**options)(batch)


def places(out, size):
    """Old row and column of each new pixel."""
    return out[IDS] // size[1], out[IDS] % size[1]


def new_pixels(out):
    height, width = out[IDS].shape[1:]
    return torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")


@often
@given(sizes, crops, scales, seeds)
def test_image_and_targets_move_together(size, crop, scale, seed):
    batch = ramps(size)
    out = augmented(batch, seed, crop=crop, scale=scale, color=0.0)
    rows, columns = places(out, size)
    inside = out["centers_valid"]  # valid everywhere before, so valid now is inside
    assert out["image"].shape[-2:] == inside.shape[-2:] == (crop or size)
    # The nearest pixel is within half a pixel of where the image was read, whose ramps are exact under interpolation.
    assert ((out["image"][:, 0] * size[1] - columns).abs()[inside] <= 0.5 + 1e-3).all()
    assert ((out["image"][:, 1] * size[0] - rows).abs()[inside] <= 0.5 + 1e-3).all()
    # Where it reads an old pixel it reads all of it.
    for key in ("classes", "classes_valid", "depth_valid"):
        old = torch.stack([batch[key][b, rows[b], columns[b]] for b in range(B)])
        assert torch.equal(out[key][inside], old[inside])


@often
@given(sizes, crops, scales, seeds)
def test_a_zoomed_picture_is_one_of_a_nearer_world(size, crop, scale, seed):
    """Depth, focal length and principal point agree: each point keeps its X and Y (X mirrored with the picture)."""
    batch = ramps(size)
    out = augmented(batch, seed, crop=crop, scale=scale)
    rows, columns = places(out, size)
    valid = out["depth_valid"]
    old = torch.stack([batch["depth"][b, 0, rows[b], columns[b]] for b in range(B)])
    zoom = old / out["depth"][:, 0].where(valid, 1)
    new_rows, new_columns = new_pixels(out)
    for axis, before, now in ((0, columns, new_columns), (1, rows, new_rows)):
        center = batch["intrinsics"][:, axis, 2, None, None]
        moved = out["intrinsics"][:, axis, 2, None, None]
        there = (before - center) * old / F
        here = (now - moved) * out["depth"][:, 0] / F
        off = torch.minimum((here - there).abs(), (here + there).abs() if axis == 0 else torch.tensor(torch.inf))
        # Half an old pixel, which is what taking the nearest one may cost.
        assert (off[valid] <= 0.51 * old[valid] / F).all()
    if valid.any():
        assert scale[0] - 1e-4 <= zoom[valid].min()
        assert zoom[valid].max() <= scale[1] + 1e-4
    assert torch.equal(out["intrinsics"][:, :, :2], batch["intrinsics"][:, :, :2])


@often
@given(sizes, crops, scales, seeds)
def test_vectors_still_point_at_the_center(size, crop, scale, seed):
    out = augmented(ramps(size), seed, crop=crop, scale=scale)
    new_rows, new_columns = new_pixels(out)
    for vectors, pixels in ((out["centers"][:, 0], new_columns), (out["centers"][:, 1], new_rows)):
        for b in range(B):
            inside = out["centers_valid"][b]
            if inside.any():
                target = (vectors[b] + pixels)[inside]
                assert target.max() - target.min() <= scale[1] * 1.01  # half an old pixel to either side, zoomed


@often
@given(sizes, crops, scales, seeds)
def test_nothing_is_made_up(size, crop, scale, seed):
    batch = ramps(size)
    batch["classes_valid"][0] = False  # an all-void image
    out = augmented(batch, seed, crop=crop, scale=scale)
    assert not out["classes_valid"][0].any()
    assert set(out["classes"].unique().tolist()) <= {0, 1, 2, 3, 4}
    for key in ("classes", "depth", "centers"):
        mask = out[f"{key}_valid"] if out[key].ndim == 3 else out[f"{key}_valid"][:, None]
        assert not out[key].where(mask, 0).ne(out[key]).any()
    assert {key: out[key].dtype for key in out} == {key: batch[key].dtype for key in batch if key != "name"}
    assert out["image"].min() >= 0
    assert out["image"].max() <= 1


@often
@given(sizes, seeds)
def test_a_smaller_world_has_all_its_pixels_once(size, seed):
    out = augmented(ramps(size), seed, crop=(size[0] + 9, size[1] + 5), scale=(1.0, 1.0))
    assert (out["centers_valid"].sum((1, 2)) == size[0] * size[1]).all()
    for b in range(B):
        assert len(out[IDS][b][out["centers_valid"][b]].unique()) == size[0] * size[1]


@often
@given(sizes, crops, seeds)
def test_what_void_holds_does_not_matter(size, crop, seed):
    batch = ramps(size)
    other = {**batch, "depth": batch["depth"].where(batch["depth_valid"][:, None], torch.nan)}
    other["classes"] = batch["classes"].where(batch["classes_valid"], 255)
    a, b = (augmented(x, seed, crop=crop) for x in (batch, other))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_crop_alone_is_a_slice():
    batch = ramps((20, 30))
    batch["image"] = torch.rand(B, 3, 20, 30)
    out = augmented(batch, 0, crop=(8, 12), scale=(1, 1), flip=False, color=0.0)
    rows, columns = places(out, (20, 30))
    for b in range(B):
        top, left = rows[b, 0, 0], columns[b, 0, 0]
        window = batch["image"][b, :, top : top + 8, left : left + 12]
        assert torch.allclose(out["image"][b], window, atol=1e-4)
    assert len({(int(r), int(c)) for r, c in zip(rows[:, 0, 0], columns[:, 0, 0])}) == B


def test_flipped_twice_is_not_flipped():
    batch, options = ramps((6, 8)), {"scale": (1, 1), "color": 0.0}
    once = augmented(batch, 0, **options)
    twice = augmented(once, 0, **options)
    mirrored = once[IDS][:, 0, 0] == 7
    assert mirrored.any()
    assert not mirrored.all()
    assert torch.equal(once[IDS][mirrored], batch[IDS][mirrored].flip(-1))
    for key in twice:
        assert torch.allclose(twice[key].float(), batch[key].float(), atol=1e-4), key


def test_stereo_is_zoomed_but_not_flipped_without_both_disparities():
    shift = 3.0
    batch = ramps((16, 24))
    batch["right"] = batch["image"] + torch.tensor([shift / 24, 0, 0]).view(3, 1, 1)  # x_right = x − 3
    batch["disparity"] = torch.full((B, 1, 16, 24), shift)
    batch["disparity_valid"] = batch["centers_valid"]
    out = augmented(batch, 1, scale=(0.8, 1.7), color=0.0)
    slope = (out["image"][:, 0, :, 13] - out["image"][:, 0, :, 12])[:, 8]  # per new pixel, all inside
    assert (slope > 0).all()
    apart = (out["right"] - out["image"])[:, 0, 8, 12]
    assert torch.allclose(out["disparity"][:, 0, 8, 12], apart / slope, rtol=1e-3)


def stereo_pair(seed=0):
    """Two views of a wall of random columns whose disparity is 2 px left of the middle and 5 px right of it."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.rand(B, 3, 1, 40, generator=generator).expand(-1, -1, 4, -1)
    columns = torch.arange(24)
    left = torch.where(columns < 12, 2, 5)  # x_right = x − left[x]
    right = torch.where(columns < 7, 2, 5)  # x_left = x + right[x]; three columns are hidden
    batch = {"image": scene[..., :24].clone(), "disparity": left.float().expand(B, 1, 4, 24).clone()}
    batch["right"] = scene[..., columns + right].clone()
    batch["disparity_right"] = right.float().expand(B, 1, 4, 24).clone()
    seen = (columns >= left) & ((columns < 9) | (columns >= 12))
    batch["disparity_valid"] = seen.expand(B, 4, 24).clone()
    batch["disparity_right_valid"] = (columns + right < 24).expand(B, 4, 24).clone()
    return batch


def matches(batch, left="image", right="right", disparity="disparity", sign=-1):
    """Whether each valid pixel of one view shows what the other view shows at the disparity."""
    columns = torch.arange(24) + sign * batch[disparity][:, 0].long()
    found = batch[right].gather(3, columns.clamp(0, 23)[:, None].expand(-1, 3, -1, -1))
    return ((found - batch[left]).abs().amax(1) < 1e-4)[batch[f"{disparity}_valid"]].all()


def test_a_flip_of_a_stereo_pair_exchanges_its_views():
    batch = stereo_pair()
    assert matches(batch)
    assert matches(batch, "right", "image", "disparity_right", 1)
    out = augmented(batch, 0, scale=(1, 1), color=0.0)
    flipped = (out["image"] - batch["right"].flip(-1)).abs().amax((1, 2, 3)) < 1e-4
    assert flipped.any()
    assert not flipped.all()
    assert torch.allclose(out["right"][flipped], batch["image"][flipped].flip(-1), atol=1e-4)
    assert torch.equal(out["disparity_valid"][flipped], batch["disparity_right_valid"][flipped].flip(-1))
    assert matches(out)
    assert matches(out, "right", "image", "disparity_right", 1)


def test_a_target_of_one_view_keeps_a_stereo_pair_unflipped():
    batch = stereo_pair() | {"classes": torch.arange(24).expand(B, 4, 24)}
    out = augmented(batch, 0, scale=(1, 1), color=0.0)
    assert torch.allclose(out["image"], batch["image"], atol=1e-4)
    single = {key: batch[key] for key in ("image", "classes")}  # a network that takes one view is trained with flips
    assert (augmented(single, 0, scale=(1, 1))["classes"][:, 0, 0] == 23).any()


def test_poses_hold_only_where_nothing_moved():
    pose = {"world_from_camera": torch.eye(4).expand(B, -1, -1).clone()}
    assert "world_from_camera" not in augmented(ramps((4, 5)) | pose, 0)
    kept = augmented(ramps((4, 5)) | pose, 0, scale=(1, 1), flip=False)
    assert torch.equal(kept["world_from_camera"], pose["world_from_camera"])
    masked = ramps((4, 5)) | pose | {"world_from_camera_valid": torch.ones(B, dtype=torch.bool)}
    out = augmented(masked, 0, scale=(1, 1))
    flipped = out[IDS][:, 0, 0] == 4
    assert flipped.any()
    assert torch.equal(out["world_from_camera_valid"], ~flipped)
    assert not out["world_from_camera"][flipped].any()


def test_values_of_the_image_stay():
    entries = {**ENTRIES, "label": ImageValue(dims=0), "angle": ImageValue(invariant=False)}
    batch = ramps((4, 5)) | {
        "label": torch.tensor([3, 1, 4, 1]),
        "label_valid": torch.tensor([True, True, False, True]),
        "angle": torch.ones(B, 1),
        "angle_valid": torch.ones(B, dtype=torch.bool),
    }
    torch.manual_seed(0)
    out = Augmentation()(batch, entries)
    assert out["label"].tolist() == [3, 1, 0, 1]
    assert out["label_valid"].tolist() == [True, True, False, True]
    assert not out["angle_valid"].any()


def test_the_zoomed_scene_has_other_normals():
    """A plane Z = c + aX + bY becomes Z = (c + aX + bY) / s under a zoom by s; a flip turns a."""
    a, b = 0.3, -0.2
    size = (5, 6)
    normal = torch.tensor([a, b, -1.0])
    batch = ramps(size) | {"normals": (normal / normal.norm()).view(1, 3, 1, 1).expand(B, 3, *size).clone()}
    out = augmented(batch, 3, scale=(2, 2))
    for i in range(B):
        columns = out[IDS][i, 2] % size[1]
        sign = 1.0 if columns[-1] > columns[0] else -1.0
        expected = torch.tensor([sign * a / 2, b / 2, -1.0])
        assert torch.allclose(out["normals"][i, :, 2, 2], expected / expected.norm(), atol=1e-5)


def test_stacked_maps_change_like_each_of_them():
    batch = ramps((6, 8))
    kinds = ((Depth(), 1), (ClassMap(), 1), (VectorMap(), 2), (VectorMap().spread(), 2))
    spread = batch["centers"].abs()
    parts = [batch["depth"], batch["classes"][:, None].float(), batch["centers"], spread]
    batch |= {"both": torch.cat(parts, 1), "both_valid": batch["depth_valid"], "depth_valid": batch["depth_valid"]}
    torch.manual_seed(0)
    out = Augmentation()(batch, {**ENTRIES, "both": Stacked(kinds)})
    depth, classes, centers, spread = out["both"].split([1, 1, 2, 2], 1)
    valid = out["both_valid"]
    assert valid.any()
    assert torch.equal(depth, out["depth"])
    assert torch.equal(classes[:, 0][valid].long(), out["classes"][valid])
    assert torch.equal(centers.where(valid[:, None], 0), out["centers"].where(valid[:, None], 0))
    assert torch.equal(spread, centers.abs())


def test_half_precision_targets_are_widened():
    batch = {"image": torch.rand(B, 3, 4, 5), "depth": torch.full((B, 1, 4, 5), 60000.0).half()}
    out = augmented(batch, 0, scale=(0.5, 0.5))
    assert out["depth"].dtype == torch.float32
    assert out["depth"].max() == 2 * 60000.0


def test_bytes_become_floats_and_unknown_entries_are_left_out():
    pixels = torch.randint(0, 256, (B, 3, 6, 7), dtype=torch.uint8)
    batch = {"name": list("abcd"), "image": pixels, "notes": torch.zeros(B, 3)}
    out = augmented(batch, 0)
    assert out.keys() == {"image"}
    assert torch.equal(out["image"], augmented({"image": pixels.float() / 255}, 0)["image"])


def test_images_of_other_bands_change_only_in_brightness():
    thermal = {"thermal": torch.rand(B, 1, 5, 6)}
    torch.manual_seed(0)
    out = Augmentation(scale=(1, 1), flip=False, color=0.2)(thermal, {"thermal": Image(bands=1)})
    ratio = (out["thermal"] / thermal["thermal"]).flatten(1)
    dark = out["thermal"].flatten(1) < 1
    assert ((ratio - ratio.amax(1, keepdim=True)).abs() < 1e-3)[dark].all()


def test_maps_of_different_sizes():
    with pytest.raises(DataError, match=r"image has 4 × 5 pixels but depth has 2 × 2 .* make both the same size"):
        augmented({"image": torch.rand(B, 3, 4, 5), "depth": torch.rand(B, 1, 2, 2)}, 0)


def test_validation_batches_become_floats_only():
    batch = {
        "image": torch.full((2, 3, 1, 1), 51, dtype=torch.uint8),
        "classes": torch.zeros(2, 1, 1, dtype=torch.int64),
    }
    out = to_float(batch | {"name": ["a", "b"]})
    assert out["image"].flatten().tolist() == pytest.approx([0.2] * 6)
    assert out["classes"].dtype == torch.int64
    assert "name" not in out


def test_a_seed_says_everything():
    batch = ramps((12, 16))
    a, b, c = (augmented(batch, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["image"], c["image"])


def test_no_other_randomness_is_used():
    before = random.getstate(), np.random.get_state()[1].tolist()
    augmented(ramps((5, 6)), 0)
    state = torch.get_rng_state()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    augmented(ramps((50, 60)), 0, scale=(1, 1), flip=False, color=0.0)  # as many numbers whatever it does
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_precision_changes_nothing():
    batch = ramps((180, 240))
    plain = augmented(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = augmented(batch, 0)
    assert all(torch.equal(plain[key], mixed[key]) for key in plain)


def test_color_is_drawn_for_each_image_and_shared_by_its_views():
    batch = {"image": torch.full((B, 3, 4, 4), 0.5), "right": torch.full((B, 3, 4, 4), 0.5)}
    out = augmented(batch, 0, color=0.4)
    assert torch.equal(out["image"], out["right"])
    levels = out["image"][:, 0, 0, 0]
    assert len(levels.unique()) == B
    assert levels.min() >= 0.3 - 1e-6
    assert levels.max() <= 0.7 + 1e-6
    assert torch.allclose(augmented(batch, 0, color=0.0)["image"], batch["image"], atol=1e-5)


def test_neighbors_do_not_matter():
    batch = ramps((9, 11))
    other = {**batch, "image": torch.cat([batch["image"][:1], torch.rand(B - 1, 3, 9, 11)])}
    assert torch.equal(augmented(batch, 0)["image"][0], augmented(other, 0)["image"][0])


def test_the_batch_given_is_left_alone():
    batch = ramps((7, 8))
    augmented(batch, 0)
    assert all(torch.equal(batch[key], value) for key, value in ramps((7, 8)).items() if key != "name")


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_one_pixel(size):
    batch = {"image": torch.rand(2, 3, *size), "classes": torch.ones(2, *size).long(),
             "classes_valid": torch.ones(2, *size).bool()}  # fmt: skip
    out = augmented(batch, 0)
    assert out["image"].isfinite().all()
    assert out["classes"].shape == (2, *size)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [({"crop": (0, 5)}, "height, width"), ({"scale": (0, 1)}, "0 < smallest"), ({"scale": (2, 1)}, "0 < smallest"),
     ({"scale": (1, float("inf"))}, "0 < smallest"), ({"color": 1.5}, r"strength in \[0, 1\]")],
)  # fmt: skip
def test_ranges(options, remedy):
    with pytest.raises(ValueError, match=remedy):
        Augmentation(**options)


@often
@given(sizes, seeds)
def test_zoomed_threefold_each_pixel_is_nine(size, seed):
    """Pixels are areas: the image's edges go to the window's edges, not its outer pixels' centers."""
    out = augmented(ramps(size), seed, crop=(3 * size[0], 3 * size[1]), scale=(3.0, 3.0), flip=False)
    blocks = ramps(size)[IDS].repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal(out[IDS], blocks)
