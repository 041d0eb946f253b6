"""Two small reports, of classes and of depths, with uncertainty where a network would have it."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from sfumato.evaluation import OODHistogram, Value
from sfumato.predictions import ClassMoments, ValueMoments
from sfumato.report import OODSection, Rejection, Reliability, ReportData, ReportImage, display_maps
from sfumato.tasks import Depth, Semantic

NAMES = ("sky", "ground", "wall", "box", "pole")
PALETTE = ((158, 200, 230), (150, 140, 120), (190, 110, 80), (230, 180, 60), (70, 80, 110))
BOUNDS = (0.5, 50.0)


def scene(seed: int, size=(48, 64), novel=False):
    """Classes, depths and an image of a street, and the pixels of a thing that training did not have."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    horizon = 0.35 + 0.2 * torch.rand((), generator=random)
    classes = (rows > horizon).long()
    depth = torch.where(rows > horizon, 1.5 / (rows - horizon + 0.04), torch.full_like(rows, BOUNDS[1]))
    for kind in (2, 2, 3, 3, 4):
        left, wide = torch.rand(2, generator=random) * torch.tensor([0.9, 0.25])
        wide = wide * 0.2 + 0.02 if kind == 4 else wide + 0.08
        far = 2 + 12 * torch.rand((), generator=random)
        box = (columns > left) & (columns < left + wide) & (rows > horizon - 2.5 / far) & (rows < horizon + 1.4 / far)
        box &= depth > far
        classes[box], depth[box] = kind, far.item()
    odd = ((rows - 0.62) ** 2 + (columns - 0.55) ** 2 < 0.025) if novel else torch.zeros(size, dtype=torch.bool)
    depth[odd] = 3.0
    color = torch.tensor(PALETTE, dtype=torch.float32)[classes].permute(2, 0, 1) / 255
    color = torch.where(
        odd, torch.tensor([0.85, 0.2, 0.6]).view(3, 1, 1) * (0.6 + 0.4 * ((30 * rows).sin() > 0)), color
    )
    noise = 0.05 * torch.randn(3, *size, generator=random)
    return random, classes, depth.clamp(*BOUNDS), (color * (1 - 0.3 * rows) + noise).clamp(0, 1), odd


def blur(x, radius=3):
    return avg_pool2d(x[None], 2 * radius + 1, 1, radius, count_include_pad=False)[0]


def class_image(seed: int, draws=8, novel=False, size=(48, 64)) -> ReportImage:
    random, classes, _, image, odd = scene(seed, size, novel)
    one_hot = torch.nn.functional.one_hot(classes, len(NAMES)).permute(2, 0, 1).float()
    logits = 9 * (blur(one_hot) - 0.4) + blur(3 * torch.randn(len(NAMES), *size, generator=random))
    moments = None
    for _ in range(draws):
        doubt = blur(2 + 40 * odd.float()[None], 4) * blur(torch.randn(len(NAMES), *size, generator=random))
        one = ClassMoments.of((logits * ~odd + doubt).softmax(0)[None])
        moments = one if moments is None else moments.merge(one)
    prediction = moments.prediction()
    valid = torch.rand(classes.shape, generator=random) > 0.02
    valid[-4:] = False
    right = (prediction.label[0] == classes)[valid].float().mean().item()
    return ReportImage(f"street {seed:04d}", image, prediction, classes.where(valid, 0), valid, {"accuracy": right})


def value_image(seed: int, draws=8, novel=False, size=(48, 64)) -> ReportImage:
    random, _, depth, image, odd = scene(seed, size, novel)
    sigma = 0.05 * depth + 0.02 * depth**1.3
    target = (depth + sigma * torch.randn(size, generator=random)).clamp(*BOUNDS)[None]
    guess = blur(depth.log()[None], 1).exp() + 0.3 * sigma * blur(5 * torch.randn(1, *size, generator=random))
    moments = None
    for _ in range(draws):
        doubt = blur(0.15 * depth[None] + 6 * odd[None], 3) * blur(3 * torch.randn(1, *size, generator=random))
        one = ValueMoments.of((guess + doubt).clamp(*BOUNDS)[None], (blur(sigma[None]) ** 2)[None], "m")
        moments = one if moments is None else moments.merge(one)
    prediction = moments.prediction()
    valid = torch.rand(size, generator=random) > 0.07
    rmse = (prediction.mean[0] - target)[0][valid].square().mean().sqrt().item()
    return ReportImage(f"room {seed:04d}", image, prediction, target.where(valid, 0), valid, {"RMSE": rmse})


def histogram(inside: torch.Tensor, outside: torch.Tensor) -> OODHistogram:
    end = max(inside.max().item(), outside.max().item())
    counts = [torch.histc(part, 60, 0, end).tolist() for part in (inside, outside)]
    edges = torch.linspace(0, end, 61).tolist()
    return OODHistogram(tuple(edges), *map(tuple, counts), (inside.mean().item(), outside.mean().item()))


def ood_section(make, shown, **options) -> OODSection:
    other = [make(seed, novel=True, **options) for seed in (101, 102)]
    maps = [[display_maps(each.prediction) for each in some] for some in (shown, other)]
    histograms = {
        part: histogram(*(torch.stack([each[part] for each in some]) for some in maps))
        for part in ("aleatoric", "epistemic")
    }
    scores = {"AUROC": Value(0.912, 0.887, 0.934), "FPR95": Value(0.31, 0.26, 0.37)}
    return OODSection("unseen objects", histograms, other, scores)


def report(make, task, scores, risk, images=5, **options) -> ReportData:
    shown = [make(seed, **options) for seed in range(images)]
    (score,) = shown[0].scores
    order = sorted(shown, key=lambda each: each.scores[score], reverse=score == "accuracy")
    unsure = sorted(shown, key=lambda each: -display_maps(each.prediction)["total"].mean().item())
    kept = [k / 50 for k in range(1, 51)]
    oracle = [max(0.0, 1 - 0.88 / k) for k in kept]
    return ReportData(
        title="Streets, <b>MC dropout</b> & logit-normal",
        facts={
            "data": "scenes, 2 000 images of 72×96", "task": task.key, "method": "MC dropout, 16 draws",
            "likelihood": task.default_likelihood, "network": "U-Net, 5 levels, dropout 0.5 in the center",
            "parameters": "1 046 533", "training": "12 epochs, 3 min on 2 CPU cores", "seed": "0", "date": "2025-11-22",
        },
        task=task,
        scores=scores,
        images=shown,
        groups={"best": [e.name for e in order[:3]], "worst": [e.name for e in order[:-4:-1]],
                "most uncertain": [e.name for e in unsure[:3]]},
        reliability=Reliability([(b + 0.5) / 15 for b in range(15)],
                                [math.nan, *[((b + 0.5) / 15) ** 1.25 for b in range(1, 15)]],
                                [0, *[4**b for b in range(1, 15)]]),
        rejection=Rejection(kept, {"total": [0.12 * k**1.6 for k in kept], "epistemic": [0.12 * k**1.1 for k in kept],
                                   "oracle": oracle}, risk),
        ood=ood_section(make, shown, **options),
        history={"training loss": ([*range(1, 13)], [1.4 * 0.8**e + 0.2 for e in range(12)]),
                 "validation loss": ([*range(1, 13)], [1.4 * 0.82**e + 0.3 for e in range(12)]),
                 "validation score": ([*range(1, 13)], [0.7 - 0.5 * 0.8**e for e in range(12)])},
    )  # fmt: skip


@pytest.fixture(scope="session")
def class_report() -> ReportData:
    scores = {
        "miou": Value(0.713, 0.688, 0.734),
        "accuracy": Value(0.921, 0.911, 0.93),
        "nll": Value(0.243, 0.22, 0.271),
        "ece": Value(0.0231, 0.018, 0.03),
        "error_auroc": Value(0.904, 0.893, 0.915),
        "pixels": Value(691200),
    }
    return report(class_image, Semantic(NAMES, PALETTE), scores, "error rate")


@pytest.fixture(scope="session")
def value_report() -> ReportData:
    scores = {
        "rmse": Value(1.32, 1.2, 1.44),
        "abs_rel": Value(0.071, 0.066, 0.078),
        "delta1": Value(0.953, 0.94, 0.961),
    }
    return report(value_image, Depth(*BOUNDS), scores, "RMSE (m)")
