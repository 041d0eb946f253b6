"""A small picture of a validation image: the input, its target, the best guess and its total uncertainty."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.contracts import Prediction, Task
from sfumato.predictions import ClassPrediction

WIDTH = 320  # of one of the four parts, pixels


def panel(image: Tensor, target: Tensor, valid: Tensor, prediction: Prediction, task: Task) -> Tensor | None:
    """Image, target, best guess and total uncertainty side by side, uint8 (H, 4 W, 3), at most 320 pixels wide each.

    Args:
        image: Image (3, H, W) in [0, 1].
        target: Target (H, W) or (D, H, W). It is gray where not ``valid``.
        valid: Mask (H, W).
        prediction: The prediction of this image, a batch of 1.
        task: The task, which gives the colors, and the range of values.

    Returns:
        The picture; None if the prediction is no map of the size of the image.
    """
    total = prediction.total[0].detach().float().cpu()
    if image.ndim != 3 or len(image) != 3 or total.shape != image.shape[-2:]:
        return None
    if isinstance(prediction, ClassPrediction):
        level = total / math.log(prediction.probs.shape[1])
    else:  # a standard deviation of a tenth of the range that pictures show is white
        low, high = task.display_range
        level = 10 * total.sqrt() / (high - low)
    level = level.nan_to_num(1.0).clamp(0, 1)
    truth = task.color(target.cpu()).cpu().where(valid.cpu()[..., None], torch.tensor(128, dtype=torch.uint8))
    parts = (
        (image.detach().float().cpu().clamp(0, 1) * 255).byte().movedim(0, -1),
        truth,
        task.color(prediction.best[0].detach().cpu()).cpu(),
        (level * 255).byte()[..., None].expand(*level.shape, 3),
    )
    every = -(-image.shape[-1] // WIDTH)
    return torch.cat([part[::every, ::every] for part in parts], 1)
