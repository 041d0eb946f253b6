"""Panoptic quality: by hand, and against a second computation from the paper's formula with sets of pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import ConfigError, DataError
from sfumato.instances import PanopticMaps
from sfumato.metrics import PanopticScores

K, THINGS = 4, (2, 3)


def scored(*images, classes=K, things=THINGS):
    scores = PanopticScores(classes, things)
    for image in images:
        update(scores, *(torch.as_tensor(part)[None] for part in image))
    return scores


def update(scores, label, ids, kind, truth, valid):
    scores.update(PanopticMaps(label, ids), PanopticMaps(kind, truth), valid)


def everywhere(*rows):
    return torch.tensor(rows)


def test_by_hand():
    # Stuff 0 above, and two things of class 2 below; the second is cut in two by the prediction.
    kind = everywhere([0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2])
    truth = everywhere([0, 0, 0, 0, 0, 0], [1, 1, 2, 2, 2, 2])
    label = everywhere([0, 0, 0, 0, 0, 1], [2, 2, 2, 2, 2, 2])
    ids = everywhere([0, 0, 0, 0, 0, 0], [5, 5, 6, 6, 6, 7])
    scores = scored((label, ids, kind, truth, kind >= 0))
    found, classes = scores.compute(), scores.per_class()
    # Class 0: IoU 5/6. Class 1: one false positive. Class 2: IoU 1 and 3/4, one false positive.
    assert classes["pq"].tolist() == pytest.approx([5 / 6, 0, 1.75 / 2.5, float("nan")], nan_ok=True)
    assert classes["sq"].tolist() == pytest.approx([5 / 6, 0, 1.75 / 2, float("nan")], nan_ok=True)
    assert classes["rq"].tolist() == pytest.approx([1, 0, 2 / 2.5, float("nan")], nan_ok=True)
    assert float(found["pq"]) == pytest.approx((5 / 6 + 0 + 0.7) / 3)
    assert float(found["pq_things"]) == pytest.approx(0.7)
    assert float(found["pq_stuff"]) == pytest.approx(5 / 12)


def test_truth_is_perfect():
    kind, truth = everywhere([0, 2, 2, 3]), everywhere([0, 1, 2, 3])
    found = scored((kind, truth, kind, truth, kind >= 0)).compute()
    assert [float(found[name]) for name in ("pq", "sq", "rq", "pq_things", "pq_stuff")] == [1] * 5


def test_half_is_no_match():
    kind, truth = everywhere([2, 2, 2, 2]), everywhere([1, 1, 1, 1])
    half = scored((everywhere([2, 2, 0, 0]), everywhere([1, 1, 0, 0]), kind, truth, kind >= 0))
    assert float(half.per_class()["pq"][2]) == 0


def test_void_is_not_part_of_the_union_and_is_ignored():
    # 3 of 5 predicted pixels on the thing, 2 on void: IoU 1. Another prediction, 2 of 3 on void, is no false positive.
    kind, truth = everywhere([2, 2, 2, 0, 0, 0, 0, 0]), everywhere([1, 1, 1, 0, 0, 0, 0, 0])
    valid = everywhere([True, True, True, False, False, False, False, True])
    label, ids = everywhere([2, 2, 2, 2, 2, 2, 2, 2]), everywhere([1, 1, 1, 1, 1, 2, 2, 2])
    assert scored((label, ids, kind, truth, valid)).per_class()["pq"].tolist()[2] == 1
    ids = everywhere([1, 1, 1, 1, 1, 2, 2, 2])
    valid = everywhere([True, True, True, False, False, False, True, True])  # now 1 of 3: a false positive
    assert scored((label, ids, kind, truth, valid)).per_class()["rq"].tolist()[2] == pytest.approx(1 / 1.5)


def test_a_crowd_is_neither_missed_nor_matched_and_predictions_on_it_are_ignored():
    kind, truth = everywhere([2, 2, 2, 2, 0]), everywhere([0, 0, 0, 0, 0])
    apart = everywhere([1, 1, 2, 2, 0])
    right = scored((everywhere([2, 2, 2, 2, 0]), apart, kind, truth, kind >= 0)).per_class()
    assert right["pq"].isnan().tolist() == [False, True, True, True]
    wrong = scored((everywhere([3, 3, 3, 3, 0]), apart, kind, truth, kind >= 0)).per_class()
    assert wrong["pq"].tolist()[3] == 0


def test_content_of_void_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    image = [torch.randint(0, n, (8, 8), generator=generator) for n in (K, 3, K, 3)]
    valid = torch.rand(8, 8, generator=generator) < 0.6
    other = [image[0], image[1], image[2].where(valid, 255), image[3].where(valid, -1)]
    assert same(scored((*image, valid)).compute(), scored((*other, valid)).compute())


def test_images_processes_and_batches():
    generator = torch.Generator().manual_seed(1)
    images = [[torch.randint(0, n, (6, 6), generator=generator) for n in (K, 3, K, 3)] for _ in range(4)]
    images = [(*image, image[0] >= 0) for image in images]
    single = scored(*images)
    together = PanopticScores(K, THINGS)
    update(together, *(torch.stack(parts) for parts in zip(*images)))
    assert same(single.compute(), together.compute())
    assert single.per_image()["pq"].shape == (4,)
    low, high = single.intervals()["pq"]
    assert low <= high


def same(a, b):
    return all(torch.allclose(a[k].double(), b[k].double(), equal_nan=True) for k in a)


def test_nothing_at_all():
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    void = scored((zeros, zeros, zeros, zeros, zeros > 0)).compute()
    assert void["pq"].isnan()


def test_one_id_in_two_places_is_one_thing():
    kind, truth = everywhere([2, 2, 0, 2, 2]), everywhere([1, 1, 0, 1, 1])
    assert scored((kind, truth, kind, truth, kind >= 0)).per_class()["segments"].tolist() == [1, 0, 1, 0]


def test_faults():
    a = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"things are \[4\], expected ids of 4 classes"):
        PanopticScores(4, (4,))
    with pytest.raises(DataError, match=r"expected one shape \(B, H, W\)"):
        update(PanopticScores(K, THINGS), a[:, :1], a[:, :1], a, a, a == 0)
    with pytest.raises(DataError, match="predicted class from 4 to 4, expected 0 to 3"):
        update(PanopticScores(K, THINGS), a + 4, a, a, a, a == 0)
    with pytest.raises(DataError, match="true ids of instances"):
        update(PanopticScores(K, THINGS), a, a, a, a - 1, a == 0)
    with pytest.raises(DataError, match=r"expected torch.bool \(1, 2, 2\), the size of the target"):
        update(PanopticScores(K, THINGS), a, a, a, a, a)


def test_a_task_gives_the_classes():
    class Task:
        names = ("road", "sky", "car")

    scores = PanopticScores.for_task(Task(), (2,))
    assert (scores.classes, scores.things, scores.target) == (3, (2,), "instances")


# A second computation, from the paper: segments as sets of pixels, each pair looked at.


def reference(label, ids, kind, truth, valid):
    """(tp, fp, fn, Σ IoU) by class."""
    pixels = range(label.numel())
    label, ids, kind, truth, valid = (t.flatten().tolist() for t in (label, ids, kind, truth, valid))
    void = {p for p in pixels if not valid[p]}

    def parts(classes, owners, here):
        things, rest, out = {}, {c: set() for c in range(K)}, []
        for p in here:
            (things.setdefault(owners[p], set()) if owners[p] else rest[classes[p]]).add(p)
        for members in things.values():
            held = [sum(classes[p] == c for p in members) for c in range(K)]
            c = held.index(max(held))
            out += [(c, members)] if c in THINGS else []
            rest[c] |= set() if c in THINGS else members
        out += [(c, rest[c]) for c in range(K) if c not in THINGS and rest[c]]
        return out, {c: rest[c] for c in THINGS}

    found, _ = parts(label, ids, pixels)
    true, crowds = parts(kind, truth, [p for p in pixels if valid[p]])
    out, matched = {c: [0, 0, 0, 0.0] for c in range(K)}, set()
    for c, members in found:
        best = 0
        for i, (d, others) in enumerate(true):
            iou = len(members & others) / len((members - void) | others)
            if c == d and iou > 0.5:
                best, out[c][0], out[c][3] = 1, out[c][0] + 1, out[c][3] + iou
                matched.add(i)
        ignored = len(members & (void | crowds.get(c, set()))) / len(members)
        out[c][1] += not best and ignored <= 0.5
    for i, (d, _) in enumerate(true):
        out[d][2] += i not in matched
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.6), st.floats(0, 0.9))
def test_against_sets_of_pixels(seed, noise, void):
    generator = torch.Generator().manual_seed(seed)

    def blocks(high):
        return torch.randint(0, high, (4, 4), generator=generator).repeat_interleave(2, 0).repeat_interleave(3, 1)

    kind, truth = blocks(K), blocks(4)
    swap = torch.rand(kind.shape, generator=generator) < noise
    label, ids = blocks(K).where(swap, kind), blocks(4).where(swap, truth)
    valid = torch.rand(kind.shape, generator=generator) >= void
    found = scored((label, ids, kind, truth, valid)).per_class()
    for c, (true, extra, missed, overlap) in reference(label, ids, kind, truth, valid).items():
        if true + extra + missed:
            expected = overlap / (true + extra / 2 + missed / 2)
            assert float(found["pq"][c]) == pytest.approx(expected, abs=1e-12)
            assert float(found["rq"][c]) == pytest.approx(true / (true + extra / 2 + missed / 2))
        else:
            assert found["pq"][c].isnan()
