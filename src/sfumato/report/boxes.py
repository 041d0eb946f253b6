"""Boxes over images for the page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sfumato.boxes import Boxes, match_boxes
from sfumato.contracts import DataSet
from sfumato.data.views import names_of, providing
from sfumato.evaluation import predict_sample
from sfumato.report.box_picture import FACTOR, class_colors
from sfumato.report.data import BoxSection
from sfumato.report.packing import data_uri
from sfumato.runs import Run
from sfumato.targets import Image

IMAGES = 6  # images of the section
LEAST = 0.05  # least score of a box on the page


def box_section(
    run: Run, dataset: DataSet, groups: Mapping[str, Sequence[int]], samples: int | None, seed: int
) -> BoxSection | None:
    """The boxes of some images of a data set, for the page. None if the run does not predict boxes.

    Args:
        run: The run.
        dataset: The images, at their original sizes.
        groups: The images that the page shows, of which the first ones are taken.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws.
    """
    finder = run.box_finder
    if finder is None:
        return None
    data, names = providing(dataset, ("boxes",)), names_of(dataset)
    chosen = list(dict.fromkeys(index for members in groups.values() for index in members))[:IMAGES]
    images = []
    for index in chosen:
        sample, prediction = predict_sample(run, data, index, samples=samples, seed=seed)
        assert isinstance(prediction, Mapping)
        true = sample.get("boxes")
        known = true if isinstance(true, Tensor) else torch.zeros(0, 6)
        image = sample[run.facts.inputs[0]]
        assert isinstance(image, Tensor)
        images.append({"name": names[index], **_packed(finder(prediction)[0], known, Image().to_float(image))})
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colors(finder.classes)]
    factor, meaning = FACTOR, ""
    if finder.bounds is not None:
        factor = round(finder.bounds.factor, 2)
        meaning = (
            f"At ± {factor} standard deviations, {finder.bounds.level:.0%} of the true boxes of an image that are "
            f"found are expected between the bounds; this was fitted on {finder.bounds.images} held-out images."
        )
    data_of_page = {"images": images, "classes": list(finder.classes), "colors": colors, "factor": factor}
    return BoxSection(data_of_page, list(zip(finder.classes, colors)), meaning)


def _packed(found: Boxes, true: Tensor, image: Tensor) -> dict[str, object]:
    """What the script of the page reads of one image."""
    kept = found.select(found.scores >= LEAST)
    same = match_boxes(kept, true)
    partner = same.partner.where(same.kind == 0, -1).tolist()
    columns = zip(kept.edges.tolist(), kept.std.tolist(), kept.classes.tolist(), kept.scores.tolist(), partner)
    pixels = (image[:3].float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return {
        "image": data_uri(np.ascontiguousarray(pixels), "JPEG"),
        "width": image.shape[-1],
        "height": image.shape[-2],
        "boxes": [
            [_rounded(edges), _rounded(std), kind, round(score, 4), mine] for edges, std, kind, score, mine in columns
        ],
        "true": [[_rounded(row[:4]), int(row[4]), int(row[5])] for row in true.tolist()],
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]
