"""The maps of one prediction as files."""

from __future__ import annotations

from pathlib import Path

from sfumato.contracts import Prediction, Task
from sfumato.predictions import ClassPrediction, PredictionInterval, PredictionSet
from sfumato.report.figures import save_best, save_map
from sfumato.report.pictures import display_maps, scale_end


def save_set_sizes(sets: PredictionSet | PredictionInterval, path: Path) -> None:
    """Write how many classes each pixel may have, or how wide its interval is, as a PNG file.

    Args:
        sets: Sets or intervals of a batch of 1.
        path: The file.
    """
    if isinstance(sets, PredictionSet):
        name, unit, ends = "set size", "classes", (1.0, float(sets.members.shape[1]))
    else:
        name, unit, ends = "interval width", sets.unit, (0.0, scale_end([sets.size]))
    save_map(sets.size[0].float(), path, name, unit, ends)


def save_maps(prediction: Prediction, task: Task, folder: Path, name: str) -> None:
    """Write NAME_label, NAME_total, NAME_aleatoric, NAME_epistemic (and NAME_probability of classes) as PNG files.

    Args:
        prediction: Prediction of a batch of 1.
        task: The task. It gives the best guess its colors, and its ``color_scales`` are the same for all images.
        folder: An existing folder.
        name: Name of the image.
    """
    save_best(prediction, task, folder / f"{name}_label.png", task.key, task.display_range)
    if isinstance(prediction, ClassPrediction):  # a value has no probability, only a density
        lowest = 1 / prediction.probs.shape[1]
        file = folder / f"{name}_probability.png"
        save_map(prediction.confidence[0], file, "probability", "of the label", (lowest, 1))
    for part, values in display_maps(prediction).items():
        end, unit = task.color_scales[part]
        save_map(values[0], folder / f"{name}_{part}.png", part, unit, (0, end))
