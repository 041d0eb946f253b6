"""Camera poses in a report: the path of the camera with ellipses, and images beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

from sfumato.contracts import DataSet
from sfumato.evaluation import Evaluation, predict_sample
from sfumato.predictions import PosePrediction
from sfumato.report.curves import COOL, FADED, WARM, svg
from sfumato.report.data import PathImage, PathSection
from sfumato.report.figures import STYLE
from sfumato.report.packing import data_uri
from sfumato.report.pictures import rgb
from sfumato.runs import Run
from sfumato.targets import Image

ELLIPSES = 40  # poses whose ellipse is drawn, evenly spread
LEVEL = 0.9  # of the ellipses
REACH = float(np.sqrt(-2 * np.log1p(-LEVEL)))  # standard deviations, of a normal distribution in the plane
SIDE = 240  # longer side of a picture, pixels
VIEWS = ((0, 1), (0, 2))  # axes of the two drawings
AXES = "xyz"


@dataclass(frozen=True)
class _Posed:
    """Predicted and true poses of all images."""

    names: list[str]
    found: list[PosePrediction]
    truth: Tensor
    known: Tensor


def path_section(
    run: Run, evaluation: Evaluation, dataset: DataSet, groups: Mapping[str, list[int]], samples: int | None
) -> PathSection:
    """What a report shows of camera poses.

    Args:
        run: A run of poses.
        evaluation: Its evaluation.
        dataset: The images that it was evaluated on.
        groups: Indices of the images to show, by group.
        samples: Number of draws. None for the number in the plan.
    """
    posed = _predicted(run, dataset, samples, evaluation.seed)
    pictures = [
        _picture(dataset, posed, index, group, evaluation) for group, members in groups.items() for index in members
    ]
    return PathSection(_drawing(posed), pictures, LEVEL)


def _predicted(run: Run, dataset: DataSet, samples: int | None, seed: int) -> _Posed:
    names, found, truth, known = [], [], [], []
    for index in range(len(dataset)):
        sample, prediction = predict_sample(run, dataset, index, samples=samples, seed=seed)
        assert isinstance(prediction, PosePrediction)
        target, valid = run.single_task.target_and_mask(run.single_task.entries(sample))
        names.append(str(sample.get("name", index)))
        found.append(prediction.to("cpu"))
        truth.append(target.float().cpu())
        known.append(valid.cpu())
    return _Posed(names, found, torch.stack(truth), torch.stack(known))


def _picture(dataset: DataSet, posed: _Posed, index: int, group: str, evaluation: Evaluation) -> PathImage:
    first = dataset[index][dataset.inputs[0]]
    assert isinstance(first, Tensor)
    pixels = Image().to_float(first)
    step = max(1, max(pixels.shape[-2:]) // SIDE)
    found = posed.found[index]
    away = (found.near(posed.truth[index : index + 1]) - found.mean)[0]
    errors = (away[:3].norm().item(), torch.rad2deg(away[3:].norm()).item()) if posed.known[index] else ()
    spreads = found.position_std.item(), torch.rad2deg(found.rotation_std).item()
    picture = data_uri(rgb(pixels[..., ::step, ::step]), "JPEG")
    return PathImage(posed.names[index], group, picture, errors, spreads)


def _drawing(posed: _Posed) -> str:
    """Two views of the path, in the planes of the world."""
    places = torch.cat([each.mean[:, :3] for each in posed.found]).numpy()
    covariances = torch.cat([each.covariance[:, :3, :3] for each in posed.found]).double().numpy()
    true = posed.truth[:, :3].where(posed.known[:, None], torch.nan).numpy()
    with rc_context(STYLE):
        figure = Figure((9.6, 4.6), layout="constrained")
        axes = np.asarray(figure.subplots(1, len(VIEWS)))
        for axis, (across, up) in zip(axes, VIEWS):
            _view(axis, places, covariances, true, (across, up))
        axes[0].legend(frameon=False, loc="best", fontsize=8)
        return svg(figure, "path")


def _view(axis: Axes, places: np.ndarray, covariances: np.ndarray, true: np.ndarray, plane: tuple[int, int]) -> None:
    pair = list(plane)
    axis.plot(*true[:, pair].T, color=FADED, lw=2, label="true path")
    for start, end in zip(true[:, pair], places[:, pair]):
        axis.plot(*np.stack([start, end]).T, color=FADED, lw=0.4)
    for index in range(0, len(places), max(1, len(places) // ELLIPSES)):
        values, vectors = np.linalg.eigh(covariances[index][np.ix_(pair, pair)])
        width, height = 2 * REACH * np.sqrt(values.clip(0))
        angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        middle = (float(places[index, plane[0]]), float(places[index, plane[1]]))
        axis.add_patch(Ellipse(middle, width, height, angle=angle, fill=False, ec=COOL, lw=0.5, alpha=0.6))
    axis.plot(*places[:, pair].T, color=WARM, ls="", marker="o", ms=2.5, label="predicted")
    axis.plot([], [], color=COOL, lw=0.8, label=f"{LEVEL:.0%} ellipse")
    axis.set(xlabel=f"{AXES[plane[0]]} (m)", ylabel=f"{AXES[plane[1]]} (m)")
    axis.set_aspect("equal", adjustable="datalim")
