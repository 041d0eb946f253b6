"""Label Studio: tasks with pre-annotations, and its export in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np

from sfumato.acquisition.annotations import Annotation, Names, Picture, expecting
from sfumato.acquisition.areas import Area, polygon
from sfumato.errors import DataError

PREFIX = "/data/local-files/?d="  # how Label Studio names files below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
WORD, SIZES = 8, (3, 4, 8, 16)  # bits of a value, and of the lengths of runs


def to_label_studio(pictures: Sequence[Picture], annotations: Sequence[Annotation]) -> str:
    """Tasks as JSON. The image with the unit that was chosen first comes first.

    Label Studio shows no numbers of an annotation, so those of the units are in the data of the task. It sorts by the
    ``score`` of a prediction, the lowest first: the score is the rank of the first unit, divided by the largest.

    Args:
        pictures: The images.
        annotations: The annotations, with the attributes ``rank`` and ``unit``.
    """
    by_picture: dict[int, list[Annotation]] = {}
    for each in annotations:
        by_picture.setdefault(each.picture, []).append(each)
    first = {number: min(int(each.attributes["rank"]) for each in own) for number, own in by_picture.items()}
    last = max(first.values(), default=1)
    tasks = []
    for number in sorted(by_picture, key=first.__getitem__):
        picture, own = pictures[number], by_picture[number]
        results = [_result(f"{number}-{place}", each, picture) for place, each in enumerate(own)]
        units = list({each.attributes["rank"]: dict(each.attributes) for each in own}.values())
        tasks.append({
            "data": {"image": PREFIX + quote(picture.name), "units": units},
            "predictions": [{"model_version": "sfumato", "score": first[number] / last, "result": results}],
        })  # fmt: skip
    return json.dumps(tasks, allow_nan=False)


def labeling_config(labels: Sequence[str], colors: Sequence[tuple[int, ...]]) -> str:
    """The labeling interface for a project, as XML.

    Args:
        labels: The names of the classes.
        colors: Red, green and blue of each, 0 to 255.
    """
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
    for tag, name in (("BrushLabels", "brush"), ("PolygonLabels", "polygon"), ("KeyPointLabels", "point")):
        group = ET.SubElement(view, tag, name=name, toName="image")
        for label, color in zip(labels, colors, strict=True):
            ET.SubElement(group, "Label", value=label, background="#{:02x}{:02x}{:02x}".format(*color))
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def _result(name: str, each: Annotation, picture: Picture) -> dict[str, Any]:
    left, top, width, height = each.area.box
    common = {"id": name, "to_name": "image", "original_width": picture.width, "original_height": picture.height,
              "image_rotation": 0}  # fmt: skip
    if width == height == 1:
        place = {"x": 100 * (left + 0.5) / picture.width, "y": 100 * (top + 0.5) / picture.height, "width": 0.5}
        value = {**place, "keypointlabels": [each.label]}
        return {**common, "type": "keypointlabels", "from_name": "point", "value": value}
    mask = each.area.full(picture.height, picture.width)
    value = {"format": "rle", "rle": pack(np.repeat(mask.astype(np.uint8) * 255, 4)), "brushlabels": [each.label]}
    return {**common, "type": "brushlabels", "from_name": "brush", "value": value}


def from_label_studio(content: Any, names: Names) -> list[Annotation]:
    """The brush strokes, polygons, rectangles and points of an export in JSON. The last annotation of a task counts.

    Args:
        content: What the JSON holds.
        names: The images of the pool.

    Raises:
        DataError: If an entry is missing or cannot be used.
    """
    found: list[Annotation] = []
    with expecting("tasks of Label Studio with annotations (export as JSON)"):
        for task in content:
            done = [each for each in task["annotations"] if not each.get("was_cancelled")]
            picture = names[str(task["data"]["image"])] if done else 0
            for each in done[-1]["result"] if done else ():
                found += _read(each, picture, names.pictures[picture])
    return found


def _read(each: Any, picture: int, size: Picture) -> list[Annotation]:
    kind, value = each["type"], each["value"]
    if kind not in SHAPES:
        return []
    if (each["original_height"], each["original_width"]) != (size.height, size.width):
        raise DataError(
            f"{size.name} was annotated with {each['original_height']} × {each['original_width']} pixels, the image "
            f"has {size.height} × {size.width}: annotate the image at its own size"
        )
    mask = SHAPES[kind](value, size)
    return [Annotation(picture, str(value[kind][0]), Area.of(mask))] if mask.any() else []


def _brush(value: Any, size: Picture) -> np.ndarray:
    found = unpack(value["rle"], 4 * size.height * size.width)
    return found.reshape(size.height, size.width, 4)[..., 3] > 0


def _polygon(value: Any, size: Picture) -> np.ndarray:
    points = [(x * size.width / 100, y * size.height / 100) for x, y in value["points"]]
    return polygon(points, size.height, size.width)


def _rectangle(value: Any, size: Picture) -> np.ndarray:
    if value.get("rotation"):
        raise DataError(f"a rectangle of {size.name} is turned: draw a polygon instead")
    left, top, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return _polygon({"points": corners}, size)


def _point(value: Any, size: Picture) -> np.ndarray:
    column, row = int(value["x"] * size.width / 100), int(value["y"] * size.height / 100)
    found = np.zeros((size.height, size.width), bool)
    found[min(max(row, 0), size.height - 1), min(max(column, 0), size.width - 1)] = True
    return found


SHAPES = {"brushlabels": _brush, "polygonlabels": _polygon, "rectanglelabels": _rectangle, "keypointlabels": _point}


def pack(values: np.ndarray) -> list[int]:
    """Bytes (n,) as runs in bits, as Label Studio stores a mask of red, green, blue and alpha, pixel by pixel.

    Source: The format "rle-pack": 32 bits with n, 5 with the bits of a value, four times 4 with those of lengths; then
        for each run a bit that says whether one value is repeated, two that choose the bits of its length, the length
        less 1, and the value or values.
    """
    bits = [_bits(len(values), 32), _bits(WORD - 1, 5), *(_bits(size - 1, 4) for size in SIZES)]
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in pairwise(edges):
        while start < stop:
            count = min(stop - start, 1 << SIZES[-1])
            choice = next(number for number, size in enumerate(SIZES) if count <= 1 << size)
            bits += ["1", _bits(choice, 2), _bits(count - 1, SIZES[choice]), _bits(int(values[start]), WORD)]
            start += count
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def unpack(packed: Sequence[int], count: int) -> np.ndarray:
    """The bytes (count,) that :func:`pack` was given.

    Raises:
        DataError: If there are others than so many.
    """
    text = "".join(map("{:08b}".format, packed))
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        if place > len(text):
            raise DataError("a brush mask is cut off: export it again")
        return int(text[place - size : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if total != count:
        raise DataError(f"a brush mask has {total} values, expected {count}: four for each pixel of its image")
    parts: list[np.ndarray] = []
    done = 0
    while done < count:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        values = [take(word)] if repeated else [take(word) for _ in range(length)]
        parts.append(np.full(length, values[0]) if repeated else np.array(values))
        done += length
    return np.concatenate(parts)[:count] if parts else np.zeros(0, int)


def _bits(value: int, size: int) -> str:
    return f"{value:0{size}b}"
