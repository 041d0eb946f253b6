"""The maps of one prediction as files."""

from __future__ import annotations

from pathlib import Path

from sfumato.contracts import Prediction, Task
from sfumato.predictions import ClassPrediction, PredictionInterval, PredictionSet
from sfumato.report.figures import save_best, save_map
from sfumato.report.pictures import parts, top


def save_sizes(region: PredictionSet | PredictionInterval, path: Path) -> None:
    """Write how many classes each pixel may have, or how wide its interval is, as PNG; a batch of 1."""
    if isinstance(region, PredictionSet):
        name, unit, ends = "set size", "classes", (1.0, float(region.members.shape[1]))
    else:
        name, unit, ends = "interval width", region.unit, (0.0, top([region.size]))
    save_map(region.size[0].float(), path, name, unit, ends)


def save_maps(prediction: Prediction, task: Task, folder: Path, name: str) -> None:
    """Write NAME_label, NAME_total, NAME_aleatoric, NAME_epistemic (and NAME_probability of classes) as PNG.

    Args:
        prediction: a batch of 1.
        task: paints the best guess; its ``scales`` fix the colors, so that maps of all images compare.
        folder: exists.
        name: of the image.
    """
    save_best(prediction, task, folder / f"{name}_label.png", task.key, task.display_range)
    if isinstance(prediction, ClassPrediction):  # a value has no probability, only a density
        least = 1 / prediction.probs.shape[1]
        save_map(
            prediction.confidence[0], folder / f"{name}_probability.png", "probability", "of the label", (least, 1)
        )
    for part, values in parts(prediction).items():
        save_map(values[0], folder / f"{name}_{part}.png", part, task.scales[part][1], (0, task.scales[part][0]))
