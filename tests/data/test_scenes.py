import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from sfumato.data import Scenes
from sfumato.tasks import Depth, Semantic

SIZE = (36, 48)
VIEWS = {"right", "next", "world_from_right", "world_from_next", "texture", "moving"}
SHIFTS = ("disparity", "disparity_right", "flow", "flow_back")
VIEWS |= {f"{key}{mask}" for key in SHIFTS for mask in ("", "_valid", "_occluded")}


def same(one, other, keys):
    for key in keys:
        assert one[key] == other[key] if key == "name" else torch.equal(one[key], other[key]), key


def test_a_sample_holds_what_it_says():
    sample = Scenes(1, SIZE, views=True, novel=True)[0]
    maps = {
        "image": (3, torch.float32), "right": (3, torch.float32), "next": (3, torch.float32),
        "classes": (None, torch.int64), "instances": (None, torch.int64), "novel": (None, torch.bool),
        "depth": (1, torch.float32), "depth_true": (1, torch.float32), "depth_sigma": (1, torch.float32),
        "disparity": (1, torch.float32), "disparity_right": (1, torch.float32),
        "flow": (2, torch.float32), "flow_back": (2, torch.float32), "centers": (2, torch.float32),
        "moving": (None, torch.bool), "texture": (None, torch.int64),
        "class_probs": (8, torch.float32), "inverse_depth": (1, torch.float32),
        **{f"{key}_valid": (None, torch.bool)
           for key in ("classes", "depth", "inverse_depth", "centers", *SHIFTS)},
        **{f"{key}_occluded": (None, torch.bool) for key in SHIFTS},
    }  # fmt: skip
    for key, (channels, dtype) in maps.items():
        assert sample[key].shape == (SIZE if channels is None else (channels, *SIZE)), key
        assert sample[key].dtype == dtype, key
    assert sample["intrinsics"].shape == (3, 3)
    for key in ("world_from_camera", "world_from_right", "world_from_next"):
        assert sample[key].shape == (4, 4)
        rotation = sample[key][:3, :3]
        torch.testing.assert_close(rotation.T @ rotation, torch.eye(3))
        assert torch.linalg.det(rotation) == pytest.approx(1)
    for key in ("image", "right", "next"):
        assert 0 <= sample[key].min() < sample[key].max() <= 1
    assert all(torch.isfinite(value).all() for value in sample.values() if isinstance(value, torch.Tensor))
    assert sample.keys() == {*maps, "name", "intrinsics", "world_from_camera", "world_from_right", "world_from_next"}


def test_a_scene_depends_on_seed_and_index_only():
    scenes = Scenes(4, SIZE, views=True)
    later = [scenes[i] for i in (3, 0, 3)]
    same(later[0], later[2], later[0])
    same(Scenes(100, SIZE, views=True)[3], later[0], later[0])
    assert not torch.equal(later[0]["image"], later[1]["image"])
    assert not torch.equal(Scenes(4, SIZE, seed=1)[3]["image"], later[0]["image"])
    assert later[0]["name"] != later[1]["name"] != Scenes(1, SIZE, seed=1)[0]["name"]


def test_another_process_makes_the_same_scene():
    scenes = Scenes(2, SIZE, novel=True, shift="noise", severity=2)
    (batch,) = DataLoader(scenes, batch_size=2, num_workers=1)
    here = default_collate([scenes[0], scenes[1]])
    same(batch, here, here)


def test_views_only_add():
    plain, more = Scenes(1, SIZE)[0], Scenes(1, SIZE, views=True)[0]
    assert more.keys() - plain.keys() == VIEWS
    same(plain, more, plain)


def test_novel_things_stand_in_the_same_world():
    plain, novel = Scenes(6, SIZE), Scenes(6, SIZE, novel=True)
    seen = 0
    for i in range(6):
        before, after = plain[i], novel[i]
        mask = after["novel"]
        seen += int(mask.sum())
        assert not before["novel"].any()
        assert torch.equal(after["classes_valid"], ~mask)
        assert after["depth_valid"][mask].all()
        assert (after["classes"][mask] == 0).all()
        assert (after["instances"][mask] > before["instances"].max()).all()
        assert (after["depth_true"][0][mask] <= before["depth_true"][0][mask]).logical_or(
            ~before["depth_valid"][mask]).all()  # fmt: skip
        for key in ("depth_true", "depth_sigma", "class_probs"):
            assert torch.equal(after[key][:, ~mask], before[key][:, ~mask])
        assert torch.equal(after["classes"][~mask], before["classes"][~mask])
    assert seen > 6 * 20


def test_every_class_and_instance_occurs():
    samples = [Scenes(30, (24, 32))[i] for i in range(30)]
    assert torch.cat([s["classes"].flatten() for s in samples]).unique().tolist() == list(range(8))
    assert max(int(s["instances"].max()) for s in samples) >= 6
    depth = torch.cat([s["depth_true"][0][s["depth_valid"]] for s in samples])
    assert 1.5 < depth.min() < 4
    assert 30 < depth.max() <= 60
    sky = torch.cat([s["classes"][~s["depth_valid"]] for s in samples])
    assert (sky == 0).all()
    assert all((s["classes"][s["depth_valid"]] != 0).all() for s in samples)


def test_centers_point_at_centroids():
    sample = Scenes(1, SIZE, novel=True)[0]
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    ids = sample["instances"].unique()[1:]
    assert len(ids) > 2
    for instance in ids:
        mask = sample["instances"] == instance
        assert sample["centers_valid"][mask].all()
        for grid, vector in zip((x, y), sample["centers"]):
            torch.testing.assert_close((grid + vector)[mask], grid[mask].float().mean().expand(int(mask.sum())))
    none = sample["instances"] == 0
    assert not sample["centers_valid"][none].any()
    assert (sample["centers"][:, none] == 0).all()


def test_tasks_describe_the_entries():
    scenes = Scenes(1, SIZE)
    classes, depth = scenes.tasks["classes"], scenes.tasks["depth"]
    assert isinstance(classes, Semantic)
    assert isinstance(depth, Depth)
    assert len(classes.names) == scenes[0]["class_probs"].shape[0] == 8
    assert (depth.minimum, depth.unit) == (1.0, "m")
    assert depth.maximum > 60


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_pictures(size):
    sample = Scenes(3, size, views=True, novel=True)[2]
    assert sample["image"].shape == (3, *size)
    assert sample["flow"].shape == (2, *size)
    for kind in ("blur", "fog"):
        assert Scenes(1, size, shift=kind, severity=5)[0]["image"].isfinite().all()


def test_the_same_scene_at_another_size():
    small, large = Scenes(1, (32, 48))[0], Scenes(1, (96, 144))[0]  # the centers of every third pixel coincide
    assert torch.equal(small["class_probs"], large["class_probs"][:, 1::3, 1::3])
    np.testing.assert_allclose(small["depth_true"], large["depth_true"][:, 1::3, 1::3], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0, expected at least 1"),
        ({"count": 1, "size": (0, 4)}, r"size is \(0, 4\), expected \(height, width\)"),
        ({"count": 1, "size": (4,)}, r"size is \(4,\), expected \(height, width\)"),
        ({"count": 1, "seed": -1}, "seed is -1, expected 0 or more"),
        ({"count": 1, "shift": "rain", "severity": 1}, "shift is 'rain', expected one of fog, darkness, blur, noise"),
        ({"count": 1, "shift": "fog"}, "severity is 0, expected 1"),
        ({"count": 1, "shift": "fog", "severity": 6}, "severity is 6, expected 1"),
        ({"count": 1, "severity": 2}, "severity is 2 without a shift"),
        ({"count": 1, "varied": True, "novel": True}, "novel objects are those that other scenes lack"),
        ({"count": 1, "views": ("left",)}, r"views is \('left',\), expected some of right, next, previous"),
        ({"count": 1, "inputs": ("image", "right")}, "expected some of image"),
        ({"count": 1, "views": ("next",), "inputs": ("right",)}, "expected some of image, next"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


@pytest.mark.parametrize("index", [-1, 2])
def test_beyond_the_end(index):
    with pytest.raises(IndexError, match=f"scene {index} of 2: expected 0 to 1"):
        Scenes(2, SIZE)[index]
