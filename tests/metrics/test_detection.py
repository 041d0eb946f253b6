"""Each class against the rest, compared with scikit-learn, which sorts all pixels."""

import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from sfumato.metrics import ClassScores, detection, ranking
from sfumato.predictions import ClassMoments


def scene(sharpness=3.0, pixels=4000):
    torch.manual_seed(0)
    target = torch.multinomial(torch.tensor([0.9, 0.08, 0.02]), pixels, replacement=True)
    logits = sharpness * (torch.nn.functional.one_hot(target, 3) + 0.6 * torch.randn(pixels, 3))
    return logits.softmax(1), target


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 30.0])
def test_areas_are_those_of_a_full_sort_within_the_stated_bound(sharpness):
    probs, target = scene(sharpness)
    histogram = detection.count(probs.T, target, probs.gather(1, target[:, None])[:, 0])
    assert histogram.shape == (3, 2, detection.KEYS)
    assert histogram.sum((1, 2)).tolist() == [len(target)] * 3
    found = detection.scores(histogram)
    for k in range(3):
        bound = float(ranking.auroc_bound(*histogram[k]))
        assert bound < 0.02
        exact = roc_auc_score(target == k, probs[:, k].double())
        assert abs(float(found["roc_auc"][k]) - exact) <= bound + 1e-9
        assert float(found["pr_auc"][k]) == pytest.approx(average_precision_score(target == k, probs[:, k]), abs=0.02)


def test_the_curve_is_that_of_a_full_sort():
    probs, target = scene()
    histogram = detection.count(probs.T, target, probs.gather(1, target[:, None])[:, 0])
    curve = detection.precision_recall(histogram[1])
    precision, recall, _ = (torch.tensor(each.copy()) for each in precision_recall_curve(target == 1, probs[:, 1]))
    for level in (0.1, 0.5, 0.9, 1.0):
        place = int((curve["recall"] - level).abs().argmin())
        exact = float(precision[recall >= level - 1e-9][-1])
        assert float(curve["precision"][place]) == pytest.approx(exact, abs=0.03)
        chosen = probs[:, 1] >= curve["threshold"][place]
        assert float(chosen[target == 1].float().mean()) >= level - 1e-6, "the threshold has this recall"


def test_a_class_without_a_pixel_has_no_curve_and_no_area():
    probs, target = scene()
    histogram = detection.count(probs.T, target.clamp_max(1), probs.gather(1, target.clamp_max(1)[:, None])[:, 0])
    assert detection.scores(histogram)["roc_auc"].isnan().tolist() == [False, False, True]
    assert detection.precision_recall(histogram[2])["precision"].isnan().all()


def test_class_scores_have_them_for_each_class_and_add_up_over_images():
    probs, target = scene()
    images = [part.T.reshape(1, 3, 20, 100) for part in probs.split(2000)]
    labels = [part.reshape(1, 20, 100) for part in target.split(2000)]
    scores = ClassScores(3)
    for image, label in zip(images, labels):
        scores.update(ClassMoments.of(image).prediction(), label, label >= 0)
    table, curves = scores.per_class(), scores.curves()
    label = probs.argmax(1)
    for k in range(3):
        assert float(table["roc_auc"][k]) == pytest.approx(roc_auc_score(target == k, probs[:, k]), abs=0.005)
        negatives = target != k
        assert float(table["specificity"][k]) == pytest.approx(float((label != k)[negatives].float().mean()))
        assert len(curves[f"precision_recall_{k}"]["precision"]) == 100
