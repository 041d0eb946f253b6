"""Steadiness of predictions: by hand, and why it means nothing without accuracy."""

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import DataError
from sfumato.geometry import pixel_grid
from sfumato.metrics import ClassScores, TemporalScores
from sfumato.predictions import ClassPrediction, ValuePrediction

SIZE = (5, 7)
STILL = pixel_grid(SIZE, torch.zeros(1)).view(1, 2, *SIZE)
ALL = torch.ones(1, *SIZE, dtype=torch.bool)


def of_labels(labels, classes=3, sure=1.0):
    probs = torch.full((1, classes, *labels.shape[-2:]), (1 - sure) / (classes - 1))
    return ClassPrediction(probs.scatter(1, labels[:, None], sure), torch.zeros(labels.shape))


def labels(seed):
    return torch.randint(3, (1, *SIZE), generator=torch.Generator().manual_seed(seed))


def test_classes_by_hand():
    now, before = labels(0), labels(1)
    mask = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(2)) < 0.7
    scores = TemporalScores(3)
    scores.update(of_labels(now), of_labels(before, sure=0.8), STILL, mask)
    found = scores.compute()
    n, b = now[mask], before[mask]
    iou = [((n == k) & (b == k)).sum() / ((n == k) | (b == k)).sum() for k in range(3)]
    entropy = -(0.8 * torch.tensor(0.8).log() + 0.2 * torch.tensor(0.1).log())
    assert found["temporal_consistency"].item() == pytest.approx(sum(iou).item() / 3)
    assert found["label_flicker"].item() == pytest.approx((n != b).float().mean().item())
    assert found["uncertainty_flicker"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert found["followed"].item() == pytest.approx(mask.float().mean().item())


def test_values_by_hand():
    one = torch.ones(1, 2, *SIZE)
    now, before = (
        ValuePrediction(0 * one, 8 * one, 0 * one, "px"),
        ValuePrediction(one * torch.tensor([3.0, 4]).view(1, 2, 1, 1), one / 2, 0 * one, "px"),
    )
    scores = TemporalScores()
    scores.update(now, before, STILL, ALL)
    found = scores.compute()
    assert found["value_flicker"].item() == pytest.approx(5)
    assert found["uncertainty_flicker"].item() == pytest.approx(4 - 1)  # standard deviations √16 and √1
    assert set(scores.headline) == set(found)


def test_pixels_are_compared_where_they_were():
    before = labels(3)
    now = before.roll(2, -1)  # all moves to the right by 2 px
    mask = ALL.clone()
    mask[..., :2] = False
    scores = TemporalScores(3)
    scores.update(of_labels(now), of_labels(before), STILL - torch.tensor([2.0, 0]).view(1, 2, 1, 1), mask)
    assert scores.compute()["label_flicker"] == 0
    standing = TemporalScores(3)
    standing.update(of_labels(now), of_labels(before), STILL, mask)
    assert standing.compute()["label_flicker"] > 0.3


def test_a_constant_prediction_is_perfectly_steady_and_useless():
    """The trap of these scores, with exact flow: the truth flickers a little, one class everywhere does not."""
    sample = Scenes(1, (48, 64), seed=3, views=("next",))[0]
    followed = sample["flow_back_valid"][None]
    pixels = sample["flow_back"][None] + pixel_grid((48, 64), sample["flow_back"])
    truth = sample["class_probs"].argmax(0)[None]
    constant = of_labels(torch.zeros_like(truth), 8)
    noisy = torch.randint(8, truth.shape, generator=torch.Generator().manual_seed(0))
    true_labels = of_labels(truth, 8)
    steady, accuracy = {}, {}
    for name, (now, before) in {"constant": (constant, constant), "noise": (of_labels(noisy, 8), true_labels)}.items():
        scores, right = TemporalScores(8), ClassScores(8)
        scores.update(now, before, pixels, followed)
        right.update(now, truth, torch.ones_like(followed))
        steady[name], accuracy[name] = scores.compute(), right.compute()["miou"]
    assert steady["constant"]["temporal_consistency"] == 1
    assert steady["constant"]["label_flicker"] == steady["constant"]["uncertainty_flicker"] == 0
    assert accuracy["constant"] < 0.1
    assert steady["noise"]["temporal_consistency"] < 0.2


def test_frames_add_up_and_have_intervals():
    together, apart = TemporalScores(3), [TemporalScores(3) for _ in range(2)]
    for each, seed in zip(apart, (0, 2), strict=True):
        for scores in (together, each):
            scores.update(of_labels(labels(seed)), of_labels(labels(seed + 1)), STILL, ALL)
    flickers = [each.compute()["label_flicker"].item() for each in apart]
    assert together.compute()["label_flicker"].item() == pytest.approx(sum(flickers) / 2)
    low, high = together.intervals()["label_flicker"]
    assert min(flickers) <= low <= high <= max(flickers)


def test_no_followed_pixel_defines_no_score_and_other_shapes_are_refused():
    scores = TemporalScores(3)
    scores.update(of_labels(labels(0)), of_labels(labels(1)), STILL, ~ALL)
    found = scores.compute()
    assert found["temporal_consistency"].isnan()
    assert found["followed"] == 0
    with pytest.raises(DataError, match="no two frames of one video"):
        scores.update(of_labels(labels(0)), of_labels(labels(1)[..., :3]), STILL, ALL)
