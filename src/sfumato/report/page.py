"""One self-contained HTML page. It opens without a server and loads nothing from anywhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import sfumato
from sfumato.contracts import Task
from sfumato.errors import ConfigError, plain
from sfumato.predictions import UNCERTAINTIES
from sfumato.report import curves
from sfumato.report.data import BoxSection, ReportData, ReportImage
from sfumato.report.glossary import BY_CLASS, MEANINGS
from sfumato.report.packing import Packed, data_uri, pack_image
from sfumato.report.pictures import (
    ColorKey,
    Layers,
    color_key,
    color_table,
    has_no_epistemic_part,
    layers_of,
    scale_end,
    value_range,
)
from sfumato.storage import atomic_write

WEIGHT = 7_000_000  # characters of all images together, so that the page can be sent by mail
PIXELS = 1_500_000  # pixels of all maps of a page together, fewer if their data are larger than WEIGHT
SIDE = 640  # longer side of a map, which is more than the page shows
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # not text, but commands
Json: TypeAlias = "dict[str, object]"


@dataclass(frozen=True)
class _TaskSection:
    """What the template reads of one task."""

    name: str
    report: ReportData
    data: Json
    key: ColorKey | None
    bar: str | None
    wheel: str | None
    figures: dict[str, Markup]


def write_page(report: ReportData | Mapping[str, ReportData], path: str | Path) -> Path:
    """Write a report as an HTML file.

    Args:
        report: What the page shows. For several tasks one for each, by name, about the same images in the same order.
            Title, facts, groups and history are those of the first.
        path: The HTML file. Its folder must exist.

    Returns:
        The path.

    Raises:
        ConfigError: If a group names an image that is not shown, or tasks show different images.
        ResourceError: If the disk is full.
    """
    path = Path(path)
    text = OBEYED.sub(lambda found: plain(found[0]), _html({"": report} if isinstance(report, ReportData) else report))
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _html(reports: Mapping[str, ReportData]) -> str:
    if len({tuple(each.name for each in one.images) for one in reports.values()}) > 1:
        raise ConfigError(f"the tasks {', '.join(reports)} show different images: expected the same, in the same order")
    tasks = [_section(name, report, len(reports)) for name, report in reports.items()]
    first, data = tasks[0], _page_data(tasks)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "decimals": _decimals}
    here = files("sfumato.report")
    assets = {name: Markup((here / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    images = first.report.images
    return template.render(
        report=first.report,
        tasks=tasks,
        figures=first.figures,
        one_draw=bool(images) and all(has_no_epistemic_part(each.prediction) for each in images),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")) if data else "",
        boxes=_boxes(first.report.boxes),
        words=MEANINGS,
        by_class=BY_CLASS,
        version=sfumato.__version__,
        **assets,
    )


def _boxes(section: BoxSection | None) -> dict[str, object] | None:
    """What the template reads of boxes. None without them."""
    if section is None:
        return None
    return {
        "data": Markup(json.dumps(section.data, allow_nan=False).replace("<", "\\u003c")),
        "js": Markup((files("sfumato.report") / "boxes.js").read_text(encoding="utf-8")),
        "swatches": section.swatches,
        "meaning": section.meaning,
    }


def _page_data(tasks: list[_TaskSection]) -> Json:
    """The data of all tasks. The images themselves are stored once."""
    if not tasks[0].data or (len(tasks) == 1 and not tasks[0].name):
        return tasks[0].data
    once = {"image", "pictures", "saliency"}
    found: Json = {tasks[0].name: tasks[0].data}
    for task in tasks[1:]:
        images = task.data["images"]
        assert isinstance(images, list)
        found[task.name] = task.data | {"images": [{k: v for k, v in i.items() if k not in once} for i in images]}
    return {"tasks": found}


def _section(name: str, report: ReportData, tasks: int) -> _TaskSection:
    """What the page shows of one of so many tasks."""
    data, key = _data(report, tasks)
    figures = _figures(report, str(data.get("label", "")))
    if name:  # ids must differ within one page
        figures = {kind: re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text) for kind, text in figures.items()}
    bar = None if key is None or key.bar is None else data_uri(key.bar[None])
    wheel = None if key is None or key.wheel is None else data_uri(key.wheel)
    return _TaskSection(name, report, data, key, bar, wheel, {kind: Markup(text) for kind, text in figures.items()})


def _figures(report: ReportData, unit: str) -> dict[str, str]:
    drawn: dict[str, str] = dict.fromkeys(("reliability", "rejection", "history", "ood", "path"), "")
    if report.path is not None:
        drawn["path"] = report.path.drawing
    if report.reliability is not None:
        drawn["reliability"] = curves.reliability(report.reliability)
    if report.rejection is not None:
        drawn["rejection"] = curves.rejection(report.rejection)
    if report.history:
        drawn["history"] = curves.history(report.history)
    if report.ood is not None and report.ood.histograms:
        drawn["ood"] = curves.ood_histograms(report.ood.histograms, unit, report.ood.name)
    return drawn


def _data(report: ReportData, tasks: int = 1) -> tuple[Json, ColorKey | None]:
    """What the page's script reads, and the key to the task's colors."""
    outside = list(report.ood.images) if report.ood else []
    shown = [*report.images, *outside]
    if not shown:
        return {}, None
    layers = [layers_of(each.prediction, each.target) for each in shown]
    ends = _ends(shown, layers)
    data: Json = {
        "images": _images(shown, layers, report.task, ends, tasks),
        "groups": _groups(report, len(outside)),
        "ends": ends,
        "unit": layers[0].unit,
        "label": layers[0].label,
        "errorUnit": layers[0].error_unit,
        "score": layers[0].score,
        "sizes": report.set_size_name,
        "sizesUnit": report.set_size_unit,
        "sizesMeaning": report.set_size_meaning,
        "colors": color_table().tolist(),
        "pictures": {name: picture.meaning for each in shown for name, picture in each.pictures.items()},
        "keys": {name: picture.key for each in shown for name, picture in each.pictures.items() if picture.key},
    }
    return data, color_key(shown[0].prediction, report.task, value_range(shown))


def _ends(shown: list[ReportImage], layers: list[Layers]) -> dict[str, float]:
    """Ends of the scales that all images share. ``worst`` is the largest error, ``error`` the end of its colors."""
    taught = [layers_of(each.teacher, each.target) for each in shown if each.teacher is not None]
    ends = {part: scale_end([each.maps[part] for each in [*layers, *taught]]) for part in UNCERTAINTIES}
    # A part a thousand times smaller than the total is rounding: it is shown as 0.
    ends = {part: max(end, ends["total"] / 1000) for part, end in ends.items()}
    errors = [each.error[image.valid.cpu()] for image, each in zip(shown, layers)]
    worst = max((float(e[e.isfinite()].max()) for e in errors if e.isfinite().any()), default=0.0)
    sizes = [each.set_size for each in shown if each.set_size is not None]
    known = [each.set_size[each.valid].float().cpu() for each in shown if each.set_size is not None]
    widest = scale_end(known)
    if not any(size.is_floating_point() for size in sizes):
        widest = 4.0 * math.ceil(widest / 4)  # counts: the bar has five ticks
    return {**ends, "error": scale_end(errors), "worst": worst or 1.0, "size": widest}


def _images(
    shown: list[ReportImage], layers: list[Layers], task: Task, ends: dict[str, float], tasks: int
) -> list[Packed]:
    """All images packed, at fewer pixels where they would make the page of so many tasks too large."""
    pixels = PIXELS / tasks
    while True:
        sizes = [_size(each, pixels / len(shown)) for each in shown]
        images = [pack_image(each, maps, task, ends, size) for each, maps, size in zip(shown, layers, sizes)]
        weight = len(json.dumps(images))
        if weight <= WEIGHT / tasks or pixels <= len(shown):
            return images
        pixels *= 0.9 * WEIGHT / tasks / weight


def _size(shown: ReportImage, pixels: float) -> tuple[int, int]:
    """Rows and columns to keep of the maps."""
    height, width = shown.image.shape[-2:]
    shrink = min(1.0, SIDE / max(height, width), math.sqrt(pixels / (height * width)))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _groups(report: ReportData, outside: int) -> dict[str, list[int]]:
    """For each group the positions of its images. Those out of distribution are the last."""
    places = {each.name: place for place, each in enumerate(report.images)}
    groups = {"all": list(range(len(report.images)))} if places else {}
    for name, members in report.groups.items():
        missing = [member for member in members if member not in places]
        if missing:
            raise ConfigError(f"group {name!r} names {missing[0]!r}, which is not among the shown images: add it there")
        groups[name] = [places[member] for member in members]
    if report.ood is not None and outside:
        start = len(report.images)
        groups[f"out of distribution: {report.ood.name}"] = list(range(start, start + outside))
    return groups


def _decimals(value: float) -> str:
    """Three decimals, ``–`` where unknown."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _number(value: float) -> str:
    """Three significant digits, whole numbers whole, ``–`` where unknown."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
