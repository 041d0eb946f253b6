"""Instances are found from vectors to their centers."""

import sys

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, MissingDependencyError, NotFiniteError
from sfumato.instances import Instances, PanopticMaps, find_instances
from sfumato.predictions import ClassPrediction, ValuePrediction

SIZE = (96, 128)
THINGS = (1, 2)


def centers(ids):
    """Vectors (2, H, W) from each pixel of an instance to the mean of its pixels; 0 elsewhere."""
    found = torch.zeros(2, *ids.shape)
    for number in ids.unique():
        y, x = (ids == number).nonzero(as_tuple=True)
        if number:
            found[:, y, x] = torch.stack([x.float().mean() - x, y.float().mean() - y])
    return found


def vectors(ids, aleatoric=4.0, epistemic=0.0):
    mean = torch.stack([centers(one) for one in ids])
    return ValuePrediction(mean, torch.full_like(mean, aleatoric), torch.full_like(mean, epistemic), "px")


def classes(label, certainty=0.9, count=3):
    probs = torch.nn.functional.one_hot(label, count).permute(0, 3, 1, 2).float()
    probs = probs * certainty + (1 - probs) * (1 - certainty) / (count - 1)
    return ClassPrediction(probs, torch.zeros(label.shape))


def scene(boxes):
    """ids and labels (1, H, W) of rectangles (top, left, height, width, class)."""
    ids, label = torch.zeros(2, 1, *SIZE, dtype=torch.int64)
    for n, (top, left, height, width, kind) in enumerate(boxes):
        ids[0, top : top + height, left : left + width] = n + 1
        label[0, top : top + height, left : left + width] = kind
    return ids, label


BOXES = [(5, 5, 20, 30, 1), (5, 36, 20, 30, 1), (50, 20, 40, 8, 2), (50, 90, 4, 4, 1)]


def same_partition(found, ids):
    """Whether two maps of ids agree up to their numbers."""
    pairs = torch.stack([found.flatten(), ids.flatten()]).unique(dim=1)
    return pairs.shape[1] == len(found.unique()) == len(ids.unique())


def test_true_vectors_give_the_true_instances():
    ids, label = scene(BOXES)
    (found,) = find_instances(vectors(ids), classes(label), THINGS)
    assert same_partition(found.ids, ids[0])
    assert sorted(found.classes.tolist()) == [1, 1, 1, 2]
    assert torch.allclose(found.scores, torch.full((4,), 0.9))
    assert found.masks.sum((1, 2)).tolist() == [int((found.ids == n).sum()) for n in (1, 2, 3, 4)]
    by_place = {tuple(c) for c in found.centers.tolist()}
    assert by_place == {(19.5, 14.5), (50.5, 14.5), (23.5, 69.5), (91.5, 51.5)}


def test_parts_of_uncertainty_add_up():
    ids, label = scene(BOXES)
    (found,) = find_instances(vectors(ids, 4.0, 0.5), classes(label), THINGS)
    assert torch.allclose(found.aleatoric, torch.tensor(8.0))  # two directions
    assert torch.allclose(found.epistemic, torch.tensor(1.0))
    assert torch.allclose(found.uncertainty, torch.tensor(3.0))


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_noise_leaves_the_instances_as_they_are(noise):
    ids, label = scene(BOXES[:3])
    pointed = vectors(ids)
    pointed.mean.add_(noise * torch.randn(pointed.mean.shape, generator=torch.Generator().manual_seed(0)))
    (found,) = find_instances(pointed, classes(label), THINGS)
    assert same_partition(found.ids, ids[0])


def test_disagreeing_votes_lower_the_score():
    ids, label = scene(BOXES[:1])
    pointed = vectors(ids)
    pointed.mean[0, 1, 5:10, 5:35] += 40  # a quarter of the box points elsewhere, at one dense place
    (found,) = find_instances(pointed, classes(label), THINGS)
    assert len(found) == 2
    pointed.mean[0, :, 5:10, 5:35] = 100 * torch.rand(2, 5, 30, generator=torch.Generator().manual_seed(0))
    (found,) = find_instances(pointed, classes(label), THINGS)
    assert found.scores.item() == pytest.approx(0.9 * 0.75, abs=0.05)


def test_class_is_the_thing_with_the_largest_mean_probability():
    ids, label = scene(BOXES[:1])
    label[0, 5:12, 5:35] = 2  # 7 of 20 rows
    (found,) = find_instances(vectors(ids), classes(label), THINGS)
    assert found.classes.tolist() == [1]
    assert found.scores.item() == pytest.approx((0.9 * 13 + 0.05 * 7) / 20)
    assert (found.paint_labels(label[0]) == scene(BOXES[:1])[1][0]).all()


def test_nothing_to_find():
    ids, label = scene([])
    (found,) = find_instances(vectors(ids), classes(label), THINGS)
    assert len(found) == 0
    assert found.masks.shape == (0, *SIZE)
    assert (found.ids == 0).all()
    assert torch.equal(found.paint_labels(label[0]), label[0])


def test_one_pixel_joins_its_neighbor_or_nothing():
    ids, label = scene([(40, 40, 1, 1, 1)])
    assert len(find_instances(vectors(ids), classes(label), THINGS)[0]) == 0
    ids, label = scene([(40, 40, 1, 1, 1), BOXES[0]])
    (found,) = find_instances(vectors(ids), classes(label), THINGS)
    assert len(found) == 1
    assert found.ids[40, 40] == 1


def test_one_pixel_is_an_instance_where_the_radius_says_so():
    ids, label = scene([(40, 40, 1, 1, 1), (41, 41, 1, 1, 2)])
    (found,) = find_instances(vectors(ids), classes(label), THINGS, radius=1.0)
    assert sorted(found.classes.tolist()) == [1, 2]


def test_vectors_of_nothing_leave_what_hangs_together():
    ids, label = scene(BOXES)
    none = vectors(torch.zeros_like(ids))
    (found,) = find_instances(none, classes(label), THINGS)
    assert same_partition(found.ids, ids[0])
    small = [t[:, :8, :8].contiguous() for t in (ids, label)]
    assert len(find_instances(vectors(0 * small[0]), classes(small[1]), THINGS)[0]) == 1


def test_images_of_a_batch_are_apart():
    ids, label = (torch.cat(both) for both in zip(scene(BOXES), scene([])))
    found = find_instances(vectors(ids), classes(label), THINGS)
    assert [len(image) for image in found] == [4, 0]


def test_on_scenes():
    sample = Scenes(1, SIZE, seed=3)[0]
    ids = sample["instances"][None]
    (found,) = find_instances(vectors(ids), classes(ids.clamp_max(1)), (1,))
    large = [n for n in ids.unique() if n and (ids == n).sum() > 20]
    assert len(large) > 2
    for n in large:
        inside = found.ids[ids[0] == n]
        assert len(inside.unique()) == 1


def test_panoptic_maps_paint_the_class_of_each_instance():
    ids, label = scene(BOXES[:1])
    label[0, 5:12, 5:35] = 2
    found = find_instances(vectors(ids), classes(label), THINGS)
    maps = PanopticMaps.of(found, label)
    assert torch.equal(maps.classes, scene(BOXES[:1])[1])
    assert torch.equal(maps.ids > 0, ids > 0)
    assert (repr(found[0]), repr(maps)) == ("Instances(1 in 96 × 128)", "PanopticMaps(1 × 96 × 128)")
    for wrong in ([], found * 2):
        with pytest.raises(DataError, match="expected the same number"):
            PanopticMaps.of(wrong, label)
    with pytest.raises(DataError, match=r"expected one shape \(B, H, W\)"):
        PanopticMaps(label, ids[:, 1:])


def test_stored_whole(tmp_path):
    ids, label = scene(BOXES)
    (found,) = find_instances(vectors(ids), classes(label), THINGS)
    found.save(tmp_path / "a.safetensors")
    assert torch.equal(Instances.load(tmp_path / "a.safetensors").ids, found.ids)


def test_faults(monkeypatch):
    ids, label = scene(BOXES)
    with pytest.raises(ConfigError, match=r"things are \[3\], expected ids of 3 classes, 0 to 2"):
        find_instances(vectors(ids), classes(label), (3,))
    with pytest.raises(DataError, match=r"expected \(B, 2, H, W\) and \(B, K, H, W\)"):
        find_instances(vectors(ids[:, :9]), classes(label), THINGS)
    with pytest.raises(ConfigError, match="radius is 0, expected more than 0 px"):
        find_instances(vectors(ids), classes(label), THINGS, radius=0)
    broken = vectors(ids)
    broken.mean[0, 0, 6, 6] = torch.nan
    with pytest.raises(NotFiniteError, match="not finite"):
        find_instances(broken, classes(label), THINGS)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sfumato\[instances\]'"):
        find_instances(vectors(ids), classes(label), THINGS)
