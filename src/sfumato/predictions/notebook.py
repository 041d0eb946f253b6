"""A prediction as a row of pictures, for notebooks."""

from __future__ import annotations

import base64
import html
import io
from typing import Protocol

import numpy as np
from torch import Tensor

# Nine colors of matplotlib's viridis, so that showing a map does not need matplotlib.
_VIRIDIS = np.array([[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
                     [92, 200, 99], [170, 220, 50], [253, 231, 37]], float)  # fmt: skip
# The colors of Okabe and Ito, which color-blind readers can tell apart. Further classes repeat them darker.
_LABELS = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
                    [204, 121, 167], [153, 153, 153]], float)  # fmt: skip


class _Pictured(Protocol):
    """A prediction that may carry an image (B, 3, H, W)."""

    @property
    def image(self) -> Tensor | None: ...


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _colored(values: np.ndarray, categorical: bool) -> tuple[np.ndarray, str]:
    if categorical:
        codes = values.astype(int)
        colors = _LABELS[codes % 8] * (0.6 ** (codes // 8))[..., None]
        return colors.astype(np.uint8), f"{len(np.unique(codes))} classes"
    low, high = float(values.min()), float(values.max())
    position = (values - low) / (high - low or 1.0) * 8
    colors = np.stack([np.interp(position, np.arange(9), _VIRIDIS[:, c]) for c in range(3)], -1)
    return colors.astype(np.uint8), f"{low:.3g} to {high:.3g}"


def strip(prediction: _Pictured, maps: dict[str, Tensor], unit: str, categorical: tuple[str, ...]) -> str:
    """The first image of the batch and its maps (B, H, W) side by side, each with its range and unit, as HTML.

    Where there is one value (B,) for each image, the numbers of the first image are written as a list.

    Args:
        prediction: Carries the image, if any.
        maps: Maps (B, *event) by name.
        unit: Unit of the maps.
        categorical: Names of the maps that hold classes.
    """
    if all(values.ndim == 1 for values in maps.values()):
        rows = (f"<li>{html.escape(name)}: {values[0].item():.4g} {html.escape(unit)}</li>"
                for name, values in maps.items())  # fmt: skip
        return f"<b>{html.escape(repr(prediction))}</b><ul>{''.join(rows)}</ul>"
    cells = []
    if prediction.image is not None:
        picture = (prediction.image[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
        cells.append(("image", "", picture))
    for name, values in maps.items():
        picture, caption = _colored(values[0].detach().float().cpu().numpy(), name in categorical)
        cells.append((name, caption if name in categorical else f"{caption} {unit}", picture))
    figures = "".join(
        f'<figure style="margin:0 6px 0 0"><img style="width:220px;image-rendering:pixelated" alt="{html.escape(name)}"'
        f' src="data:image/png;base64,{_png(picture)}"><figcaption style="font:12px sans-serif">'
        f"<b>{html.escape(name)}</b> {html.escape(caption)}</figcaption></figure>"
        for name, caption, picture in cells
    )
    return f'<div style="display:flex;flex-wrap:wrap">{figures}</div>'
