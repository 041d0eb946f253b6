"""Maps of a prediction as PNG: labels as they are, and quantities in 16 bits with a unit, a scale and an offset."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from PIL import Image

from sfumato.contracts import Task
from sfumato.predictions import ClassPrediction, TaskPrediction, ValuePrediction
from sfumato.sections import Json
from sfumato.storage import Stored

LARGEST = 65535  # the largest number that a pixel of 16 bits holds
ROWS = 512  # rows that are converted at a time
QUICK = 1  # compression level: the higher ones take several times as long for a few percent
SHOWN = 1 << 20  # pixels of a map that decide on the scale of its colors
PNG = b"\x89PNG\r\n\x1a\n"
Target = Path | IO[bytes]


class Maps(Protocol):
    """The arrays of a prediction by name, on disk or in memory."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        ...

    def array(self, name: str) -> np.ndarray:
        """An array (1, H, W) or (1, D, H, W)."""
        ...


class HeldMaps:
    """The arrays of a prediction in memory.

    Args:
        prediction: A prediction of maps, or conformal sets, with a batch of 1.
        size: Height and width, pixels.
    """

    def __init__(self, prediction: Stored, size: tuple[int, int]) -> None:
        self.size = size
        self._tensors = prediction.tensors() | prediction.derived()

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor (1, H, W) or (1, D, H, W)."""
        return self._tensors[name].detach().cpu()

    def array(self, name: str) -> np.ndarray:
        """The same as an array."""
        return self.tensor(name).numpy()


@dataclass(frozen=True)
class Quantity:
    """One map (H, W) of a prediction, read some rows at a time.

    Args:
        name: What it is, such as ``total``: the end of the name of its file.
        file: What holds it, such as a file.
        key: The name of its array there, (1, H, W) or (1, D, H, W).
        unit: Unit of the values.
        channel: Which of the D values. None for an array without them. Default None.
        root: Whether the square root is taken: variances are shown as standard deviations. Default False.
    """

    name: str
    file: Maps
    key: str
    unit: str
    channel: int | None = None
    root: bool = False

    def _pixels(self, rows: slice, step: int = 1) -> np.ndarray:
        found = self.file.array(self.key)[0]
        found = found if self.channel is None else found[self.channel]
        values = np.array(found[rows][::step, ::step], np.float32)
        return np.sqrt(values) if self.root else values

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows as float32, some at a time."""
        for top in range(0, self.file.size[0], ROWS):
            rows = slice(top, top + ROWS)
            yield rows, self._pixels(rows)

    def shown(self) -> np.ndarray:
        """Evenly spread pixels that are enough for a figure."""
        return self._pixels(slice(None), step=max(1, int((self.file.size[0] * self.file.size[1] / SHOWN) ** 0.5)))


def quantities(file: Maps, first: TaskPrediction, unit: str) -> Iterator[Quantity]:
    """The maps of a prediction that are written in 16 bits."""
    values = isinstance(first, ValuePrediction)
    if values:
        several = first.mean.shape[1] > 1
        for channel in range(first.mean.shape[1]):
            yield Quantity(f"mean_{channel}" if several else "mean", file, "mean", unit, channel)
    else:
        yield Quantity("probability", file, "confidence", "")
    for name in ("total", "aleatoric", "epistemic"):
        yield Quantity(name, file, name, unit, root=values)
    if first.novelty is not None:
        yield Quantity("novelty", file, "novelty", "")


def write_map(quantity: Quantity, target: Target) -> dict[str, Json]:
    """Write a map in 16 bits.

    Returns:
        How to read it: ``value = offset + scale × pixel`` in ``unit``; and the smallest, mean and largest value.
    """
    low, high, total = np.inf, -np.inf, 0.0
    for _, block in quantity.blocks():
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        total += float(block.sum(dtype=np.float64))
    offset = low if quantity.name.startswith("mean") else min(0.0, low)
    scale = (high - offset) / LARGEST or 1.0
    pixels = np.empty(quantity.file.size, np.uint16)
    for rows, block in quantity.blocks():
        pixels[rows] = ((block - offset) / scale).round().clip(0, LARGEST)
    write_gray(pixels, target)
    return {
        "quantity": quantity.name, "standard_deviation": quantity.root, "unit": quantity.unit, "scale": scale,
        "offset": offset, "min": low, "mean": total / pixels.size, "max": high,
    }  # fmt: skip


def write_gray(pixels: np.ndarray, target: Target) -> None:
    """Write pixels (H, W) uint16 as PNG: differences of neighbors, Huffman coded.

    Pillow tries all filters on every row, and looks for repeated values, of which maps of an uncertainty have few. This
    takes a quarter of the time for files that are 5 % larger.

    Source: ISO/IEC 15948:2004, "Portable Network Graphics".
    """
    height, width = pixels.shape
    raw = pixels.astype(">u2").view(np.uint8)
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = 1  # the filter "Sub"
    rows[:, 1:3], rows[:, 3:] = raw[:, :2], raw[:, 2:] - raw[:, :-2]
    coder = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)  # 16 bits, gray
    chunks = ((b"IHDR", header), (b"IDAT", coder.compress(rows.tobytes()) + coder.flush()), (b"IEND", b""))
    content = b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )
    if isinstance(target, Path):
        target.write_bytes(PNG + content)
    else:
        target.write(PNG + content)


def write_labels(labels: np.ndarray, first: ClassPrediction, task: Task, target: Target) -> dict[str, Json]:
    """Write class ids as they are: the indices of a palette, or in 16 bits if there are more than 256."""
    names: list[Json] = [str(name) for name in getattr(task, "names", ())]
    if labels.dtype == np.uint8:
        picture = Image.fromarray(np.ascontiguousarray(labels))
        picture.putpalette(task.color(torch.arange(first.probs.shape[1])[None]).numpy().tobytes())
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    picture.save(target, "PNG", compress_level=QUICK)
    return {"task": task.key, "quantity": "label", "classes": names}
