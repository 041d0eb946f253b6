"""The maps of one prediction as files."""

from __future__ import annotations

from pathlib import Path

from sfumato.contracts import Prediction, Task
from sfumato.predictions import ClassPrediction
from sfumato.report.figures import save_best, save_map
from sfumato.report.pictures import parts


def save_maps(prediction: Prediction, task: Task, folder: Path, name: str) -> None:
    """Write NAME_label, NAME_total, NAME_aleatoric, NAME_epistemic (and NAME_probability of classes) as PNG.

    Args:
        prediction: a batch of 1.
        task: paints the best guess; its ``scales`` fix the colours, so that maps of all images compare.
        folder: exists.
        name: of the image.
    """
    save_best(prediction, task, folder / f"{name}_label.png", task.key, task.span)
    if isinstance(prediction, ClassPrediction):  # a value has no probability, only a density
        least = 1 / prediction.probs.shape[1]
        save_map(
            prediction.confidence[0], folder / f"{name}_probability.png", "probability", "of the label", (least, 1)
        )
    for part, values in parts(prediction).items():
        save_map(values[0], folder / f"{name}_{part}.png", part, task.scales[part][1], (0, task.scales[part][0]))
