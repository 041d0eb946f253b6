"""Scores of anomaly sets, from files on disk to regions, against scikit-learn and by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from sfumato.data import AnomalyTrack, ObstacleTrack, Scenes, load
from sfumato.errors import DataError, MissingFileError
from sfumato.evaluation import evaluate, predict_sample
from sfumato.evaluation.ood import OODTally
from sfumato.metrics import ComponentScores, histogram, ranking
from sfumato.predictions import ClassPrediction

SIZE = (40, 60)


def write_set(root, frames=False, count=3):
    """Images with a bright square, which their masks mark, and a void row."""
    for number in range(count):
        random = np.random.default_rng(number)
        image = random.integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        row, column = random.integers(5, 20, 2)
        image[row : row + 14, column : column + 14] = 240
        mask[row : row + 14, column : column + 14] = 2 if frames else 1
        mask[-4:] = 255
        name = f"validation{number:04d}"
        pictures = root / ("frames" if frames else "images")
        masks = pictures / f"{name}.labels" if frames else root / "labels_masks"
        for folder in (pictures, masks):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(pictures / f"{name}.png")
        Image.fromarray(mask).save(masks / ("labels_semantic.png" if frames else f"{name}_labels_semantic.png"))
        if not frames:
            Image.fromarray(image).save(masks / f"{name}_labels_semantic_color.png")
    return root


@pytest.mark.parametrize("frames", [False, True])
def test_both_layouts_are_read(tmp_path, frames):
    data = load("anomaly-track", str(write_set(tmp_path, frames)), "val")
    assert list(data.names) == ["validation0000", "validation0001", "validation0002"]
    sample = data[1]
    assert sample["image"].shape == (3, *SIZE)
    assert int(sample["novel"].sum()) == 14 * 14
    assert not bool(sample["novel_valid"][-4:].any())
    assert bool(sample["novel_valid"][:-4].all())
    assert bool((sample["image"][:, sample["novel"]] == 240).all())
    small = load("anomaly-track", str(tmp_path), "val", (20, 30))[1]
    assert small["novel"].shape == (20, 30)


def test_images_without_a_mask_are_left_out(tmp_path):
    write_set(tmp_path)
    (tmp_path / "labels_masks" / "validation0001_labels_semantic.png").unlink()
    assert ObstacleTrack(tmp_path).names == ["validation0000", "validation0002"]
    (tmp_path / "none" / "images").mkdir(parents=True)
    with pytest.raises(MissingFileError, match="neither a folder images nor a folder frames"):
        AnomalyTrack(tmp_path / "images")
    with pytest.raises(DataError, match="none of the 0 images"):
        AnomalyTrack(tmp_path / "none")


def test_a_mask_of_classes_is_refused(tmp_path):
    write_set(tmp_path)
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(tmp_path / "labels_masks" / "validation0000_labels_semantic.png")
    with pytest.raises(DataError, match="validation0000_labels_semantic"):
        AnomalyTrack(tmp_path)[0]


def test_the_best_threshold_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    novel = random.random(4000) < 0.1
    keys = np.clip(random.normal(8 + 4 * novel, 3), 0, 31).astype(int)
    good, bad = (torch.from_numpy(np.bincount(keys[novel == each], minlength=32)) for each in (False, True))
    precision, recall, thresholds = precision_recall_curve(novel, keys)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert int(ranking.best_f1(good, bad)) == thresholds[f1.argmax()]


def test_only_the_pixels_of_marked_images_are_compared():
    """Images in distribution take part in the scores of data out of distribution, but not in those of anomalies."""
    random, tally = torch.Generator().manual_seed(0), OODTally()

    def prediction():
        return ClassPrediction(torch.rand(1, 3, *SIZE, generator=random).softmax(1), torch.zeros(1, *SIZE))

    tally.update(prediction(), outside=False)
    uncertain, marks = [], []
    for _ in range(3):
        one, novel = prediction(), torch.rand(1, *SIZE, generator=random) < 0.2
        valid = torch.rand(1, *SIZE, generator=random) < 0.9
        tally.update(one, outside=True, novel=novel, valid=valid)
        uncertain.append(one.total[valid])
        marks.append(novel[valid])
    u, y = histogram.key(torch.cat(uncertain)).numpy(), torch.cat(marks).numpy()  # pixels of one key are ties
    found = tally.marked.compute()
    assert int(found["novel_pixels"]) == int(y.sum())
    assert int(found["known_pixels"]) == int((~y).sum())
    assert float(found["ood_aupr_total"]) == pytest.approx(average_precision_score(y, u))
    rates, recall, _ = roc_curve(y, u)
    assert float(found["ood_fpr95_total"]) == pytest.approx(rates[recall >= 0.95].min())
    assert int(tally.scores.compute()["known_pixels"]) == int((~y).sum()) + SIZE[0] * SIZE[1]


def test_evaluate_scores_pixels_and_regions(run, tmp_path):
    data = AnomalyTrack(write_set(tmp_path / "set"))
    found = evaluate(
        run, Scenes(2, size=SIZE, seed=9), ood=data, ood_name="anomaly-track", progress=False, device="cpu",
        workers=0,
    )  # fmt: skip
    scores = found.tasks["classes"].scores
    assert scores["anomaly_novel_pixels"].value == 3 * 14 * 14
    assert scores["anomaly_known_pixels"].value == 3 * (36 * 60 - 14 * 14)
    threshold = scores["anomaly_threshold_total"].value
    by_hand = ComponentScores(500, 100)
    for index in range(3):
        sample, prediction = predict_sample(run, data, index)
        by_hand.update(prediction.total >= threshold, sample["novel"][None], sample["novel_valid"][None])
    expected = by_hand.compute()
    for name in ("siou", "ppv", "f1"):
        assert scores[f"anomaly_{name}_total"].value == pytest.approx(float(expected[f"component_{name}"]), nan_ok=True)
    assert "anomaly_aupr_total" in found.tasks["classes"].headline
    assert "anomaly_f1_total" in json.dumps(found.to_json())
