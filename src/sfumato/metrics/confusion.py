"""Scores of labels, from the confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(label: Tensor, target: Tensor, classes: int) -> Tensor:
    """Counts (K, K) of pixels: row = true class, column = predicted class.

    Args:
        label: Predicted classes (N,) in [0, K).
        target: True classes (N,) in [0, K).
        classes: K.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return torch.bincount(target * classes + label, minlength=classes**2).view(classes, classes)


def overlap(confusion: Tensor) -> Tensor:
    """Counts (…, 3, K) of a confusion matrix (…, K, K): hits, predicted pixels, true pixels of each class."""
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-2), confusion.sum(-1)], -2)


def iou(overlap: Tensor) -> Tensor:
    """Intersection over union ``hits / (predicted + true − hits)`` of each class (…, K).

    NaN for a class that occurs neither in the target nor in the prediction, so ``nanmean`` is the mIoU of the others.

    Source: Everingham et al. (2010), Pascal VOC.
    Pitfall: The mean over images of per-image mIoU is another number than the mIoU of the pooled pixels.
    """
    hits, predicted, true = overlap.double().unbind(-2)
    return hits / (predicted + true - hits)


def recall(overlap: Tensor) -> Tensor:
    """``hits / true`` of each class (…, K), its accuracy; NaN for a class that never occurs."""
    hits, _, true = overlap.double().unbind(-2)
    return hits / true


def precision(overlap: Tensor) -> Tensor:
    """``hits / predicted`` of each class (…, K); NaN for a class that is never predicted."""
    hits, predicted, _ = overlap.double().unbind(-2)
    return hits / predicted


def specificity(overlap: Tensor) -> Tensor:
    """``true negatives / pixels of other classes`` of each class (…, K); NaN if all pixels are of the class."""
    hits, predicted, true = overlap.double().unbind(-2)
    pixels = true.sum(-1, keepdim=True)
    return (pixels - predicted - true + hits) / (pixels - true)


def f1(overlap: Tensor) -> Tensor:
    """Dice or F1 score ``2 hits / (predicted + true)`` of each class (…, K); NaN as for :func:`iou`."""
    hits, predicted, true = overlap.double().unbind(-2)
    return 2 * hits / (predicted + true)
