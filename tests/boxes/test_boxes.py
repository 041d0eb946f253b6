"""Boxes: decoded from maps, fused, matched, calibrated and bounded, against closed forms and simulation."""

import json
import sys

import pytest
import torch

from sfumato.boxes import (
    FUSIONS,
    BoxBounds,
    BoxCalibrator,
    Boxes,
    coco_document,
    find_boxes,
    fuse_detections,
    iou,
    match_boxes,
)
from sfumato.boxes.calibrate import edge_errors, needed_factors
from sfumato.boxes.fuse import clusters, fuse
from sfumato.data import box_entries
from sfumato.errors import ConfigError, DataError, MissingDependencyError, NotFiniteError
from sfumato.predictions import ClassPrediction, ValuePrediction

SIZE = (48, 64)


def maps(boxes, variance=4.0, epistemic=1.0, sure=0.9):
    """Predictions that know the boxes (N, 6)."""
    entries = box_entries(boxes, SIZE)
    count = 1 + int(boxes[:, 4].max()) + 1
    probs = torch.nn.functional.one_hot(entries["objects"], count).movedim(-1, 0)[None].float()
    probs = probs * sure + (1 - probs) * (1 - sure) / (count - 1)
    mean = entries["distances"][None]
    spread = torch.full_like(mean, variance), torch.full_like(mean, epistemic)
    return ClassPrediction(probs, torch.zeros(1, *SIZE)), ValuePrediction(mean, *spread, "px")


def made(edges, score=0.8, variance=4.0, classes=2, kind=0):
    edges = torch.as_tensor(edges, dtype=torch.float32).reshape(-1, 4)
    n = len(edges)
    probs = torch.full((n, classes), 0.05)
    probs[:, kind] = torch.as_tensor(score)
    return Boxes(edges, probs, variance * torch.eye(4).repeat(n, 1, 1), torch.zeros(n, 4, 4), torch.ones(n).long())


TRUE = torch.tensor([[8.0, 8, 24, 24, 0, 0], [30, 10, 54, 40, 1, 0]])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_exact_maps_give_the_boxes(fusion):
    (found,) = find_boxes(*maps(TRUE), fusion=fusion)
    assert len(found) == 2
    order = found.edges[:, 0].argsort()
    assert torch.allclose(found.edges[order], TRUE[:, :4], atol=1e-3)
    assert found.classes[order].tolist() == [0, 1]
    assert torch.allclose(found.scores, torch.full((2,), 0.9), atol=1e-5)
    assert (found.votes > 1).all()


def test_covariance_of_equal_members():
    """Equal members: intersection keeps the covariance, Bayes divides it by their number; both keep the shares."""
    count = 9
    one = made([[0, 0, 10, 10]] * count, variance=3.0)
    both = Boxes(one.edges, one.probs, one.aleatoric, torch.eye(4).repeat(count, 1, 1), one.votes)
    owner = torch.zeros(count, dtype=torch.int64)
    kept, divided = (fuse(both, owner, fusion) for fusion in ("intersection", "bayes"))
    assert torch.allclose(kept.covariance, 4 * torch.eye(4)[None], atol=1e-3)
    assert torch.allclose(divided.covariance, 4 / count * torch.eye(4)[None], atol=1e-3)
    for each in (kept, divided):
        assert torch.allclose(each.aleatoric, 0.75 * each.covariance, atol=1e-3)
        assert each.votes.tolist() == [count]


def test_bayes_is_the_product_of_gaussians():
    one = made([[0, 0, 10, 10], [2, 0, 10, 10]])
    two = Boxes(one.edges, one.probs, torch.stack([torch.eye(4), 3 * torch.eye(4)]), one.epistemic, one.votes)
    found = fuse(two, torch.zeros(2, dtype=torch.int64), "bayes")
    assert found.edges[0, 0].item() == pytest.approx((0 / 1 + 2 / 3) / (1 + 1 / 3), abs=1e-3)
    assert found.covariance[0, 0, 0].item() == pytest.approx(1 / (1 + 1 / 3), abs=1e-3)


def test_correlated_distances_become_correlated_edges():
    """Left and right distance with correlation ρ: the edges have −ρ, because left = x − distance."""
    objects, distances = maps(TRUE[:1], epistemic=0.0)
    correlation = torch.zeros(1, 6, *SIZE)
    correlation[:, 1] = 0.5  # of left and right
    full = ValuePrediction(distances.mean, distances.aleatoric_variance, distances.epistemic_variance,
                           aleatoric_correlation=correlation, epistemic_correlation=0 * correlation)  # fmt: skip
    (found,) = find_boxes(objects, full)
    assert found.covariance[0, 0, 2].item() == pytest.approx(-2.0, abs=1e-3)


def test_clusters_are_those_of_non_maximum_suppression():
    torch.manual_seed(0)
    corner = 40 * torch.rand(60, 2)
    edges, scores = torch.cat([corner, corner + 5 + 10 * torch.rand(60, 2)], 1), torch.rand(60)
    owner = clusters(edges, scores, 0.4, 100)
    kept = []
    for n in scores.argsort(descending=True).tolist():
        if all(iou(edges[n : n + 1], edges[k : k + 1]).item() < 0.4 for k in kept):
            kept.append(n)
    assert int(owner.max()) + 1 == len(kept)
    assert owner[kept].tolist() == list(range(len(kept)))
    assert (clusters(edges, scores, 0.4, 3) == -1).any()


def test_nothing_is_found_where_nothing_is():
    objects, distances = maps(TRUE)
    empty = ClassPrediction(torch.cat([torch.ones(1, 1, *SIZE), torch.zeros(1, 2, *SIZE)], 1), torch.zeros(1, *SIZE))
    (found,) = find_boxes(empty, distances)
    assert len(found) == 0
    assert coco_document(found, "a", SIZE, ("x", "y"))["annotations"] == []
    assert len(find_boxes(objects, distances, limit=1)[0]) == 1


def test_thousands_of_proposals_are_limited():
    """Random maps at every pixel: no more boxes than the limit, and all numbers finite."""
    torch.manual_seed(0)
    size = (200, 200)
    objects = ClassPrediction(torch.rand(1, 3, *size).softmax(1), torch.zeros(1, *size))
    distances = ValuePrediction(3 * torch.rand(1, 4, *size), torch.ones(1, 4, *size), torch.zeros(1, 4, *size))
    (found,) = find_boxes(objects, distances)
    assert len(found) == 300
    assert found.covariance.isfinite().all()


def test_wrong_arguments():
    objects, distances = maps(TRUE)
    with pytest.raises(ConfigError, match="fusion is 'vote'"):
        find_boxes(objects, distances, fusion="vote")
    with pytest.raises(ConfigError, match="threshold 0"):
        find_boxes(objects, distances, threshold=0)
    with pytest.raises(DataError, match="expected"):
        find_boxes(objects, ValuePrediction(*[torch.zeros(1, 2, *SIZE)] * 3))
    bad = ValuePrediction(distances.mean * torch.nan, distances.aleatoric_variance, distances.epistemic_variance)
    with pytest.raises(NotFiniteError, match="not finite"):
        find_boxes(objects, bad)
    with pytest.raises(DataError, match="aleatoric of 1 boxes"):
        Boxes(torch.zeros(1, 4), torch.zeros(1, 2), torch.zeros(1, 4), torch.zeros(1, 4, 4), torch.ones(1))


def test_kinds_of_predicted_boxes():
    """By hand: IoU 1 and 1 with the first box, 1/3 with the second, none, and one on a crowd."""
    true = torch.tensor([[0.0, 0, 10, 10, 0, 0], [20, 0, 30, 10, 0, 0], [50, 0, 60, 10, 0, 1]])
    edges = [[0, 0, 10, 10], [0, 0, 10, 10], [25, 0, 35, 10], [40, 30, 45, 35], [52, 0, 58, 10]]
    found = made(edges, score=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]))
    same = match_boxes(found, true)
    assert same.kind.tolist() == [0, 1, 2, 3, 4]
    assert same.partner.tolist() == [0, 0, 1, -1, -1]
    assert same.iou.tolist() == pytest.approx([1, 1, 1 / 3, 0, 0])
    assert match_boxes(made(edges, kind=1), true, by_class=True).kind.tolist() == [3, 3, 3, 3, 4]
    assert len(match_boxes(Boxes.none(2), true).kind) == 0
    assert match_boxes(found, torch.zeros(0, 6)).kind.tolist() == [3] * 5


def test_bounds_enclose():
    inner, outer = made([[10, 10, 20, 30]], variance=4.0).bounds(1.5)
    assert inner[0].tolist() == [13, 13, 17, 27]
    assert outer[0].tolist() == [7, 7, 23, 33]
    inner, _ = made([[10, 10, 20, 30]], variance=4.0).bounds(9)
    assert inner[0, [0, 2]].tolist() == [15, 15]  # edges do not cross


def simulated(images, seed, factor=2.0, score=0.8):
    """Images whose errors are ``factor`` times as large as predicted, and whose boxes are true with probability ½."""
    generator = torch.Generator().manual_seed(seed)
    held = []
    for _ in range(images):
        corner = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]])
        true = torch.cat([corner, corner + 40], 1)
        edges = true + factor * torch.randn(4, 4, generator=generator)
        edges[2:] += 1000  # two of four are nowhere
        held.append((made(edges, score, variance=1.0), torch.cat([true, torch.zeros(4, 2)], 1)))
    return held


@pytest.mark.parametrize("kind", ["isotonic", "linear"])
def test_calibration_corrects_scores_and_deviations(kind):
    calibrator = BoxCalibrator.fit(simulated(60, 0), 2, kind)
    errors, scores, stds = [], [], []
    for found, true in simulated(60, 1):
        after = calibrator(found)
        hit = match_boxes(after, true).kind == 0
        errors.append(edge_errors(after, true)[hit])
        stds.append(after.std[hit])
        scores.append(after.scores)
    assert torch.cat(stds).mean().item() == pytest.approx(2.0, rel=0.1)
    assert torch.cat(errors).std().item() == pytest.approx(2.0, rel=0.1)
    assert torch.cat(scores).mean().item() == pytest.approx(0.43, abs=0.05)  # half of them have an IoU of about 0.87


def test_calibration_needs_boxes(monkeypatch):
    with pytest.raises(DataError, match="expected at least 20"):
        BoxCalibrator.fit(simulated(2, 0), 2)
    with pytest.raises(ConfigError, match="isotonic, linear"):
        BoxCalibrator.fit(simulated(20, 0), 2, "magic")
    monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
    with pytest.raises(MissingDependencyError, match=r"sfumato\[detection\]"):
        BoxCalibrator.fit(simulated(20, 0), 2)


def test_bounds_keep_their_level_over_images():
    """The mean share of enclosed boxes over many repetitions is at least the level, and not much more."""
    shares = []
    for seed in range(40):
        bounds = BoxBounds.fit(simulated(40, seed), 0.8)
        tested = simulated(40, 1000 + seed)
        shares += [(needed_factors(*each) <= bounds.factor).double().mean() for each in tested]
    mean = torch.stack(shares).mean().item()
    assert 0.79 < mean < 0.87


def test_bounds_need_images_and_boxes():
    with pytest.raises(DataError, match="too few"):
        BoxBounds.fit(simulated(5, 0), 0.9)
    with pytest.raises(DataError, match="no true box is found"):
        BoxBounds.fit([(Boxes.none(2), TRUE)] * 20, 0.9)
    with pytest.raises(ConfigError, match="level"):
        BoxBounds.fit(simulated(5, 0), 1.5)


def test_members_of_an_ensemble():
    """One object that all three members found, one that a single member found."""

    def member(left, more=()):
        edges = [[left, 0.0, 10, 10], *more]
        return {"boxes": torch.tensor(edges), "scores": torch.full((len(edges),), 0.9),
                "labels": torch.full((len(edges),), 2)}  # fmt: skip

    found = fuse_detections([member(0.0), member(1.0, [[40.0, 40, 50, 50]]), member(2.0)], classes=3)
    assert found.votes.tolist() == [3, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.classes.tolist() == [1, 1]
    assert found.epistemic[0, 0, 0].item() == pytest.approx(2 / 3)
    assert (
        len(fuse_detections([{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}], 3)) == 0
    )


def test_wrong_detections():
    good = {"boxes": torch.zeros(1, 4), "scores": torch.ones(1), "labels": torch.ones(1)}
    for change, message in (
        ({"labels": torch.tensor([9])}, "label 9, expected 1 to 3"),
        ({"scores": torch.tensor([2.0])}, "outside of"),
        ({"boxes": torch.full((1, 4), torch.nan)}, "NaN"),
        ({"boxes": torch.zeros(2, 4)}, "shape"),
        ({"scores": None}, "no tensor 'scores'"),
    ):
        with pytest.raises(DataError, match=message):
            fuse_detections([good, {**good, **change}], 3)
    with pytest.raises(DataError, match="no member"):
        fuse_detections([], 3)


def test_document_is_coco(tmp_path):
    """faster-coco-eval reads it, and the score of the boxes against themselves is 1."""
    from faster_coco_eval import COCO, COCOeval_faster

    (found,) = find_boxes(*maps(TRUE))
    document = json.loads(json.dumps(coco_document(found, "a.png", SIZE, ("x", "y"), found.bounds(2))))
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    truth = COCO(str(tmp_path / "boxes.json"))
    judge = COCOeval_faster(truth, truth.loadRes(document["annotations"]), "bbox", print_function=lambda *_: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)
    first = document["annotations"][0]
    assert torch.tensor(first["covariance"]).shape == (4, 4)
    assert first["inner"][0] > first["edges"][0] > first["outer"][0]


def test_stored_and_read(tmp_path):
    (found,) = find_boxes(*maps(TRUE))
    found.save(tmp_path / "boxes.safetensors")
    assert torch.equal(Boxes.load(tmp_path / "boxes.safetensors").edges, found.edges)
    calibrator = BoxCalibrator.fit(simulated(20, 0), 2)
    calibrator.save(tmp_path / "c.safetensors")
    assert torch.equal(BoxCalibrator.load(tmp_path / "c.safetensors")(found).scores, calibrator(found).scores)


def test_an_unsure_neighbor_does_not_make_an_object_less_probable():
    """Existence of the surest member, divided among classes as the members do on average: by hand."""
    one = made([[0, 0, 10, 10], [0, 0, 10, 10]])
    probs = torch.tensor([[0.8, 0.1], [0.2, 0.2]])
    two = Boxes(one.edges, probs, one.aleatoric, one.epistemic, one.votes)
    found = fuse(two, torch.zeros(2, dtype=torch.int64), "intersection")
    mean = (0.8 * probs[0] + 0.2 * probs[1]) / 1.0
    assert torch.allclose(found.probs[0], 0.9 * mean / mean.sum())
