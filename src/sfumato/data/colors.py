"""Colors for classes that come without."""

from __future__ import annotations

import colorsys


def distinct(count: int) -> list[tuple[int, int, int]]:
    """Colors (red, green, blue) in 0 … 255 whose hues are a golden angle apart, so that neighbors always differ.

    >>> distinct(1)
    [(242, 85, 85)]
    """
    hues = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.65, (0.95, 0.7)[i % 2]) for i in range(count)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]
