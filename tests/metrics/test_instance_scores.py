"""Average precision and uncertainty of instances: by hand, against scipy and scikit-learn, over processes."""

import socket
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from scipy.stats import spearmanr

from sfumato.errors import ConfigError, DataError
from sfumato.instances import Instances, PanopticMaps
from sfumato.metrics import InstanceScores
from sfumato.metrics.instance_scores import average_precision
from sfumato.metrics.ranking import spearman, spearman_of_values

K, THINGS = 4, (2, 3)


def instances(ids, classes, scores, spread=None, centers=None):
    ids, n = torch.as_tensor(ids), len(classes)
    spread = torch.ones(n) if spread is None else torch.tensor(spread)
    centers = torch.zeros(n, 2) if centers is None else torch.tensor(centers)
    return Instances(ids, torch.tensor(classes), torch.tensor(scores), centers, spread.square(), torch.zeros(n))


def scored(*images):
    scores = InstanceScores(K, THINGS)
    for found, *image in images:
        kind, ids, valid = (torch.as_tensor(part)[None] for part in image)
        scores.update([found], PanopticMaps(kind, ids), valid)
    return scores


KIND = torch.tensor([[2, 2, 2, 2, 0, 2, 2, 3]])
TRUTH = torch.tensor([[1, 1, 1, 1, 0, 2, 2, 3]])


def test_by_hand():
    # Thing 1 is found with IoU 3/4; 4, of 1 pixel beside a thing of 2, has IoU ½ and no match; 3 is called class 2.
    found = instances([[1, 1, 1, 0, 0, 2, 0, 3]], [2, 2, 2], [0.9, 0.8, 0.7], centers=[[1, 0], [5, 0], [7, 0]])
    scores = scored((found, KIND, TRUTH, KIND >= 0))
    by_class, found = scores.per_class(), scores.compute()
    assert by_class["instances"].tolist() == [0, 0, 2, 1]
    # Class 2: one hit of two, first in rank: recalls up to ½ have precision 1. Class 3: none.
    assert by_class["ap50"].tolist() == pytest.approx([float("nan")] * 2 + [51 / 101, 0], nan_ok=True)
    # IoU 0.75 is above 0.5, 0.55, 0.6, 0.65 and 0.7.
    assert float(by_class["ap"][2]) == pytest.approx(51 / 101 / 2)
    assert float(found["ap50"]) == pytest.approx(51 / 202)
    # Centroids at 1.5, 5.5 and 7.
    assert float(found["center_error"]) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert (int(found["predicted_instances"]), int(found["instances"])) == (3, 3)


def test_truth_is_perfect():
    found = instances(TRUTH, [2, 2, 3], [0.9, 0.5, 0.1], centers=[[1.5, 0], [5.5, 0], [7, 0]])
    scores = scored((found, KIND, TRUTH, KIND >= 0)).compute()
    assert float(scores["ap"]) == 1
    assert float(scores["center_error"]) == 0


def test_a_false_positive_counts_by_its_rank():
    false = [[1, 1, 1, 1, 3, 2, 2, 0]]
    last = scored((instances(false, [2, 2, 2], [0.9, 0.8, 0.1]), KIND, TRUTH, KIND >= 0)).per_class()
    first = scored((instances(false, [2, 2, 2], [0.8, 0.7, 0.9]), KIND, TRUTH, KIND >= 0)).per_class()
    assert float(last["ap50"][2]) == 1
    assert float(first["ap50"][2]) == pytest.approx(2 / 3)


def test_instances_on_void_and_crowds_are_ignored():
    found = instances([[1, 1, 1, 1, 2, 2, 2, 0]], [2, 2], [0.5, 0.9])
    on_void = scored((found, KIND, TRUTH.where(TRUTH == 1, 0), torch.tensor([[True] * 4 + [False] * 3 + [True]])))
    on_crowd = scored((found, KIND, TRUTH.where(TRUTH == 1, 0), KIND >= 0))
    for scores in (on_void, on_crowd):
        assert float(scores.per_class()["ap50"][2]) == 1
        assert int(scores.compute()["predicted_instances"]) == 1


def test_average_precision_against_101_points_one_by_one():
    generator = torch.Generator().manual_seed(0)
    score, hit, truths = torch.rand(40, generator=generator), torch.rand(40, generator=generator) < 0.6, 30
    order = score.argsort(descending=True).tolist()
    points, hits = [], 0
    for n, i in enumerate(order, 1):
        hits += bool(hit[i])
        points.append((hits / truths, hits / n))
    expected = sum(max([p for r, p in points if r >= level / 100], default=0.0) for level in range(101)) / 101
    assert float(average_precision(score, hit, truths)) == pytest.approx(expected)
    assert float(average_precision(score[:0], hit[:0], 3)) == 0


def test_order_of_equal_scores_changes_nothing():
    score, hit = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([True, False, True])
    assert average_precision(score, hit, 2) == average_precision(score, hit.flip(0), 2) == pytest.approx(2 / 3)


def test_spearman_against_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 9, (2, 50), generator=generator).double()
    assert float(spearman_of_values(a, b + a)) == pytest.approx(spearmanr(a, b + a).statistic)
    assert spearman_of_values(a, torch.ones(50)).isnan()
    pairs = torch.zeros(9, 9).index_put_((a.long(), b.long()), torch.ones(50), accumulate=True)
    assert float(spearman(pairs)) == pytest.approx(spearmanr(a, b).statistic)


def test_uncertainty_that_knows_the_error():
    ids = torch.arange(1, 7).repeat_interleave(2)[None]
    kind = torch.full_like(ids, 2)
    centers = [[2 * n + 0.5 + off, 0] for n, off in enumerate((0.0, 0.1, 0.2, 0.4, 0.8, 1.6))]
    known, wrong = ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.6, 0.5, 0.4, 0.3, 0.2, 0.1))
    good, bad = (
        scored((instances(ids, [2] * 6, [0.9] * 6, spread, centers), kind, ids, kind >= 0)).compute()
        for spread in (known, wrong)
    )
    assert float(good["center_spearman"]) == pytest.approx(1)
    assert float(good["center_ause"]) == pytest.approx(0, abs=1e-7)
    assert float(bad["center_spearman"]) == pytest.approx(-1)
    assert float(bad["center_ause"]) > 0.1
    assert good["iou_spearman"].isnan()


def test_nothing_found_and_nothing_there():
    none = instances(torch.zeros(1, 8, dtype=torch.int64), [], [], centers=torch.zeros(0, 2).tolist())
    none = Instances(none.ids, none.classes.long(), none.scores, torch.zeros(0, 2), none.aleatoric, none.epistemic)
    missed = scored((none, KIND, TRUTH, KIND >= 0)).compute()
    assert float(missed["ap"]) == 0
    assert missed["center_error"].isnan()
    empty = scored((none, KIND, TRUTH, KIND < 0)).compute()
    assert empty["ap"].isnan()


def test_faults():
    found = instances(TRUTH, [2, 2, 3], [0.9, 0.5, 0.1])
    scores = InstanceScores(K, THINGS)
    with pytest.raises(DataError, match="instances of 1 images but targets of 2"):
        scores.update([found], PanopticMaps(*(t.expand(2, 1, 8) for t in (KIND, TRUTH))), KIND.expand(2, 1, 8) >= 0)
    with pytest.raises(DataError, match=r"expected one shape \(B, H, W\)"):
        scores.update([found], PanopticMaps(KIND[None, :, :4], TRUTH[None, :, :4]), KIND[None, :, :4] >= 0)
    with pytest.raises(ConfigError, match=r"things are \[-1\]"):
        InstanceScores(K, (-1,))


# Two processes


def images(n=5):
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(n):
        ids = torch.randint(0, 4, (3, 4), generator=generator).repeat_interleave(3, 0).repeat_interleave(4, 1)
        found = ids.roll(1, 1)
        numbers = found.unique()
        found = torch.searchsorted(numbers[numbers > 0], found, right=True).where(found > 0, 0)
        count = int((numbers > 0).sum())
        kind = (ids + 1).clamp_max(3)
        guess = instances(found, [2] * count, torch.rand(count, generator=generator).tolist(),
                          torch.rand(count, generator=generator).tolist(), [[1.0, 2.0]] * count)  # fmt: skip
        out.append((guess, kind, ids, kind >= 0))
    return out


SHARES = {"uneven": ([0, 1, 2], [3, 4]), "none for one": ([0, 1, 2, 3, 4], [])}


def share(rank, port, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    for name, shares in SHARES.items():
        scores = scored(*(images()[i] for i in shares[rank]))
        with nullcontext() if shares[rank] else pytest.warns(UserWarning, match="before the ``update``"):
            torch.save((scores.compute(), scores.per_class()), folder / f"{name} {rank}")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(share, (port, tmp_path), nprocs=2)
    single = scored(*images())
    assert 0 < float(single.compute()["ap"]) < 1
    for file in tmp_path.iterdir():
        found, by_class = torch.load(file)
        torch.testing.assert_close(found, single.compute(), rtol=1e-12, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(by_class, single.per_class(), rtol=1e-12, atol=1e-12, equal_nan=True)
