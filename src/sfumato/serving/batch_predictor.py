"""A callable from a dict of arrays to a dict of arrays, as frameworks for clusters want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.data.images import MAX_PIXELS, decode_image
from sfumato.errors import ConfigError, DataError
from sfumato.registry import Trust
from sfumato.serving.batches import Batches, arrays_of
from sfumato.serving.predictor import open_predictor

LARGE = "probs"  # the array that is given on request only


class BatchPredictor:
    """Predicts batches of images. It is made once in each worker, and then called with one batch after the other.

    Ray Data's ``map_batches`` uses it as it is. In Spark's ``mapInPandas`` or Dask's ``map_partitions`` a function of a
    few lines gives it the columns of a part as arrays. A row gets the same numbers whatever else is in its batch.

    Args:
        path: Folder of a run, or an ``.onnx`` file of ``sfumato export``, that every worker can read.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        device: Device of a run: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default ``cpu``.
        trust: Class paths outside this package that may be imported. Default: none.
        most: The largest number of images that an exported file predicts at the same time. Default 8.
        probabilities: Whether the probabilities of all classes are given. Default False.

    Raises:
        MissingFileError: If there is no such run or file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        samples: int | None = None,
        device: str = "cpu",
        trust: Trust | bool | str = "",
        most: int = 8,
        probabilities: bool = False,
    ) -> None:
        if most < 1:
            raise ConfigError(f"most is {most}, expected at least 1 image in a batch")
        self._batches = Batches(open_predictor(path, device=device, trust=trust), most, samples)
        self._probabilities = probabilities

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the columns that hold the inputs of the network."""
        return self._batches.predictor.backend.inputs

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict a batch.

        Args:
            batch: Columns by name, each with one entry for every row. Those named like :attr:`inputs` hold images, as
                arrays (H, W, 3) or gray (H, W), uint8 or float in [0, 1], or as the bytes of image files. Sizes may
                differ.

        Returns:
            The other columns as they are, and the outputs of an exported file by name: of classes ``label``,
            ``probability``, ``total``, ``aleatoric``, ``epistemic``; ``set_size`` or ``interval_width`` if the run has
            conformal sets. A column is an array (B, …), or one of objects if sizes differ.

        Raises:
            DataError: If a column is missing, has the name of an output, or an entry is no image.
        """
        others = {name: values for name, values in batch.items() if name not in self.inputs}
        if missing := [name for name in self.inputs if name not in batch]:
            raise DataError(f"the batch has the columns {', '.join(batch) or 'none'}, and {missing[0]!r} is missing")
        columns = [batch[name] for name in self.inputs]
        samples = [
            self._batches.ready(*(_image(entry, f"{name} of row {row}") for name, entry in zip(self.inputs, entries)))
            for row, entries in enumerate(zip(*columns, strict=True))
        ]
        rows = [arrays_of(found) for found in self._batches(samples)]
        names = [name for name in (rows[0] if rows else {}) if self._probabilities or not name.endswith(LARGE)]
        if taken := sorted(set(names) & set(others)):
            raise DataError(f"the batch has a column {taken[0]!r}, which is the name of an output: rename it")
        return others | {name: _column([row[name][0] for row in rows]) for name in names}


def _image(entry: object, name: str) -> Tensor:
    """An image (1, 3, H, W) of an entry."""
    if isinstance(entry, bytes | bytearray | memoryview):
        return decode_image(bytes(entry), name, MAX_PIXELS)[None]
    pixels = np.asarray(entry)
    gray = pixels.ndim == 2
    pixels = np.repeat(pixels[..., None], 3, 2) if gray else pixels
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype.kind not in "uf":
        raise DataError(f"{name} is {pixels.dtype} {pixels.shape}, expected bytes, (H, W, 3) or (H, W), uint8 or float")
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # written so that NaN is refused too
            raise DataError(f"{name} is float and holds values outside [0, 1] (or NaN): divide by 255, or give uint8")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype != np.uint8:
        raise DataError(f"{name} is {pixels.dtype}, expected uint8 or float in [0, 1]")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def _column(values: Sequence[np.ndarray]) -> np.ndarray:
    if len({value.shape for value in values}) <= 1:
        return np.stack(values)
    found = np.empty(len(values), object)
    for place, value in enumerate(values):
        found[place] = value
    return found
