"""One self-contained HTML page: it opens anywhere, and nothing in it reaches out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import sfumato
from sfumato.contracts import Task
from sfumato.report import curves
from sfumato.report.figures import COLORS
from sfumato.report.glossary import WORDS
from sfumato.report.pictures import PARTS, Key, View, is_one_draw, key, packed, top, uri, value_range, view
from sfumato.report.story import Shown, Story
from sfumato.storage import atomic_write

WEIGHT = 7_000_000  # characters of all images together: a page that can be sent by mail
PIXELS = 1_500_000  # kept of all maps of a page together, fewer if they weigh more
SIDE = 640  # of the longer side of a map, which is more than the page shows


def write(story: Story | Mapping[str, Story], path: str | Path) -> Path:
    """Write the page of a story.

    Args:
        story: what it tells; of several tasks one of each by name, about the same images in the same order.
            Title, facts, groups and history are those of the first.
        path: of the HTML file; its folder must exist.

    Returns:
        The path.

    Raises:
        ValueError: if a group names an image that is not shown, or tasks show different images.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    with atomic_write(path) as part:
        part.write_text(_html({"": story} if isinstance(story, Story) else story), encoding="utf-8")
    return path


def _html(stories: Mapping[str, Story]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    here = files("sfumato.report")
    assets = {name: Markup((here / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    tasks = [_task(name, story, len(stories)) for name, story in stories.items()]
    story, data = tasks[0]["story"], tasks[0]["data"]
    if len({tuple(each.name for each in one.shown) for one in stories.values()}) > 1:
        raise ValueError(f"the tasks {', '.join(stories)} show different images: show the same ones, in the same order")
    if data and not (len(stories) == 1 and "" in stories):
        for task in tasks[1:]:  # the page keeps the images themselves once
            for image in task["data"]["images"]:
                del image["image"]
        data = {"tasks": {task["name"]: task["data"] for task in tasks}}
    return template.render(
        story=story,
        tasks=tasks,
        figures=tasks[0]["figures"],
        one_draw=bool(story.shown) and all(is_one_draw(each.prediction) for each in story.shown),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")) if data else "",
        words=WORDS,
        version=sfumato.__version__,
        **assets,
    )


def _task(name: str, story: Story, tasks: int) -> dict[str, Any]:
    """What the page shows of one of so many tasks."""
    data, colors = _data(story, tasks)
    figures = _figures(story, data)
    if name:  # ids must differ within one page
        figures = {kind: re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text) for kind, text in figures.items()}
    return {
        "name": name,
        "story": story,
        "data": data,
        "key": colors,
        "bar": None if colors is None or colors.bar is None else uri(colors.bar[None]),
        "figures": {kind: Markup(text) for kind, text in figures.items()},
    }


def _figures(story: Story, data: dict[str, Any]) -> dict[str, str]:
    drawn: dict[str, str] = dict.fromkeys(("reliability", "rejection", "history", "contrast"), "")
    if story.reliability is not None:
        drawn["reliability"] = curves.reliability(story.reliability)
    if story.rejection is not None:
        drawn["rejection"] = curves.rejection(story.rejection)
    if story.history:
        drawn["history"] = curves.history(dict(story.history))
    if story.shift is not None and story.shift.parts:
        drawn["contrast"] = curves.contrast(dict(story.shift.parts), data.get("label", ""), story.shift.name)
    return drawn


def _data(story: Story, tasks: int = 1) -> tuple[dict[str, Any], Key | None]:
    """What the page's script reads, and the key to the task's colors."""
    elsewhere = list(story.shift.shown) if story.shift else []
    shown = [*story.shown, *elsewhere]
    if not shown:
        return {}, None
    views = [view(each.prediction, each.target) for each in shown]
    ends = _ends(shown, views)
    colors = key(shown[0].prediction, story.task, value_range(shown))
    images = _images(shown, views, story.task, ends, tasks)
    table = (matplotlib.colormaps[COLORS](np.arange(256))[:, :3] * 255).round().astype(int)
    data = {
        "images": images,
        "groups": _groups(story, len(elsewhere)),
        "ends": ends,
        "unit": views[0].unit,
        "label": views[0].label,
        "errorUnit": views[0].error_unit,
        "score": views[0].score,
        "sizes": story.sizes[0],
        "sizesUnit": story.sizes[1],
        "colors": table.tolist(),
    }
    return data, colors


def _ends(shown: list[Shown], views: list[View]) -> dict[str, float]:
    """Ends of the scales that all images share; ``worst`` is the largest error, ``error`` where its colors end."""
    taught = [view(each.teacher, each.target) for each in shown if each.teacher is not None]
    ends = {part: top([getattr(seen, part) for seen in [*views, *taught]]) for part in PARTS}
    # A part a thousand times smaller than the total is nothing but rounding: it shall look like nothing.
    ends = {part: max(end, ends["total"] / 1000) for part, end in ends.items()}
    errors = [seen.error[each.valid.cpu()] for each, seen in zip(shown, views)]
    worst = max((float(e[e.isfinite()].max()) for e in errors if e.isfinite().any()), default=0.0)
    sizes = [each.size for each in shown if each.size is not None]
    counted = [each.size[each.valid].float().cpu() for each in shown if each.size is not None]  # not of the sky
    widest = top(counted)
    if not any(size.is_floating_point() for size in sizes):
        widest = 4.0 * math.ceil(widest / 4)  # counts: the bar has five ticks
    return {**ends, "error": top(errors), "worst": worst or 1.0, "size": widest}


def _images(
    shown: list[Shown], views: list[View], task: Task, ends: dict[str, float], tasks: int
) -> list[dict[str, Any]]:
    """All images packed, at fewer pixels where they would make the page of so many tasks too heavy."""
    pixels = PIXELS / tasks
    while True:
        sizes = [_size(each, pixels / len(shown)) for each in shown]
        images = [packed(each, seen, task, ends, size) for each, seen, size in zip(shown, views, sizes)]
        weight = sum(len(text) for image in images for text in image.values() if isinstance(text, str))
        if weight <= WEIGHT / tasks or pixels <= len(shown):
            return images
        pixels *= 0.9 * WEIGHT / tasks / weight


def _size(shown: Shown, pixels: float) -> tuple[int, int]:
    """Rows and columns to keep of the maps."""
    height, width = shown.image.shape[-2:]
    shrink = min(1.0, SIDE / max(height, width), math.sqrt(pixels / (height * width)))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _groups(story: Story, elsewhere: int) -> dict[str, list[int]]:
    """Name of a group → positions of its images among all, the other world's last."""
    places = {each.name: place for place, each in enumerate(story.shown)}
    groups = {"all": list(range(len(places)))} if places else {}
    for name, members in story.groups.items():
        missing = [member for member in members if member not in places]
        if missing:
            raise ValueError(f"group {name!r} names {missing[0]!r}, which is not among the shown images: add it there")
        groups[name] = [places[member] for member in members]
    if story.shift is not None and elsewhere:
        groups[f"out of distribution: {story.shift.name}"] = list(range(len(story.shown), len(story.shown) + elsewhere))
    return groups


def _number(value: float) -> str:
    """Three significant digits, whole numbers whole, ``–`` where unknown."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
