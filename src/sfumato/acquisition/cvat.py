"""CVAT for images 1.1: annotations in one XML file."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np

from sfumato.acquisition.annotations import Annotation, Names, Picture
from sfumato.acquisition.areas import Area, from_runs, polygon, runs_of
from sfumato.errors import DataError


def to_cvat(pictures: Sequence[Picture], annotations: Sequence[Annotation], labels: Sequence[str]) -> str:
    """Annotations as XML: masks, and points for single pixels.

    Args:
        pictures: The images.
        annotations: The annotations.
        labels: The names of the classes.

    Source: The documentation of CVAT, "CVAT for images". CVAT shows no attribute that its task does not declare.
    """
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    declared = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for name in labels:
        ET.SubElement(ET.SubElement(declared, "label"), "name").text = name
    images = [
        ET.SubElement(root, "image", id=str(number), name=each.name, width=str(each.width), height=str(each.height))
        for number, each in enumerate(pictures)
    ]
    for each in annotations:
        shape = ET.SubElement(images[each.picture], *_shape(each))
        for name, value in each.attributes.items():
            ET.SubElement(shape, "attribute", name=name).text = str(value)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _shape(each: Annotation) -> tuple[str, dict[str, str]]:
    left, top, width, height = each.area.box
    common = {"label": each.label, "source": "auto", "occluded": "0", "z_order": "0"}
    if width == height == 1:
        return "points", {**common, "points": f"{left + 0.5},{top + 0.5}"}
    runs = ", ".join(map(str, runs_of(each.area.mask.ravel())))
    place = {"left": left, "top": top, "width": width, "height": height}
    return "mask", {**common, "rle": runs, **{name: str(value) for name, value in place.items()}}


def from_cvat(text: str, names: Names) -> list[Annotation]:
    """The masks, polygons, boxes and points of a CVAT file.

    Args:
        text: The XML.
        names: The images of the pool.

    Raises:
        DataError: If it is no XML of CVAT, or a shape cannot be used.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("it declares a document type, which CVAT does not write: export it again")
    try:
        root, found = ET.fromstring(text), []
        for image in root.iter("image"):
            picture = names[image.attrib["name"]]
            for shape in image:
                if shape.tag in SHAPES:
                    mask = SHAPES[shape.tag](shape, names.pictures[picture])
                    found += [Annotation(picture, shape.attrib["label"], Area.of(mask))] if mask.any() else []
        return found
    except (ET.ParseError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"it cannot be read ({error}), expected XML of CVAT for images 1.1") from error


def _numbers(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split(";"))]


def _polygon(shape: ET.Element, picture: Picture) -> np.ndarray:
    return polygon(_numbers(shape.attrib["points"]), picture.height, picture.width)


def _box(shape: ET.Element, picture: Picture) -> np.ndarray:
    left, top, right, bottom = (float(shape.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], picture.height, picture.width)


def _points(shape: ET.Element, picture: Picture) -> np.ndarray:
    found = np.zeros((picture.height, picture.width), bool)
    for x, y in _numbers(shape.attrib["points"]):
        if not (0 <= x <= picture.width and 0 <= y <= picture.height):
            raise DataError(f"a point of {picture.name} lies outside the image, at {x:g}, {y:g}")
        found[min(int(y), picture.height - 1), min(int(x), picture.width - 1)] = True
    return found


def _mask(shape: ET.Element, picture: Picture) -> np.ndarray:
    left, top, width, height = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
    if min(left, top, width, height) < 0 or left + width > picture.width or top + height > picture.height:
        raise DataError(f"a mask of {picture.name} lies outside the image: annotate the image at its own size")
    runs = from_runs([int(each) for each in shape.attrib["rle"].split(",")], width * height)
    return Area(top, left, runs.reshape(height, width)).full(picture.height, picture.width)


SHAPES = {"mask": _mask, "polygon": _polygon, "box": _box, "points": _points}
