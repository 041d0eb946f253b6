"""Images of a report as data that the script of the page reads."""

from __future__ import annotations

import base64
import io
import math
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from sfumato.contracts import Task
from sfumato.predictions import UNCERTAINTIES
from sfumato.report.data import ReportImage, Saliency
from sfumato.report.pictures import Layers, colored, layers_of, quantile, rgb

Packed: TypeAlias = "dict[str, str | dict[str, float] | dict[str, str] | list[dict[str, float | list[str]]]]"
DETAIL = 960  # pixels across of a picture that is drawn larger than the image
SPOT = 128  # longer side of a map of saliency


def data_uri(pixels: np.ndarray, kind: str = "PNG") -> str:
    """Pixels (H, W), (H, W, 3) or (H, W, 4) uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def byte_codes(values: Tensor, end: float) -> np.ndarray:
    """``round(255 √(u / end))``, 255 from ``end`` on. NaN counts as large.

    The square root gives fine steps near 0, where most pixels are.
    """
    return (values.nan_to_num(end, end).div(end).clamp(0, 1).sqrt() * 255).round().byte().numpy()


def subsample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Evenly spaced pixels of (H, W) or (D, H, W). No value is interpolated, so that classes stay classes."""
    rows = torch.arange(size[0]) * values.shape[-2] // size[0]
    columns = torch.arange(size[1]) * values.shape[-1] // size[1]
    return values[..., rows, :][..., columns]


def pack_image(shown: ReportImage, layers: Layers, task: Task, ends: dict[str, float], size: tuple[int, int]) -> Packed:
    """One image as the page's script reads it.

    Args:
        shown: The image, its prediction and its target.
        layers: Its layers.
        task: The task, which gives the target and the best guess their colors.
        ends: Upper ends of the scales: ``total``, ``aleatoric``, ``epistemic``, ``size`` and ``worst``, the largest
            error of all images.
        size: Rows and columns that are kept of the maps.

    Returns:
        Data URIs: ``parts`` has the three uncertainties by :func:`byte_codes` in red, green and blue; ``error`` has
        ``65535 · error / worst`` in red (high byte) and green (low byte), and the mask in blue; ``size``, if there is
        one, has ``255 · size / end`` in gray; ``teacher``, if there is one, is like ``parts``.
    """
    best: Tensor = shown.prediction.best[0]
    valid = subsample(shown.valid.cpu(), size)
    error = subsample(layers.error, size).where(valid, 0).nan_to_num(ends["worst"]).div(ends["worst"]).clamp(0, 1)
    code = (error * 65535).round().int().numpy()
    guess = colored(subsample(best.cpu(), size), task)[..., :3]
    if shown.outline is not None:
        guess[subsample(shown.outline.cpu(), size).numpy()] = 255
    return _further(shown, ends, size) | {
        "name": shown.name,
        "scores": {name: float(value) for name, value in shown.scores.items() if math.isfinite(value)},
        "image": _photo(shown.image, size),
        "target": data_uri(colored(subsample(shown.target.cpu(), size), task, valid)),
        "prediction": data_uri(guess),
        "parts": _parts(layers, ends, size),
        "error": data_uri(np.dstack([code >> 8, code & 255, valid.numpy() * 255]).astype(np.uint8)),
    }


def _further(shown: ReportImage, ends: dict[str, float], size: tuple[int, int]) -> Packed:
    found: Packed = {}
    if shown.pictures:
        found["pictures"] = {
            name: _photo(each.pixels, _scaled(each.pixels, size)) for name, each in shown.pictures.items()
        }
    if shown.saliency:
        found["saliency"] = [_spot(each, size) for each in shown.saliency]
    if shown.set_size is not None:
        gray = subsample(shown.set_size.float().cpu(), size).div(ends["size"]).clamp(0, 1)
        found["size"] = data_uri((gray * 255).round().byte().numpy())
    if shown.teacher is not None:
        found["teacher"] = _parts(layers_of(shown.teacher, shown.target), ends, size)
    return found


def _scaled(pixels: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture that may be drawn larger than the image, at most ``DETAIL`` pixels wide."""
    width = max(size[1], min(DETAIL, int(pixels.shape[-1])))
    return max(1, round(width * size[0] / size[1])), width


def _spot(saliency: Saliency, size: tuple[int, int]) -> dict[str, float | list[str]]:
    """A point, and both maps as gray pictures of one scale: 255 √(value / the 99.5 % quantile of both)."""
    small = [adaptive_avg_pool2d(each[None].float(), _within(size, SPOT))[0] for each in saliency.maps]
    end = max(quantile(torch.stack(small), 0.995), 1e-12)
    return {
        "y": saliency.place[0],
        "x": saliency.place[1],
        "maps": [data_uri(byte_codes(m, end), "JPEG") for m in small],
    }


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size, reduced so that no side is longer."""
    shrink = min(1.0, side / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _photo(image: Tensor, size: tuple[int, int]) -> str:
    small = interpolate(image[None].detach().float().cpu(), size, mode="bilinear", antialias=True)[0]
    return data_uri(rgb(small), "JPEG")


def _parts(layers: Layers, ends: dict[str, float], size: tuple[int, int]) -> str:
    return data_uri(np.dstack([byte_codes(subsample(layers.maps[p], size), ends[p]) for p in UNCERTAINTIES]))
