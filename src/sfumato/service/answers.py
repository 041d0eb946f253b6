"""The default answer: label and uncertainties of an image as PNG, and a summary, as JSON."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.decisions import Decisions
from sfumato.errors import DataError
from sfumato.predictions import ClassPrediction, PredictionSet, TaskPrediction, ValuePrediction
from sfumato.runs import Predicted, part_of
from sfumato.sections import Json
from sfumato.service.decisions import decided
from sfumato.service.model import Model
from sfumato.serving.batches import Ready, outputs
from sfumato.serving.maps import LARGEST, HeldMaps, Quantity, quantities, write_gray, write_labels, write_map

LEVEL = 0.9  # of the interval whose ends a summary gives in standard deviations


def answer(model: Model, sample: Ready, predicted: Predicted, probabilities: bool = False) -> dict[str, Json]:
    """The answer for one image, as JSON.

    Args:
        model: The model.
        sample: The image.
        predicted: Its prediction at the original size.
        probabilities: Whether the probabilities of all classes are added. Default False.
    """
    height, width = sample.scaling.original
    tasks: dict[str, Json] = {}
    for key, task in model.tasks.items():
        part: TaskPrediction = part_of(predicted.prediction, key)
        decisions, sets = model.decisions[key], predicted.sets.get(key)
        tasks[key] = _task_answer(part, task, sets, (height, width), decisions, probabilities)
    return {"height": height, "width": width, "tasks": tasks}


def _task_answer(
    part: TaskPrediction,
    task: Task,
    sets: object,
    size: tuple[int, int],
    decisions: Decisions,
    probabilities: bool,
) -> dict[str, Json]:
    if not part.is_map:
        about = decided(decisions, part, part.epistemic) | _summary(part, part.best, task)
        values: dict[str, Json] = {name: value[0].tolist() for name, value in outputs(part).items()}
        return {"summary": about, "values": values}
    held, unit = HeldMaps(part, size), getattr(part, "unit", "nats")
    best = held.tensor("label") if isinstance(part, ClassPrediction) else part.mean
    about = decided(decisions, part, held.tensor("epistemic")) | _summary(part, best, task)
    found = [each for each in quantities(held, part, unit) if probabilities or each.name != "probability"]
    maps: dict[str, Json] = {}
    if isinstance(part, ClassPrediction):
        picture = io.BytesIO()
        maps["label"] = write_labels(held.array("label")[0], part, task, picture) | _png(picture)
        if probabilities:
            maps["probabilities"] = _probabilities(part)
    if sets is not None:
        name, of = ("set_size", "classes") if isinstance(sets, PredictionSet) else ("interval_width", unit)
        found.append(Quantity(name, HeldMaps(sets, size), "size", of))  # pyright: ignore[reportArgumentType] stored sets
    for each in found:
        picture = io.BytesIO()
        maps[each.name] = {"task": task.key, **write_map(each, picture), **_png(picture)}
    size_map = maps.get("set_size", maps.get("interval_width"))
    about["set_size"] = size_map["mean"] if isinstance(size_map, dict) else None
    return {"summary": about, "maps": maps}


def _summary(part: TaskPrediction, best: Tensor, task: Task) -> dict[str, Json]:
    if isinstance(part, ValuePrediction):
        ends: list[Json] = [part.standard_quantile((1 + sign * LEVEL) / 2) for sign in (-1, 1)]
        return {"kind": "value", "unit": part.unit, "draws": part.draws, "interval_ends": ends}
    counts = torch.bincount(best.flatten(), minlength=part.probs.shape[1])
    shares = (counts / counts.sum()).tolist()
    names = [str(name) for name in getattr(task, "names", range(len(shares)))]
    colors = task.color(torch.arange(len(shares))[None])[0].tolist()
    return {
        "kind": "class", "unit": "nats", "draws": part.draws, "shares": dict(zip(names, shares)),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in colors],
    }  # fmt: skip


def _probabilities(part: ClassPrediction) -> dict[str, Json]:
    """All probabilities as one picture, the maps of the classes below each other."""
    classes, height, width = part.probs.shape[1:]
    if classes * height > LARGEST:
        raise DataError(
            f"the probabilities of {classes} classes make a picture of {classes * height} rows, more than {LARGEST}: "
            "ask for them by the protocol V2"
        )
    pixels = (part.probs[0].numpy() * LARGEST).round().astype(np.uint16).reshape(classes * height, width)
    picture = io.BytesIO()
    write_gray(pixels, picture)
    return {"quantity": "probabilities", "shape": [classes, height, width], "unit": "", "scale": 1 / LARGEST,
            "offset": 0.0, **_png(picture)}  # fmt: skip


def _png(picture: io.BytesIO) -> dict[str, Json]:
    return {"png": base64.b64encode(picture.getbuffer()).decode()}
