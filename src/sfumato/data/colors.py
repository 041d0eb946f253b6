"""Colors for classes that come without."""

from __future__ import annotations

import colorsys


def distinct(count: int) -> list[tuple[int, ...]]:
    """Hues a golden angle apart, so that neighbors differ however many there are: (red, green, blue) in 0 … 255.

    >>> distinct(1)
    [(242, 85, 85)]
    """
    hues = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.65, (0.95, 0.7)[i % 2]) for i in range(count)]
    return [tuple(round(255 * v) for v in hue) for hue in hues]
