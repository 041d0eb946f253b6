"""Calibration errors against published numbers, torchmetrics and hand cases."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from sfumato.metrics import calibration, histogram

DATA = Path(os.environ.get("SFUMATO_DATA", "data")) / "calibration"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no published confidences: set SFUMATO_DATA to their folder")


@needs_data
@pytest.mark.parametrize(
    ("name", "published"),
    [("densenet40_c10", 0.0550), ("densenet40_c100", 0.2116), ("resnet110_c10", 0.0475), ("resnet110_c100", 0.1848)],
)
def test_ece_of_published_confidences(name, published):
    true, label, confidence = np.loadtxt(DATA / f"probs_{name}_logits.csv", delimiter=",", skiprows=1).T
    binned = calibration.reliability(torch.from_numpy(confidence).float(), torch.from_numpy(true == label))
    assert calibration.ece(*binned).item() == pytest.approx(published, abs=5e-5)


@needs_data
@pytest.mark.parametrize(
    ("name", "published"), [("wideresnet-16-4-cifar-10", 0.0537), ("densenet-bc-100-cifar-100", 0.1422)]
)
def test_ece_of_published_probabilities(name, published):
    with np.load(DATA / f"{name}.npz") as dump:
        target, probs = torch.from_numpy(dump["ground_truth"]), torch.from_numpy(dump["predictions"])
    confidence, label = probs.max(1)
    assert calibration.ece(*calibration.reliability(confidence, label == target)).item() == pytest.approx(
        published, abs=5e-5
    )


def pixels(seed=0, n=5000, classes=6):
    random = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(n, classes, generator=random)).softmax(1)
    target = torch.multinomial(probs.sqrt(), 1, generator=random)[:, 0]
    return probs, target


@pytest.mark.parametrize(("score", "norm"), [(calibration.ece, "l1"), (calibration.mce, "max")])
def test_equal_width_errors_agree_with_torchmetrics(score, norm):
    probs, target = pixels()
    confidence, label = probs.max(1)
    found = score(*calibration.reliability(confidence, label == target))
    expected = multiclass_calibration_error(probs, target, 6, n_bins=15, norm=norm)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def classwise(probs, target):
    confidence, label = probs.max(0)
    return calibration.classwise(probs, label.int(), confidence, target, probs.gather(0, target[None])[0])


def test_classwise_ece_is_the_mean_over_classes_of_binary_ones():
    probs, target = pixels(1)
    expected = []
    for k in range(6):
        bins = np.clip(np.ceil(probs[:, k].numpy() * 15) - 1, 0, 14)
        hit = (target == k).numpy()
        gaps = [abs(hit[bins == b].sum() - probs[:, k].double().numpy()[bins == b].sum()) for b in range(15)]
        expected.append(sum(gaps) / len(target))
    counts, gap = classwise(probs.T, target)
    assert (counts.sum(-1) == len(target)).all()
    assert calibration.classwise_ece(counts, gap).item() == pytest.approx(np.mean(expected), abs=1e-7)


def test_adaptive_ece_is_that_of_sorted_bins_of_equal_mass():
    probs, target = pixels(2, n=15 * 400)
    confidence, label = probs.max(1)
    right, doubt = label == target, 1 - confidence
    order = doubt.argsort()
    gaps = (right.double() - confidence.double())[order].view(15, 400).mean(1).abs()
    key = histogram.key(doubt)
    counts = [torch.bincount(key[mask], minlength=histogram.KEYS) for mask in (right, ~right)]
    found = calibration.adaptive_ece(*counts, torch.bincount(key, doubt.double(), histogram.KEYS))
    assert found.item() == pytest.approx(gaps.mean().item(), abs=1e-3)


def test_calibrated_probabilities_have_small_errors_and_honest_noise():
    random = torch.Generator().manual_seed(3)
    probs = (3 * torch.randn(200_000, 4, generator=random)).softmax(1)
    target = torch.multinomial(probs, 1, generator=random)[:, 0]
    confidence, label = probs.max(1)
    assert calibration.ece(*calibration.reliability(confidence, label == target)) < 0.005
    binned = classwise(probs.T, target)
    assert calibration.classwise_ece(*binned) < 0.005
    assert calibration.brier_calibration(*binned) < 1e-4


def test_brier_splits_exactly_where_bins_hold_one_probability():
    # 100 pixels that say 0.9/0.1 and are right in 60: calibration 2·(0.3)², refinement 2·0.6·0.4.
    probs = torch.tensor([[0.9], [0.1]]).expand(2, 100)
    target = (torch.arange(100) >= 60).long()
    brier = 2 * (0.6 * 0.1**2 + 0.4 * 0.9**2)
    found = calibration.brier_calibration(*classwise(probs, target)).item()
    assert found == pytest.approx(2 * 0.3**2, abs=1e-6)
    assert brier - found == pytest.approx(2 * 0.6 * 0.4, abs=1e-6)


def test_errors_of_nothing_are_unknown():
    nothing = calibration.reliability(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert calibration.ece(*nothing).isnan()
    assert calibration.mce(*nothing).isnan()
