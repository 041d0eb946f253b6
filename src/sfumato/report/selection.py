"""One HTML page about what was chosen to be labeled, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image as Pillow

import sfumato
from sfumato.acquisition import Query, Selected, Selection
from sfumato.contracts import DataSet
from sfumato.errors import plain
from sfumato.report.packing import data_uri
from sfumato.report.page import OBEYED
from sfumato.report.pictures import color_table, scale_end
from sfumato.runs import Run
from sfumato.storage import atomic_write
from sfumato.targets import Image

MOST_IMAGES, MOST_ROWS = 24, 200
SIDE = 560  # longer side of a shown image, pixels
OUTLINE = np.array([255, 140, 0], np.uint8)
MEANINGS = {
    "top-k": "the units with the largest score",
    "gumbel": "units drawn by their score, so that similar ones are not all chosen",
    "class-stratified": "two of three units by the predicted classes in turn, the others by score",
    "k-center": "the units whose features are farthest from all that is labeled or chosen",
    "random": "units at random",
    "class-stratified-random": "two of three units by the predicted classes in turn, at random, the others at random",
}


@dataclass(frozen=True)
class _Shown:
    """One image of the page: its name, two pictures as data URIs, and its units."""

    name: str
    image: str
    score: str
    units: Sequence[Selected]


def write_selection(found: Selection, pool: DataSet, run: Run, query: Query, path: str | Path) -> Path:
    """Write a page that shows the chosen units on their images, the map of the score, and the numbers of each unit.

    Args:
        found: What was chosen.
        pool: The images.
        run: The run that was asked.
        query: How the units were chosen.
        path: The HTML file. Its folder must exist.

    Returns:
        The path.

    Raises:
        ResourceError: If the disk is full.
    """
    path, here = Path(path), files("sfumato.report")
    by_picture: dict[int, list[Selected]] = {}
    for each in found.units:
        by_picture.setdefault(each.picture, []).append(each)
    few = list(by_picture)[:MOST_IMAGES]  # by the unit that was chosen first
    end = scale_end([found.looks[number][1] for number in few])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((here / "selection.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        css=Markup((here / "page.css").read_text(encoding="utf-8")),
        run=run.folder.name, query=query, meaning=MEANINGS[query.selector], selection=found,
        version=sfumato.__version__,
        images=[_shown(number, by_picture[number], found, pool, end) for number in few], pictures=len(by_picture),
        end=f"{end:.3g}", bar=data_uri(color_table()[None]), rows=list(found.units)[:MOST_ROWS],
        share=100 * found.pixels / sum(each.height * each.width for each in found.pictures),
        scored=query.score.replace("-", " "), by_score=query.needs_prediction,
    )  # fmt: skip
    with atomic_write(path) as part:
        part.write_text(OBEYED.sub(lambda each: plain(each[0]), text), encoding="utf-8")
    return path


def _shown(number: int, units: Sequence[Selected], found: Selection, pool: DataSet, end: float) -> _Shown:
    sample: Any = pool[number]
    picture = found.pictures[number]
    pixels = (Image().to_float(sample["image"]) * 255).round().byte().movedim(0, -1).numpy()
    codes = (found.looks[number][1].float() / end).clamp(0, 1).mul(255).round().byte().numpy()
    colors = color_table()[codes]
    edges = np.zeros((picture.height, picture.width), bool)
    for each in units:
        edges |= _outline(each.area.full(picture.height, picture.width))
    image, score = (data_uri(_small(np.where(edges[..., None], OUTLINE, each)), "JPEG") for each in (pixels, colors))
    return _Shown(picture.name, image, score, units)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels (H, W) of a mask that have a neighbor outside it, widened by one; of single pixels a small cross."""
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 3, 1, 1)[0].bool().numpy()
    return grown & ~mask if mask.sum() < 16 else grown & ~_shrunk(mask)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    outside = torch.from_numpy(~mask)[None].float()
    return ~torch.nn.functional.max_pool2d(outside, 3, 1, 1)[0].bool().numpy() & mask


def _small(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BOX))
