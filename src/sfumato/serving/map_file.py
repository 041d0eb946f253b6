"""A safetensors file whose maps are written some rows at a time, without holding them in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from torch import Tensor

from sfumato.errors import ResourceError
from sfumato.storage import METADATA, Stored, describe

TYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint8": "U8", "int16": "I16", "int32": "I32",
         "int64": "I64", "bool": "BOOL"}  # fmt: skip


class MapFile:
    """A file that :func:`sfumato.storage.load` reads as the prediction that was added to it.

    Args:
        path: The file to write.
        size: Height and width of the whole maps, pixels.

    Source: https://huggingface.co/docs/safetensors, section "Format".
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.size = path, size
        self._layout: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}

    def array(self, name: str) -> np.ndarray:
        """An array of the file, on disk. It takes memory for what is read of it, until it is dropped."""
        start, shape, kind = self._layout[name]
        return np.memmap(self.path, kind, "r+", start, shape) if int(np.prod(shape)) else np.zeros(shape, kind)

    def add(self, rows: slice, band: Stored) -> None:
        """Write the prediction of some rows. What is no map is written with the first rows.

        Raises:
            ResourceError: If the disk is full.
        """
        derived = band.derived()
        tensors = {name: value.detach().cpu() for name, value in (band.tensors() | derived).items()}
        height = rows.stop - rows.start
        if not self._layout:
            self._create(tensors, height, describe(band, derived))
        for name, value in tensors.items():
            if self._is_map(value, height):
                self.array(name)[..., rows, :] = value.numpy()
            elif rows.start == 0:
                self.array(name)[...] = value.numpy()

    def _is_map(self, value: Tensor, height: int) -> bool:
        return value.ndim > 2 and tuple(value.shape[-2:]) == (height, self.size[1])

    def _create(self, tensors: dict[str, Tensor], height: int, about: dict[str, str]) -> None:
        header: dict[str, object] = {"__metadata__": {METADATA: json.dumps(about, sort_keys=True)}}
        end, layout = 0, {}
        # The largest types come first, so that every tensor starts at a multiple of the size of its numbers.
        for name in sorted(tensors, key=lambda each: (-tensors[each].element_size(), each)):
            value = tensors[name]
            shape = (*value.shape[:-2], *self.size) if self._is_map(value, height) else tuple(value.shape)
            kind, start = value.numpy().dtype, end
            end += int(np.prod(shape)) * kind.itemsize
            header[name] = {"dtype": TYPES[kind.name], "shape": list(shape), "data_offsets": [start, end]}
            layout[name] = start, shape, kind
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        try:
            with self.path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.flush()
                _allocate(file.fileno(), first + end)
        except OSError as error:
            raise ResourceError(f"{self.path} needs {(first + end) / 1e9:.2g} GB ({error}): free some space") from error
        self._layout = {name: (first + start, shape, kind) for name, (start, shape, kind) in layout.items()}


def _allocate(file: int, size: int) -> None:
    """Reserve the space of a file, because writing to a memory map of a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS has no such call
        os.truncate(file, size)
