"""Predictions as pictures: what is drawn of each kind, and how it is packed into a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.contracts import Prediction, Task
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.report.story import Shown, quantile

PARTS = ("total", "aleatoric", "epistemic")


@dataclass(frozen=True)
class View:
    """The layers of one prediction against its target, each (H, W) on the CPU.

    Args:
        error: 1 where the class is wrong, or the distance to the target in ``error_unit``.
        total: uncertainty in ``unit``.
        aleatoric: uncertainty in ``unit``.
        epistemic: uncertainty in ``unit``.
        unit: ``nats``, or that of the target: variances are shown as standard deviations.
        label: of a color bar: the unit and, for values, that it is a σ.
        error_unit: of the error; empty for classes.
        score: what summarizes the errors of some pixels: ``accuracy = 1 − mean`` or ``RMSE = √mean²``.
    """

    error: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    unit: str
    label: str
    error_unit: str
    score: str


@singledispatch
def parts(prediction: Any) -> dict[str, Tensor]:
    """``total``, ``aleatoric`` and ``epistemic`` (B, H, W) as they are shown: nats for classes, σ for values.

    Pitfall: σ is the square root of a variance, so the shown parts of a value add up in squares.
    """
    raise ValueError(f"a {type(prediction).__name__} cannot be shown: expected a ClassPrediction or a ValuePrediction")


@parts.register
def _(prediction: ClassPrediction) -> dict[str, Tensor]:
    return {part: getattr(prediction, part).detach().float().cpu() for part in PARTS}


@parts.register
def _(prediction: ValuePrediction) -> dict[str, Tensor]:
    return {part: getattr(prediction, part).detach().float().cpu().sqrt() for part in PARTS}


@singledispatch
def view(prediction: Any, target: Tensor) -> View:
    """The layers of ``prediction`` (a batch of 1) against ``target`` (H, W) or (D, H, W)."""
    raise ValueError(f"a {type(prediction).__name__} cannot be shown: expected a ClassPrediction or a ValuePrediction")


@view.register
def _(prediction: ClassPrediction, target: Tensor) -> View:
    wrong = (prediction.label[0].cpu() != target.cpu()).float()
    layers = {part: values[0] for part, values in parts(prediction).items()}
    return View(wrong, **layers, unit="nats", label="nats", error_unit="", score="accuracy")


@view.register
def _(prediction: ValuePrediction, target: Tensor) -> View:
    mean = prediction.mean[0].detach().float().cpu()
    distance = (mean - target.float().cpu().reshape(mean.shape)).norm(dim=0)
    layers = {part: values[0] for part, values in parts(prediction).items()}
    unit = prediction.unit or "units"
    return View(distance, **layers, unit=unit, label=f"σ, {unit}", error_unit=unit, score="RMSE")


@dataclass(frozen=True)
class Key:
    """How to read the colors of a task: named swatches of classes, or a bar over values.

    Args:
        swatches: name and color ``#rrggbb`` of each class; empty for values.
        bar: (N, 3) uint8, colors of evenly spaced values; None for classes.
        ends: the values at the ends of the bar.
        unit: of these.
    """

    swatches: tuple[tuple[str, str], ...] = ()
    bar: np.ndarray | None = None
    ends: tuple[float, float] = (0.0, 0.0)
    unit: str = ""


@singledispatch
def key(prediction: Any, task: Task, values: tuple[float, float]) -> Key:
    """How to read the colors ``task`` gives to a prediction of this kind; ``values`` span the bar."""
    raise ValueError(f"a {type(prediction).__name__} cannot be shown: expected a ClassPrediction or a ValuePrediction")


@key.register
def _(prediction: ClassPrediction, task: Task, values: tuple[float, float]) -> Key:
    classes = torch.arange(prediction.probs.shape[1])
    names = getattr(task, "names", [f"class {c}" for c in classes.tolist()])
    return Key(tuple(zip(map(str, names), _hex(task.color(classes[None])[0]))))


def _hex(colors: Tensor) -> list[str]:
    """Colors (N, 3) uint8 as ``#rrggbb``."""
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]


@key.register
def _(prediction: ValuePrediction, task: Task, values: tuple[float, float]) -> Key:
    if prediction.mean.shape[1] == 2:  # a vector: where to, at its longest
        ways = torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1]])[:, None] * task.display_range[1]
        return Key(tuple(zip("→↓←↑", _hex(task.color(ways)[0]))), unit=prediction.unit)
    if prediction.mean.shape[1] != 1:
        return Key(unit=prediction.unit)
    low, high = values
    return Key((), task.color(torch.linspace(low, high, 256)[None])[0].numpy(), values, prediction.unit)


def value_range(shown: Iterable[Shown]) -> tuple[float, float]:
    """The lowest and highest 0.5 % quantile of all valid targets: the ends of the bar over values."""
    ends = [
        (quantile(known, 0.005), quantile(known, 0.995))
        for each in shown
        if (known := each.target.float().cpu()[..., each.valid.cpu()]).numel()
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)


def top(values: Sequence[Tensor], level: float = 0.99) -> float:
    """Where a scale from 0 ends that all images share: the ``level`` quantile of all, up to two digits; 1 if all are 0.

    >>> top([torch.tensor([0.1, 0.42]), torch.tensor([0.837])])
    0.84
    """
    end = quantile(torch.cat([v.flatten() for v in values]), level) if values else 0.0
    if not end > 0:
        return 1.0
    step = 10.0 ** (math.floor(math.log10(end)) - 1)
    return float(f"{math.ceil(end / step - 1e-6) * step:.2g}")


def rgb(image: Tensor) -> np.ndarray:
    """An image (3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def painted(values: Tensor, task: Task, valid: Tensor | None = None) -> np.ndarray:
    """A target or best guess in the task's colors, uint8 (H, W, 4), see-through where not valid."""
    colors = task.color(values.detach().cpu()).cpu().numpy()
    alpha = np.full(colors.shape[:2], 255, np.uint8) if valid is None else valid.cpu().numpy().astype(np.uint8) * 255
    return np.dstack([colors, alpha])


def uri(pixels: np.ndarray, kind: str = "PNG") -> str:
    """Pixels (H, W), (H, W, 3) or (H, W, 4) uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def eight_bit(values: Tensor, end: float) -> np.ndarray:
    """``round(255 √(u / end))``, 255 from ``end`` on: fine steps where most pixels are, near 0. NaN counts as large."""
    return (values.nan_to_num(end, end).div(end).clamp(0, 1).sqrt() * 255).round().byte().numpy()


def thinned(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Evenly spaced pixels of (H, W) or (D, H, W): pixels that exist, never a mean of two classes."""
    rows = torch.arange(size[0]) * values.shape[-2] // size[0]
    columns = torch.arange(size[1]) * values.shape[-1] // size[1]
    return values[..., rows, :][..., columns]


def packed(shown: Shown, seen: View, task: Task, ends: dict[str, float], size: tuple[int, int]) -> dict[str, Any]:
    """One image as the page's script reads it.

    Args:
        shown: the image, its prediction and target.
        seen: its layers.
        task: paints the target and the prediction.
        ends: of the scales: ``total``, ``aleatoric``, ``epistemic`` and ``worst``, the largest error of all.
        size: rows and columns kept of the maps.

    Returns:
        Data URIs: ``parts`` has the three uncertainties by :func:`eight_bit` in red, green and blue; ``error`` has
        ``65535 · error / worst`` in red (high byte) and green (low), and the mask in blue; ``size``, if there
        is one, has ``255 · size / end`` in gray; ``teacher``, if there is one, is like ``parts``.
    """
    best: Tensor = shown.prediction.best[0]  # pyright: ignore[reportAttributeAccessIssue]
    valid = thinned(shown.valid.cpu(), size)
    error = thinned(seen.error, size).where(valid, 0).nan_to_num(ends["worst"]).div(ends["worst"]).clamp(0, 1)
    code = (error * 65535).round().int().numpy()
    image = interpolate(shown.image[None].detach().float().cpu(), size, mode="bilinear", antialias=True)[0]
    answer = painted(thinned(best.cpu(), size), task)[..., :3]
    if shown.outline is not None:
        answer[thinned(shown.outline.cpu(), size).numpy()] = 255
    extra = {}
    if shown.size is not None:
        gray = thinned(shown.size.float().cpu(), size).div(ends["size"]).clamp(0, 1)
        extra["size"] = uri((gray * 255).round().byte().numpy())
    if shown.teacher is not None:
        extra["teacher"] = _parts(view(shown.teacher, shown.target), ends, size)
    return extra | {
        "name": shown.name,
        "scores": {name: float(value) for name, value in shown.scores.items() if math.isfinite(value)},
        "image": uri(rgb(image), "JPEG"),
        "truth": uri(painted(thinned(shown.target.cpu(), size), task, valid)),
        "prediction": uri(answer),
        "parts": _parts(seen, ends, size),
        "error": uri(np.dstack([code >> 8, code & 255, valid.numpy() * 255]).astype(np.uint8)),
    }


def _parts(seen: View, ends: dict[str, float], size: tuple[int, int]) -> str:
    return uri(np.dstack([eight_bit(thinned(getattr(seen, part), size), ends[part]) for part in PARTS]))


def is_one_draw(prediction: Prediction) -> bool:
    """Whether the epistemic part is 0 because nobody asked for it; an evidential likelihood has one of its own."""
    return getattr(prediction, "draws", 2) == 1 and not bool((prediction.epistemic > 1e-6).any())
