"""Class scores against scikit-learn, torchmetrics and hand cases, and what must not change them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from sfumato.metrics import ClassScores
from sfumato.predictions import ClassMoments, ClassPrediction, entropy


def scene(seed=0, images=3, classes=5, size=(24, 20), draws=4):
    """A prediction that knows something, its targets, and a mask with holes."""
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (images, *size), generator=random)
    hint = (
        4 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1) * torch.rand(images, 1, *size, generator=random)
    )
    moments = [
        ClassMoments.of((hint + 1.5 * torch.randn(hint.shape, generator=random)).softmax(1)) for _ in range(draws)
    ]
    folded = moments[0]
    for more in moments[1:]:
        folded = folded.merge(more)
    return folded.prediction(), target, torch.rand(target.shape, generator=random) < 0.8


def scored(classes, *updates):
    scores = ClassScores(classes)
    for update in updates:
        scores.update(*update)
    return scores


def part(prediction, images):
    return ClassPrediction(prediction.probs[images], prediction.aleatoric[images], prediction.draws)


def same(first, second, tolerance=1e-12):
    assert list(first) == list(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


def test_scores_agree_with_other_libraries():
    prediction, target, valid = scene()
    found = scored(5, (prediction, target, valid)).compute()
    probs, y = prediction.probs.movedim(1, -1)[valid], target[valid]
    label, rows = probs.argmax(1), torch.arange(len(y))
    wrong = label != y
    one_hot = torch.nn.functional.one_hot(y, 5)
    expected = {
        "miou": multiclass_jaccard_index(label, y, 5),
        "f1": multiclass_f1_score(label, y, 5),
        "accuracy": (~wrong).double().mean(),
        "class_accuracy": torch.stack([(~wrong)[y == k].double().mean() for k in range(5)]).mean(),
        "nll": -probs[rows, y].log().mean(),
        "brier": (probs - one_hot).square().sum(1).mean(),
        "error_auroc": roc_auc_score(wrong, entropy(probs, 1)),
        "error_auroc_aleatoric": roc_auc_score(wrong, prediction.aleatoric[valid]),
        "error_auroc_epistemic": roc_auc_score(wrong, prediction.epistemic[valid]),
        "error_auroc_confidence": roc_auc_score(wrong, -probs.amax(1)),
        "pixels": valid.sum(),
        "absent_classes": 0,
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(float(value), abs=5e-4 if "auroc" in name else 1e-6), name


def test_four_pixels_by_hand():
    probs = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.25, 0.0, 0.0], [0.0, 0.25, 0.0, 0.0]]).view(1, 3, 2, 2)
    target = torch.tensor([[[0, 1], [0, 1]]])
    found = scored(
        3, (ClassPrediction(probs, entropy(probs)), target, torch.tensor([[[1, 1], [1, 0]]]).bool())
    ).compute()
    assert found["accuracy"].item() == pytest.approx(2 / 3)
    assert found["miou"].item() == pytest.approx((2 / 3 + 0) / 2)  # class 2 is neither there nor predicted
    assert found["absent_classes"].item() == 1
    assert found["nll"].item() == pytest.approx((torch.tensor(2.0).log() + torch.tensor(4.0).log()).item() / 3)
    assert found["brier"].item() == pytest.approx((0.5 + (0.25 + 0.5625 + 0.0625) + 0) / 3)
    assert found["ece"].item() == pytest.approx(0)  # the two half-sure pixels are right once, the sure one is right
    assert found["error_auroc"].item() == 1


def test_headline_comes_first_and_every_score_is_a_scalar():
    scores = scored(5, scene())
    found = scores.compute()
    assert tuple(found)[: len(scores.headline)] == scores.headline
    assert all(value.ndim == 0 for value in found.values())


@settings(deadline=None, max_examples=5)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_batch_size_and_order_change_nothing(order, batch):
    prediction, target, valid = scene(1, images=4)
    together = scored(5, (prediction, target, valid))
    parts = [order[i : i + batch] for i in range(0, 4, batch)]
    apart = scored(5, *((part(prediction, p), target[p], valid[p]) for p in parts))
    same(together.compute(), apart.compute())
    same({k: v[order] for k, v in together.per_image().items()}, apart.per_image(), 0)


def test_rows_stay_in_order_when_they_are_joined_and_modes_mix():
    prediction, target, valid = scene(1, images=70, size=(4, 4))
    together, apart = scored(5, (prediction, target, valid)), ClassScores(5)
    with torch.inference_mode():
        apart.reset()
        apart.update(part(prediction, [0]), target[[0]], valid[[0]])
    for i in range(1, 70):
        apart.update(part(prediction, [i]), target[[i]], valid[[i]])
    assert len(apart.counts) < 10
    same(together.per_image(), apart.per_image(), 0)
    same(together.compute(), apart.compute())


def test_what_lies_in_the_void_changes_nothing():
    prediction, target, valid = scene(2)
    probs = prediction.probs.where(valid[:, None], torch.nan)
    other = ClassPrediction(probs, prediction.aleatoric.where(valid, torch.inf), prediction.draws)
    same(
        scored(5, (prediction, target, valid)).compute(),
        scored(5, (other, target.where(valid, 255), valid)).compute(),
        0,
    )


def test_one_draw_has_no_epistemic_part_to_rank_by():
    found = scored(5, scene(3, draws=1)).compute()
    assert found["error_auroc_epistemic"] == 0.5
    assert found["error_auroc_aleatoric"] == pytest.approx(found["error_auroc"].item())


def test_rows_are_the_scores_of_single_images():
    prediction, target, valid = scene(4, size=(60, 60))
    rows = scored(5, (prediction, target, valid)).per_image()
    for i in range(3):
        single = scored(5, (part(prediction, [i]), target[[i]], valid[[i]])).compute()
        for name in ("miou", "accuracy", "nll", "brier", "ece", "classwise_ece", "pixels"):
            assert rows[name][i].item() == pytest.approx(single[name].item()), name
        for name in ("error_auroc", "error_auroc_epistemic", "ause", "aurc"):  # by coarse histograms
            assert rows[name][i].item() == pytest.approx(single[name].item(), abs=0.02), name


def test_intervals_hold_the_score_and_shrink_with_images():
    few, many = (scored(5, scene(5, images=n)) for n in (8, 64))
    wide, narrow, found = few.intervals(), many.intervals(), many.compute()
    for name in ClassScores.headline:
        low, high = narrow[name]
        assert low <= found[name] <= high, name
        assert high - low < 0.7 * (wide[name][1] - wide[name][0]), name
    low, high = many.intervals(0.5)["miou"]
    assert narrow["miou"][0] < low < high < narrow["miou"][1]


def test_nothing_valid_is_unknown_and_says_so():
    prediction, target, valid = scene(6)
    found = scored(5, (prediction, target, valid & False)).compute()
    assert found["pixels"] == 0
    assert found["absent_classes"] == 5
    assert all(found[name].isnan() for name in found if name not in ("pixels", "absent_classes"))


def test_a_right_prediction_has_no_errors_to_detect():
    prediction, _, valid = scene(7)
    found = scored(5, (prediction, prediction.label, valid)).compute()
    assert found["accuracy"] == 1
    assert found["error_auroc"].isnan()
    assert found["ause"].abs() < 1e-12


def test_an_all_void_image_is_a_row_of_unknowns():
    prediction, target, valid = scene(8)
    valid[1] = False
    scores = scored(5, (prediction, target, valid))
    assert scores.per_image()["miou"].isnan().tolist() == [False, True, False]
    assert scores.compute()["miou"].isfinite()


def test_an_impossible_truth_costs_much_but_not_everything():
    probs = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    found = scored(2, (ClassPrediction(probs, entropy(probs)), torch.ones(1, 1, 1).long(), torch.ones(1, 1, 1).bool()))
    assert found.compute()["nll"].item() == pytest.approx(87.3, abs=0.1)


def test_curves_end_at_the_pooled_scores():
    scores = scored(5, scene(9))
    found, curves = scores.compute(), scores.curves()
    assert curves["rejection"]["accuracy"][-1].item() == pytest.approx(found["accuracy"].item())
    assert curves["reliability"]["count"].sum() == found["pixels"]
    gap = (curves["reliability"]["accuracy"] - curves["reliability"]["confidence"]).abs() * curves["reliability"][
        "count"
    ]
    assert (gap.nansum() / found["pixels"]).item() == pytest.approx(found["ece"].item())


def test_classes_have_scores_of_their_own():
    prediction, target, valid = scene(10)
    target = target.where(target != 4, 0)
    scores = scored(5, (prediction, target, valid))
    table = scores.per_class()
    assert table["recall"].isnan().tolist() == [False] * 4 + [True]
    assert table["iou"].nanmean().item() == pytest.approx(scores.compute()["miou"].item())
    assert table["pixels"].sum() == valid.sum()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t, v: (ClassPrediction(p.probs.log(), p.aleatoric), t, v), "logits"),
        (lambda p, t, v: (ClassPrediction(p.probs * 2, p.aleatoric), t, v), "sum to"),
        (lambda p, t, v: (ClassPrediction(p.probs.where(t[:, None] != 2, torch.nan), p.aleatoric), t, v), "finite"),
        (lambda p, t, v: (ClassPrediction(p.probs, p.aleatoric * torch.nan), t, v), "finite"),
        (lambda p, t, v: (p, t + 1, v), "class 5, expected 0 to 4"),
        (lambda p, t, v: (p, t - 1, v), "class -1, expected 0 to 4"),
        (lambda p, t, v: (p, t[:, :-1], v), "expected"),
        (lambda p, t, v: (p, t, v[:1]), "expected"),
        (lambda p, t, v: (p, t, v.float()), r"valid is torch.float32 .* expected torch.bool"),
        (lambda p, t, v: (ClassPrediction(p.probs[:, :3], p.aleatoric), t, v), "expected"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_trace(spoil, message):
    scores = scored(5, scene(11))
    before = scores.compute()
    with pytest.raises(ValueError, match=message):
        scores.update(*spoil(*scene(12)))
    scores._computed = None
    same(before, scores.compute(), 0)


def test_intervals_ask_for_a_level_and_for_images():
    with pytest.raises(ValueError, match="level is 95"):
        scored(5, scene()).intervals(95)
    with pytest.raises(ValueError, match="two images"):
        scored(5, scene(images=1)).intervals()


def test_one_class_per_image_is_scored_as_a_map_of_one_pixel():
    prediction, target, valid = scene(13, images=40, size=(1, 1))
    found = scored(5, (prediction, target, valid))
    probs, aleatoric = prediction.probs[..., 0, 0], prediction.aleatoric[..., 0, 0]
    single = ClassPrediction(probs, aleatoric, prediction.draws)
    values = scored(5, (single, target[:, 0, 0], valid[:, 0, 0]))
    same(found.compute(), values.compute(), 0)
    same(found.per_image(), values.per_image(), 0)


def test_one_line_says_what_was_scored():
    assert repr(scored(5, scene(14, images=3))) == "ClassScores(3 images)"
