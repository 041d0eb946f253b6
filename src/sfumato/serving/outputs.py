"""What `sfumato predict` writes of a sample: raw arrays, maps for other programs, and a figure to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from sfumato.contracts import Task
from sfumato.predictions import ClassPrediction, PosePrediction, PredictionSet, TaskPrediction, ValuePrediction
from sfumato.report.pictures import color_key, quantile, scale_end
from sfumato.report.prediction_figure import Panel, save_figure
from sfumato.runs import BoxFinder, part_of
from sfumato.runs.predictor import Predicted
from sfumato.sections import Json
from sfumato.serving.box_files import write_boxes
from sfumato.serving.formats import DepthMaps, Stereo, write_formats
from sfumato.serving.map_file import MapFile
from sfumato.serving.maps import Quantity, quantities, write_labels, write_map
from sfumato.serving.pose_files import pose_entry
from sfumato.storage import atomic_write, check_finite, fields
from sfumato.tasks import Disparity


def write_sample(
    bands: Iterable[tuple[slice, Predicted]],
    tasks: Mapping[str, Task],
    image: torch.Tensor,
    path: Path,
    state: str = "",
    stereo: Stereo | None = None,
    finder: BoxFinder | None = None,
) -> dict[str, TaskPrediction]:
    """Write all files of a sample. If anything fails, none of them appears.

    For each task (its name is added to those of the files if there are several):

    - ``NAME.safetensors``: the prediction, see :func:`sfumato.storage.load`;
    - ``NAME_label.png``: the id of the class of each pixel, as a palette or in 16 bits; or ``NAME_mean.png``;
    - ``NAME_total.png``, ``NAME_aleatoric.png``, ``NAME_epistemic.png`` and, for classes, ``NAME_probability.png``: 16
      bits, where ``NAME.json`` says what a 1 stands for;
    - ``NAME_sets.safetensors`` and ``NAME_set_size.png`` or ``NAME_interval_width.png`` if the run has conformal sets;
    - ``NAME_figure.png``: a picture of all of them;
    - of disparity ``NAME.pfm`` and, with a calibration, ``NAME_depth.png`` with the ends ``NAME_depth_near.png`` and
      ``NAME_depth_far.png`` of its 90 % interval, in 1/256 m;
    - of a camera pose the entry ``pose`` of ``NAME.json``: position, quaternion, covariance;
    - of boxes ``NAME_boxes.json``, in the format of COCO with covariances, and the picture ``NAME_boxes.png``;
    - of optical flow ``NAME.flo`` and ``NAME_vectors.png``, a picture of vectors with their 90 % ellipses.

    Args:
        bands: The prediction, some rows at a time, as :meth:`sfumato.runs.Predictor.bands` gives it.
        tasks: The tasks by name.
        image: The first input (1, C, H, W), for the figure.
        path: Path of the files, without an ending.
        state: The state of the run that predicts, which ``NAME.json`` repeats. Default: not known.
        stereo: The calibration of a stereo pair. Default: none, so no depth is written.
        finder: Finds boxes. Default: none are written.

    Returns:
        The prediction of the first rows by task: the whole prediction where there is one value for each image.

    Raises:
        NotFiniteError: If a number of the prediction is not finite.
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    with ExitStack() as files:

        def opened(suffix: str) -> Path:
            return files.enter_context(atomic_write(path.with_name(path.name + suffix)))

        stored: dict[str, MapFile] = {}
        firsts: dict[str, TaskPrediction] = {}
        sets: dict[str, MapFile] = {}
        kinds: dict[str, bool] = {}
        depths: dict[str, DepthMaps] = {}
        for rows, predicted in bands:
            for key in tasks:
                end = _ending(key, tasks)
                part: TaskPrediction = part_of(predicted.prediction, key)
                tensors = {name: value for name, value in fields(part).items() if isinstance(value, torch.Tensor)}
                check_finite(tensors, f"the prediction of {path.name}")
                if key not in stored:
                    stored[key], firsts[key] = MapFile(opened(f"{end}.safetensors"), (height, width)), part
                stored[key].add(rows, part)
                if stereo is not None and isinstance(tasks[key], Disparity) and isinstance(part, ValuePrediction):
                    depths.setdefault(key, DepthMaps(stereo, (height, width))).add(rows, part)
                if key in predicted.sets:
                    if key not in sets:
                        sets[key] = MapFile(opened(f"{end}_sets.safetensors"), (height, width))
                        kinds[key] = isinstance(predicted.sets[key], PredictionSet)
                    sets[key].add(rows, predicted.sets[key])
        entries: dict[str, Json] = {}
        for key, task in tasks.items():
            if not firsts[key].is_map:  # one value for each image has no map to draw
                continue
            end, first = _ending(key, tasks), firsts[key]
            file, unit = stored[key], getattr(first, "unit", "nats")
            found = [*quantities(file, first, unit)]
            if key in sets:
                name, of = ("set_size", "classes") if kinds[key] else ("interval_width", unit)
                found.append(Quantity(name, sets[key], "size", of))
            if isinstance(first, ClassPrediction):
                name = f"{end}_label.png"
                labels = file.array("label")[0]
                entries[path.name + name] = write_labels(labels, first, task, opened(name))
            for each in found:
                name = f"{end}_{each.name}.png"
                entries[path.name + name] = {"task": key, **write_map(each, opened(name))}
            if isinstance(first, ValuePrediction):
                write_formats(task, file, first, image, lambda suffix, end=end: opened(end + suffix))
            if key in depths:
                entries |= {path.name + name: about for name, about in depths[key].write(opened, end).items()}
            save_figure(_panels(image, first, task, file, found), opened(f"{end}_figure.png"))
        about: dict[str, Json] = {"height": height, "width": width, "run_state": state, "maps": entries}
        about |= {key: pose_entry(first) for key, first in firsts.items() if isinstance(first, PosePrediction)}
        if finder is not None:
            write_boxes(finder, stored, firsts, image, path.name, opened)
        opened(".json").write_text(json.dumps(about, indent=1, allow_nan=False), encoding="utf-8")
    return firsts


def _ending(key: str, tasks: Mapping[str, Task]) -> str:
    return f"_{key}" if len(tasks) > 1 else ""


def _panels(
    image: torch.Tensor, first: TaskPrediction, task: Task, file: MapFile, found: Iterable[Quantity]
) -> Iterable[Panel]:
    """What the figure shows."""
    step = max(1, image.shape[-1] // 1024)
    pixels = image[0, :3, ::step, ::step]
    pixels = (pixels.float() * (1 if image.dtype == torch.uint8 else 255)).round().byte().cpu()
    yield Panel("image", pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    if isinstance(first, ClassPrediction):
        labels = torch.from_numpy(file.array("label")[0, ::step, ::step].astype(np.int64))
        yield Panel(task.key, task.color(labels).numpy(), key=color_key(first, task, task.display_range))
    else:
        means = torch.from_numpy(np.array(file.array("mean")[0, :, ::step, ::step]))
        ends = (quantile(means, 0.005), quantile(means, 0.995))
        yield Panel(task.key, task.color(means).numpy(), key=color_key(first, task, ends))
    for each in found:
        if not each.name.startswith("mean"):
            shown = each.shown()
            text = f"{each.name} (σ)" if each.root else each.name
            yield Panel(text, shown, each.unit, scale_end([torch.from_numpy(shown)]))
