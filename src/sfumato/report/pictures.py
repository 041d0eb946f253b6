"""Predictions as pictures: what is drawn of each kind of prediction, and in which colors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, singledispatch

import numpy as np
import torch
from torch import Tensor

from sfumato.contracts import Prediction, Task
from sfumato.errors import ConfigError
from sfumato.predictions import UNCERTAINTIES, ClassPrediction, ValuePrediction, uncertainties
from sfumato.report.data import ReportImage
from sfumato.report.vectors import color_wheel

COLORS = "magma"  # for every uncertainty and distance: perceptually uniform, dark is small


@cache
def color_table() -> np.ndarray:
    """The colors of evenly spaced values (256, 3) uint8, from the smallest to the largest."""
    from matplotlib import colormaps  # takes a third of a second to import

    return (colormaps[COLORS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Layers:
    """The layers of one prediction and its error, each (H, W) on the CPU.

    Args:
        error: 1 where the class is wrong, or the distance to the target in ``error_unit``.
        maps: Total, aleatoric and epistemic uncertainty in ``unit``.
        unit: ``nats``, or the unit of the target: variances are shown as standard deviations.
        label: Text of a color bar: the unit and, for values, that it is a standard deviation.
        error_unit: Unit of the error. Empty for classes.
        score: What summarizes the errors of some pixels: ``accuracy = 1 − mean`` or ``RMSE = √mean²``.
    """

    error: Tensor
    maps: dict[str, Tensor]
    unit: str
    label: str
    error_unit: str
    score: str


@singledispatch
def display_maps(prediction: object) -> dict[str, Tensor]:
    """Total, aleatoric and epistemic uncertainty (B, *event) as they are shown: nats for classes, σ for values.

    Pitfall: σ is the square root of a variance, so the shown parts of a value add up in squares.
    """
    raise _cannot_be_shown(prediction)


def _cannot_be_shown(prediction: object) -> ConfigError:
    return ConfigError(
        f"a {type(prediction).__name__} cannot be shown: expected a ClassPrediction or a ValuePrediction"
    )


@display_maps.register
def _(prediction: ClassPrediction) -> dict[str, Tensor]:
    return {name: values.detach().float().cpu() for name, values in uncertainties(prediction).items()}


@display_maps.register
def _(prediction: ValuePrediction) -> dict[str, Tensor]:
    return {name: values.detach().float().cpu().sqrt() for name, values in uncertainties(prediction).items()}


@singledispatch
def layers_of(prediction: object, target: Tensor) -> Layers:
    """The layers of a prediction (a batch of 1) against a target (H, W) or (D, H, W)."""
    raise _cannot_be_shown(prediction)


@layers_of.register
def _(prediction: ClassPrediction, target: Tensor) -> Layers:
    wrong = (prediction.label[0].cpu() != target.cpu()).float()
    return Layers(wrong, _first(display_maps(prediction)), "nats", "nats", "", "accuracy")


@layers_of.register
def _(prediction: ValuePrediction, target: Tensor) -> Layers:
    mean = prediction.mean[0].detach().float().cpu()
    distance = (mean - target.float().cpu().reshape(mean.shape)).norm(dim=0)
    unit = prediction.unit or "units"
    return Layers(distance, _first(display_maps(prediction)), unit, f"σ, {unit}", unit, "RMSE")


def _first(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values[0] for name, values in maps.items()}


@dataclass(frozen=True)
class ColorKey:
    """How to read the colors of a task: named swatches of classes, or a bar over values.

    Args:
        swatches: Name and color ``#rrggbb`` of each class. Empty for values.
        bar: Colors (N, 3) uint8 of evenly spaced values. None for classes.
        ends: The values at the ends of the bar. Of vectors 0 and the longest one that pictures show.
        unit: Unit of these values.
        wheel: Colors (N, N, 3) uint8 of all vectors up to the longest one, as a disk. None for other tasks.
    """

    swatches: tuple[tuple[str, str], ...] = ()
    bar: np.ndarray | None = None
    ends: tuple[float, float] = (0.0, 0.0)
    unit: str = ""
    wheel: np.ndarray | None = None


@singledispatch
def color_key(prediction: object, task: Task, values: tuple[float, float]) -> ColorKey:
    """How to read the colors that ``task`` gives to a prediction of this kind. ``values`` are the ends of the bar."""
    raise _cannot_be_shown(prediction)


@color_key.register
def _(prediction: ClassPrediction, task: Task, values: tuple[float, float]) -> ColorKey:
    classes = torch.arange(prediction.probs.shape[1])
    names: Sequence[str] = getattr(task, "names", [f"class {c}" for c in classes.tolist()])
    return ColorKey(tuple(zip(names, _hex(task.color(classes[None])[0]))))


def _hex(colors: Tensor) -> list[str]:
    """Colors (N, 3) uint8 as ``#rrggbb``."""
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]


@color_key.register
def _(prediction: ValuePrediction, task: Task, values: tuple[float, float]) -> ColorKey:
    if prediction.mean.shape[1] == 2:  # a vector: its direction, at the largest length
        reach = task.display_range[1]
        directions = torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1]])[:, None] * reach
        swatches = tuple(zip("→↓←↑", _hex(task.color(directions)[0])))
        return ColorKey(swatches, None, (0.0, reach), prediction.unit, color_wheel(task))
    if prediction.mean.shape[1] != 1:
        return ColorKey(unit=prediction.unit)
    low, high = values
    bar = task.color(torch.linspace(low, high, 256)[None])[0].numpy()
    return ColorKey((), bar, values, prediction.unit)


def value_range(images: Iterable[ReportImage]) -> tuple[float, float]:
    """The lowest and the highest 0.5 % quantile of all valid targets: the ends of the bar over values."""
    ends = [
        (quantile(known, 0.005), quantile(known, 0.995))
        for each in images
        if (known := each.target.float().cpu()[..., each.valid.cpu()]).numel()
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)


def quantile(values: Tensor, level: float) -> float:
    """The ``level`` quantile of the finite values, by sorting: ``torch.quantile`` refuses more than 16 M values."""
    values = values.flatten()
    values = values[values.isfinite()].float()
    if not len(values):
        return 0.0
    return values.kthvalue(max(1, min(len(values), round(level * len(values))))).values.item()


def scale_end(values: Sequence[Tensor], level: float = 0.99) -> float:
    """Upper end of a scale that all images share: the ``level`` quantile of all values, rounded up to two digits.

    It is 1 if all values are 0.

    >>> scale_end([torch.tensor([0.1, 0.42]), torch.tensor([0.837])])
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


def colored(values: Tensor, task: Task, valid: Tensor | None = None) -> np.ndarray:
    """A target or best guess in the task's colors, uint8 (H, W, 4), transparent where not valid."""
    colors = task.color(values.detach().cpu()).cpu().numpy()
    alpha = np.full(colors.shape[:2], 255, np.uint8) if valid is None else valid.cpu().numpy().astype(np.uint8) * 255
    return np.dstack([colors, alpha])


def unknown(valid: Tensor) -> np.ndarray:
    """A gray layer, uint8 (H, W, 4), over the pixels (H, W) that are not valid; transparent elsewhere."""
    mask = ~valid.cpu().numpy()
    return np.dstack([np.full((*mask.shape, 3), (150, 157, 165), np.uint8), mask.astype(np.uint8) * 255])


def has_no_epistemic_part(prediction: Prediction) -> bool:
    """Whether the epistemic part is 0 because one draw was made. An evidential likelihood has a part even then."""
    return getattr(prediction, "draws", 2) == 1 and not bool((prediction.epistemic > 1e-6).any())


__all__ = [
    "COLORS",
    "UNCERTAINTIES",
    "ColorKey",
    "Layers",
    "color_key",
    "color_table",
    "colored",
    "display_maps",
    "has_no_epistemic_part",
    "layers_of",
    "quantile",
    "rgb",
    "scale_end",
    "unknown",
    "value_range",
]
