"""One picture of one prediction, to look at: image, best guess and uncertainties side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfumato.report.pictures import ColorKey, color_table
from sfumato.storage import atomic_write

WIDTH, GAP, LINE, BAR, NAME = 320, 12, 20, 10, 150  # pixels: panel, space, line of text, color bar, name of a class
DISK = 72  # pixels: the disk of the colors of vectors
MANY = 5  # panels that are put into two rows
INK, PAPER, OTHER = (30, 34, 40), (255, 255, 255), (225, 228, 232)


@dataclass(frozen=True)
class Panel:
    """One part of the picture.

    Args:
        title: Text above it.
        pixels: Colors (H, W, 3) uint8, or values (H, W), which are drawn from 0 to ``end``. It may be of any size with
            the shape of the image.
        unit: Unit of the values. Default: none.
        end: The value of the brightest color. Values of colors have no end. Default 0.
        key: What the colors mean. Default: nothing.
    """

    title: str
    pixels: np.ndarray
    unit: str = ""
    end: float = 0.0
    key: ColorKey | None = None


def save_figure(panels: Iterable[Panel], path: str | Path) -> Path:
    """Write panels side by side as a PNG file.

    Each map has a color scale of its own, whose largest value stands below it. So a map is never dark because another
    one is bright, and two maps are compared by their numbers, not by their colors.

    Args:
        panels: At least one panel, all of one shape.
        path: The file.

    Returns:
        The path.
    """
    panels = list(panels)
    first = panels[0].pixels.shape
    height = max(1, round(WIDTH * first[0] / first[1]))
    keys = [panel.key for panel in panels if panel.key is not None]
    names = next((key.swatches for key in keys if key.swatches and key.wheel is None), ())
    columns = len(panels) if len(panels) < MANY else math.ceil(len(panels) / 2)
    row, rows = LINE + height + GAP + BAR + LINE, math.ceil(len(panels) / columns)
    width = GAP + (WIDTH + GAP) * columns
    per_line = max(1, (width - 2 * GAP) // NAME)
    lines = math.ceil(len(names) / per_line)
    sheet = Image.new("RGB", (width, 2 * GAP + rows * row + lines * LINE), PAPER)
    draw, font = ImageDraw.Draw(sheet), small_font()
    for number, panel in enumerate(panels):
        left, top = GAP + number % columns * (WIDTH + GAP), GAP + number // columns * row
        draw.text((left, top), panel.title, INK, font)
        smooth = panel.key is None
        sheet.paste(_fitted(_colored(panel), (WIDTH, height), smooth=smooth), (left, top + LINE))
        _bar(sheet, draw, font, panel, (left, top + LINE + height + GAP // 2))
    for number, (color, name) in enumerate((color, name) for name, color in names):
        x, y = GAP + number % per_line * NAME, sheet.height - GAP // 2 - (lines - number // per_line) * LINE
        draw.rectangle((x, y + 3, x + 12, y + 15), color, OTHER)
        draw.text((x + 18, y), _short(name, font), INK, font)
    with atomic_write(path) as part:
        sheet.save(part, "PNG", compress_level=1)
    return Path(path)


def _colored(panel: Panel) -> np.ndarray:
    if panel.pixels.ndim == 3:
        return panel.pixels
    return color_table()[_levels(panel.pixels, panel.end)]


def _levels(values: np.ndarray, end: float) -> np.ndarray:
    return (np.clip(values / (end or 1.0), 0, 1) * 255).round().astype(np.uint8)


def _bar(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, panel: Panel,
    place: tuple[int, int],
) -> None:  # fmt: skip
    """The color bar of a panel with the values at its ends; for vectors a disk in its corner."""
    key = panel.key
    if key is not None and key.wheel is not None:
        side = min(DISK, max(1, round(WIDTH * panel.pixels.shape[0] / panel.pixels.shape[1])))
        wheel = Image.fromarray(key.wheel).resize((side, side), Image.Resampling.BOX)
        sheet.paste(wheel, (place[0] + WIDTH - side, place[1] - GAP // 2 - side), _disk(side))
        draw.text((place[0], place[1]), f"edge of the disk: {key.ends[1]:.3g} {key.unit}", INK, font)
        return
    if panel.pixels.ndim == 2:
        colors, low, high, unit = color_table(), 0.0, panel.end, panel.unit
    elif key is not None and key.bar is not None:
        colors, (low, high), unit = key.bar, key.ends, key.unit
    else:
        return
    strip = Image.fromarray(np.ascontiguousarray(colors[None])).resize((WIDTH, BAR), Image.Resampling.BILINEAR)
    sheet.paste(strip, place)
    text, y = f"{high:.3g} {unit}".strip(), place[1] + BAR + 1
    draw.text((place[0], y), f"{low:.3g}", INK, font)
    draw.text((place[0] + WIDTH - draw.textlength(text, font), y), text, INK, font)


def _disk(side: int) -> Image.Image:
    """A mask that shows a disk."""
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), 255)
    return mask


def _fitted(pixels: np.ndarray, size: tuple[int, int], *, smooth: bool) -> Image.Image:
    """A picture at another size; class colors are never mixed."""
    step = max(1, pixels.shape[1] // (2 * size[0]))
    picture = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    smaller = picture.width > size[0]
    return picture.resize(size, Image.Resampling.BOX if smooth and smaller else Image.Resampling.NEAREST)


def _short(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """A name that fits into a column."""
    while font.getlength(name) > NAME - 28:
        name = name.rstrip("…")[:-1] + "…"
    return name


@cache
def small_font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of figures. It has Greek letters and arrows."""
    from matplotlib import get_data_path  # Pillow's own font has no such letters

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 13)
