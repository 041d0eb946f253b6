"""Pictures for files: a strip of layers with color bars, and single maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sfumato.contracts import Prediction, Task
from sfumato.report.pictures import PARTS, Key, key, painted, rgb, top, value_range, view
from sfumato.report.story import Shown
from sfumato.storage import atomic_write

COLORS = "magma"  # of every uncertainty and distance: perceptually uniform, dark is sure
RIGHT_WRONG = ListedColormap(["#e2e6ea", "#c43e1c"])
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a "$" in a file's name is a "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_png(figure: Figure, path: str | Path) -> Path:
    """Save a figure, whole or not at all."""
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight", pad_inches=0.04)
    return Path(path)


def save_map(values: Tensor, path: str | Path, label: str, unit: str, scale: tuple[float, float]) -> Path:
    """Write one map with its color bar as a PNG.

    Args:
        values: (H, W).
        path: of the file.
        label: above the map, as in ``"epistemic"``.
        unit: beside the color bar, as in ``"nats"``.
        scale: values of the ends of the color bar; the same for maps that are to be compared.

    Returns:
        The path.

    Pitfall: a scale fitted to each map makes a sure network look as unsure as an unsure one.
    """
    with rc_context(STYLE):
        figure, axes = _grid(1, 1, values.shape[-2:], 5.0)
        _map(figure, axes[0, 0], values, unit, scale, COLORS)
        axes[0, 0].set_title(label)
        return write_png(figure, path)


def save_best(prediction: Prediction, task: Task, path: str | Path, label: str, scale: tuple[float, float]) -> Path:
    """Write the best guess of a batch of 1 in the task's colors as a PNG, with the key to read them.

    Args:
        prediction: its ``best[0]`` is painted.
        task: paints it.
        path: of the file.
        label: above the picture.
        scale: values of the ends of the key's bar; not looked at for classes.
    """
    best: Tensor = prediction.best[0]  # pyright: ignore[reportAttributeAccessIssue]
    with rc_context(STYLE):
        figure, axes = _grid(1, 1, best.shape[-2:], 5.0)
        axes[0, 0].imshow(painted(best, task), interpolation="nearest")
        axes[0, 0].set_title(label)
        _key(figure, axes[0, :], key(prediction, task, scale))
        return write_png(figure, path)


def panel(shown: Sequence[Shown], task: Task, path: str | Path) -> Path:
    """Write image | truth | prediction | error | total | aleatoric | epistemic as a PNG, one row per image.

    Args:
        shown: at least one; the rows share the scale of each column.
        task: paints truth and prediction.
        path: of the file.

    Returns:
        The path.
    """
    views = [view(each.prediction, each.target) for each in shown]
    errors = [seen.error[each.valid.cpu()] for each, seen in zip(shown, views)]
    furthest, blame = (top(errors), COLORS) if views[0].error_unit else (1.0, RIGHT_WRONG)
    scales = {part: (0.0, top([getattr(seen, part) for seen in views])) for part in PARTS}
    with rc_context(STYLE):
        figure, axes = _grid(len(shown), 7, shown[0].image.shape[-2:], 2.2)
        for row, each, seen in zip(axes, shown, views):
            best: Tensor = each.prediction.best[0]  # pyright: ignore[reportAttributeAccessIssue]
            row[0].imshow(rgb(each.image))
            row[1].imshow(painted(each.target, task, each.valid), interpolation="nearest")
            row[2].imshow(painted(best, task), interpolation="nearest")
            error = seen.error.where(each.valid.cpu(), float("nan")).numpy()
            row[3].imshow(error, cmap=blame, vmin=0, vmax=furthest, interpolation="nearest")
            for axis, part in zip(row[4:], PARTS):
                layer = getattr(seen, part).numpy()
                axis.imshow(layer, cmap=COLORS, vmin=0, vmax=scales[part][1], interpolation="nearest")
        for axis, title in zip(axes[0], ("image", "truth", "prediction", "error", *PARTS)):
            axis.set_title(title)
        if views[0].error_unit:
            _bar(figure, axes[:, 3], views[0].error_unit, (0.0, furthest), COLORS)
        for column, part in enumerate(PARTS, 4):
            _bar(figure, axes[:, column], views[0].label, scales[part], COLORS)
        _key(figure, axes[:, 1:3].ravel(), key(shown[0].prediction, task, value_range(shown)))
        return write_png(figure, path)


def _grid(rows: int, columns: int, size: Sequence[int], width: float) -> tuple[Figure, np.ndarray]:
    """Axes without ticks for images of ``size`` (H, W), each ``width`` inches wide."""
    figure = Figure((columns * width, rows * width * size[0] / size[1] + 0.7), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _map(figure: Figure, axis: Axes, values: Tensor, unit: str, scale: tuple[float, float], colors: Any) -> None:
    axis.imshow(
        values.detach().float().cpu().numpy(), cmap=colors, vmin=scale[0], vmax=scale[1], interpolation="nearest"
    )
    _bar(figure, axis, unit, scale, colors)


def _bar(figure: Figure, axes: Any, unit: str, scale: tuple[float, float], colors: Any) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(*scale), colors), ax=axes, location="bottom", pad=0.03, aspect=25, shrink=0.9
    )
    bar.set_label(unit)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=2)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()


def _key(figure: Figure, axes: np.ndarray, colors: Key) -> None:
    if colors.bar is not None:
        _bar(figure, axes, colors.unit, colors.ends, ListedColormap(colors.bar / 255))
    if colors.swatches:
        handles = [Patch(color=color, label=name) for name, color in colors.swatches]
        columns = min(len(handles), 8)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
