"""Pictures for files: a strip of layers with color bars, and single maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sfumato.contracts import Task
from sfumato.predictions import UNCERTAINTIES
from sfumato.report.data import ReportImage
from sfumato.report.pictures import (
    COLORS,
    ColorKey,
    color_key,
    colored,
    layers_of,
    rgb,
    scale_end,
    unknown,
    value_range,
)
from sfumato.storage import atomic_write

RIGHT_WRONG = ListedColormap(["#e2e6ea", "#c43e1c"])
STYLE: dict[Any, Any] = {  # the type of the keys differs between versions of matplotlib
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a "$" in the name of a file is a "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_png(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a PNG file, as a whole or not at all."""
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight", pad_inches=0.04)
    return Path(path)


def save_panel(images: Sequence[ReportImage], task: Task, path: str | Path) -> Path:
    """Write image, ground truth, prediction, error, total, aleatoric and epistemic as a PNG file, a row per image.

    Pixels without a target are gray, unless the whole image has none.

    Args:
        images: At least one image. The rows share the scale of each column.
        task: The task, which gives targets and predictions their colors.
        path: The file.

    Returns:
        The path.
    """
    layers = [layers_of(each.prediction, each.target) for each in images]
    errors = [each.error[image.valid.cpu()] for image, each in zip(images, layers)]
    furthest, error_colors = (scale_end(errors), COLORS) if layers[0].error_unit else (1.0, RIGHT_WRONG)
    scales = {part: (0.0, scale_end([each.maps[part] for each in layers])) for part in UNCERTAINTIES}
    with rc_context(STYLE):
        figure, axes = _grid(len(images), 7, images[0].image.shape[-2:], 2.2)
        for row, image, each in zip(axes, images, layers):
            best: Tensor = image.prediction.best[0]
            row[0].imshow(rgb(image.image))
            row[1].imshow(colored(image.target, task, image.valid), interpolation="nearest")
            row[2].imshow(colored(best, task), interpolation="nearest")
            _map(row[3], each.error.where(image.valid.cpu(), float("nan")), (0.0, furthest), error_colors)
            for axis, part in zip(row[4:], UNCERTAINTIES):
                _map(axis, each.maps[part], scales[part])
            for axis in row[1:] if bool(image.valid.any()) else ():
                axis.imshow(unknown(image.valid), interpolation="nearest")
        for axis, title in zip(axes[0], ("image", "ground truth", "prediction", "error", *UNCERTAINTIES)):
            axis.set_title(title)
        if layers[0].error_unit:
            _bar(figure, axes[:, 3], layers[0].error_unit, (0.0, furthest), COLORS)
        for column, part in enumerate(UNCERTAINTIES, 4):
            _bar(figure, axes[:, column], layers[0].label, scales[part], COLORS)
        _key(figure, axes[:, 1:3].ravel(), color_key(images[0].prediction, task, value_range(images)))
        return write_png(figure, path)


def _grid(rows: int, columns: int, size: Sequence[int], width: float) -> tuple[Figure, np.ndarray]:
    """Axes without ticks for images of ``size`` (H, W), each ``width`` inches wide."""
    figure = Figure((columns * width, rows * width * size[0] / size[1] + 0.7), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _map(axis: Axes, values: Tensor, scale: tuple[float, float], colors: str | Colormap = COLORS) -> None:
    pixels = values.detach().float().cpu().numpy()
    axis.imshow(pixels, cmap=colors, vmin=scale[0], vmax=scale[1], interpolation="nearest")


def _bar(
    figure: Figure, axes: Axes | np.ndarray, unit: str, scale: tuple[float, float], colors: str | Colormap
) -> None:
    mappable = ScalarMappable(Normalize(*scale), colors)
    bar = figure.colorbar(mappable, ax=axes, location="bottom", pad=0.03, aspect=25, shrink=0.9)
    bar.set_label(unit)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] matplotlib types it as a property of functions
    bar.ax.tick_params(length=2)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()


def _key(figure: Figure, axes: np.ndarray, key: ColorKey) -> None:
    if key.bar is not None:
        _bar(figure, axes, key.unit, key.ends, ListedColormap(key.bar / 255))
    if key.swatches:
        handles = [Patch(color=color, label=name) for name, color in key.swatches]
        columns = min(len(handles), 8)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
