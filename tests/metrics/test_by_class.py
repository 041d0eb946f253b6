"""Scores that are asked for by name, against scikit-learn, scipy and hand cases."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from sfumato import registry
from sfumato.errors import ConfigError, DataError
from sfumato.metrics.surface_distance import distances, surface
from sfumato.predictions import ClassMoments
from sfumato.tasks import Depth, Semantic

TASK = Semantic(("back", "vessel", "lesion"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))


def images(count=3, size=(24, 20)):
    torch.manual_seed(0)
    target = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), count * size[0] * size[1], replacement=True)
    logits = 2 * torch.nn.functional.one_hot(target, 3) + torch.randn(len(target), 3)
    probs = logits.softmax(1).view(count, *size, 3).movedim(-1, 1)
    return ClassMoments.of(probs).prediction(), target.view(count, *size), torch.rand(count, *size) < 0.9


def scored(name, *updates):
    score = registry.load("scores", name).for_task(TASK)
    for update in updates:
        score.update(*update)
    return score


def test_scores_by_name_are_those_of_scikit_learn():
    prediction, target, valid = images()
    probs, y = prediction.probs.movedim(1, -1)[valid], target[valid]
    precision, recall, f1, _ = precision_recall_fscore_support(y, probs.argmax(1), labels=[0, 1, 2])
    negatives = [float((probs.argmax(1) != k)[y != k].float().mean()) for k in range(3)]
    expected = {
        "dice": f1, "sensitivity": recall, "precision": precision, "specificity": negatives,
        "roc-auc": [roc_auc_score(y == k, probs[:, k]) for k in range(3)],
        "pr-auc": [average_precision_score(y == k, probs[:, k]) for k in range(3)],
    }  # fmt: skip
    for name, column in expected.items():
        score, key = scored(name, (prediction, target, valid)), name.replace("-", "_")
        found = score.compute()
        assert list(found) == [key, f"{key}_back", f"{key}_vessel", f"{key}_lesion"]
        tolerance = 0.01 if "auc" in key else 1e-6
        assert [float(found[f"{key}_{each}"]) for each in TASK.names] == pytest.approx(list(column), abs=tolerance)
        assert float(found[key]) == pytest.approx(np.mean(column), abs=tolerance)
        low, high = score.intervals()[f"{key}_vessel"]
        assert low <= high


def test_pixels_that_are_not_valid_and_the_order_of_images_change_nothing():
    prediction, target, valid = images()
    whole = scored("dice", (prediction, target.where(valid, 255), valid)).compute()
    parts = [(ClassMoments.of(prediction.probs[[i]]).prediction(), target[[i]], valid[[i]]) for i in (2, 0, 1)]
    assert whole == scored("dice", *parts).compute()


def square(top, left, side=6, size=20):
    found = torch.zeros(size, size, dtype=torch.bool)
    found[top : top + side, left : left + side] = True
    return found


def reference(a, b):
    """Average symmetric and 95 % distance with distance transforms."""
    edges = [each & ~binary_erosion(each) for each in (a, b)]
    there = distance_transform_edt(~edges[1])[edges[0]]
    back = distance_transform_edt(~edges[0])[edges[1]]
    ranked = [np.sort(each)[max(1, round(0.95 * len(each))) - 1] for each in (there, back)]
    return (there.sum() + back.sum()) / (len(there) + len(back)), max(ranked)


@pytest.mark.parametrize("seed", range(3))
def test_surface_distances_are_those_of_distance_transforms(seed):
    torch.manual_seed(seed)
    blobs = torch.nn.functional.avg_pool2d(torch.rand(2, 1, 64, 48), 9, 1, 4)[:, 0] > 0.5
    assert distances(*blobs) == pytest.approx(reference(*(each.numpy() for each in blobs)))
    assert (surface(blobs[0]).numpy() == (blobs[0].numpy() & ~binary_erosion(blobs[0].numpy()))).all()


def test_surfaces_are_scored_by_image_and_a_missed_region_is_counted():
    target = torch.zeros(3, 20, 20, dtype=torch.int64)
    target[0][square(4, 4)] = 1
    target[1][square(4, 4)] = 1
    guess = torch.zeros_like(target)
    guess[0][square(4, 6)] = 1  # the second image misses it, the third does not show it
    prediction = ClassMoments.of(torch.nn.functional.one_hot(guess, 3).movedim(-1, 1).float()).prediction()
    found = scored("surface-distance", (prediction, target, target >= 0)).compute()
    expected = reference(square(4, 6).numpy(), square(4, 4).numpy())
    assert (float(found["assd_vessel"]), float(found["hd95_vessel"])) == pytest.approx(expected)
    assert float(found["hd95_vessel"]) == 2
    assert float(found["surface_missed_vessel"]) == 0.5
    assert found["assd_lesion"].isnan()
    assert found["surface_missed_lesion"].isnan()
    assert float(found["assd"]) == pytest.approx((expected[0] + float(found["assd_back"])) / 2)


def test_what_does_not_fit_is_refused():
    prediction, target, valid = images()
    for name in ("dice", "roc-auc", "surface-distance"):
        with pytest.raises(DataError, match="expected"):
            scored(name, (prediction, target[:, :-1], valid[:, :-1]))
        with pytest.raises(DataError, match="no class from 0 to 2"):
            scored(name, (prediction, target + 1, valid))
    with pytest.raises(ConfigError, match="no class names"):
        registry.load("scores", "dice").for_task(Depth())
