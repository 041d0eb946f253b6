"""Predict images larger than memory: tiles are read from disk, and their predictions are written to disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfumato.contracts import Likelihood, Method
from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError, RunExistsError
from sfumato.predictions.aggregate import predict
from sfumato.predictions.canvas import ClassCanvas, ValueCanvas, task_canvas
from sfumato.predictions.classes import ClassPrediction
from sfumato.predictions.tiles import predicted_tiles
from sfumato.predictions.values import ValuePrediction
from sfumato.storage import check_finite

if TYPE_CHECKING:
    from zarr import Group

P = TypeVar("P")
Place = tuple[slice, slice]
KINDS = {kind.__name__: kind for kind in (ClassPrediction, ValuePrediction)}


class ImageArray(Protocol):
    """An image (C, H, W) on disk that returns one window at a time: an array of zarr, numpy's memory map, HDF5."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8 or a float type."""
        ...

    def __getitem__(self, where: tuple[slice, slice, slice], /) -> np.ndarray: ...


def predict_streamed(
    method: Method,
    image: ImageArray,
    out: str | Path,
    *,
    likelihood: Likelihood[P],
    tile: tuple[int, int] = (512, 512),
    overlap: int = 128,
    generator: torch.Generator | None = None,
) -> None:
    """As :func:`predict_tiled`, from disk to disk: it needs memory for one tile, whatever the size of the image.

    The numbers are those of :func:`predict_tiled`. The sums over tiles are kept on disk beside the result until it is
    complete; only then does ``out`` exist. Needs ``pip install 'sfumato[large]'``.

    Args:
        method: Draws outputs; its network takes one image.
        image: (C, H, W), float in [0, 1] or uint8: a zarr array, or anything that returns a window for
            ``image[:, rows, columns]``, as numpy's memory maps and HDF5's data sets do.
        out: Folder to make. It is a zarr group with an array (1, …, H, W) for each tensor of the prediction, in chunks
            of a tile. :func:`read_window` or any other reader of zarr can read it.
        likelihood: Says what an output means.
        tile: Height and width of a tile, pixels. Default 512 × 512.
        overlap: Overlap of neighboring tiles, pixels, smaller than a tile. Default 128.
        generator: Source of random numbers. Each tile has its own, which depends on its place only. Default: torch's.

    Raises:
        RunExistsError: If ``out`` exists.
        NotFiniteError: If a prediction is not finite.
        MissingDependencyError: If zarr is not installed.
        DataError: If the image has not three dimensions, or other numbers than uint8 or float.
        ConfigError: If :func:`predict_tiled` would refuse, or the prediction is of several tasks.
    """
    out, zarr = Path(out), _zarr()
    if out.exists():
        raise RunExistsError(f"{out} exists: delete it, or give the name of a new folder")
    if len(image.shape) != 3 or (image.dtype.kind != "f" and image.dtype != "uint8"):
        raise DataError(f"image is {tuple(image.shape)} {image.dtype}, expected (C, H, W), uint8 or float in [0, 1]")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    if part.exists():
        raise RunExistsError(f"{part} is in the way: move it")
    size = (int(image.shape[1]), int(image.shape[2]))

    def window(rows: slice, columns: slice, own: torch.Generator) -> P:
        return predict(method, _read_image(image, rows, columns), likelihood=likelihood, generator=own)

    try:
        sums, empty = zarr.open_group(part / "sums", mode="w"), None
        tiles = predicted_tiles(window, size, tile, overlap, generator)
        for drawn, rows, columns, weight in tiles:
            if not isinstance(drawn, ClassPrediction | ValuePrediction):
                raise ConfigError(f"a {type(drawn).__name__} cannot be streamed: predict its tasks one by one")
            tensors = {name: value for name, value in vars(drawn).items() if isinstance(value, Tensor)}
            check_finite(tensors, f"the prediction for {out}")
            empty = task_canvas(drawn, (weight.shape[0], weight.shape[1]))
            canvas = replace(empty, **_read(sums, (rows, columns))) if len(sums) else empty
            canvas.add(drawn, slice(None), slice(None), weight)
            _write(sums, _tensors(canvas), size, tile, (rows, columns))
        assert empty is not None
        _finish(zarr.open_group(part / "whole", mode="w"), sums, empty, size, tile)
        (part / "whole").replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_window(path: str | Path, rows: slice, columns: slice) -> ClassPrediction | ValuePrediction:
    """Some rows and columns of a result of :func:`predict_streamed`, as a prediction (1, …, h, w).

    Raises:
        MissingFileError: If there is nothing at ``path``.
        DataError: If it is something else.
        MissingDependencyError: If zarr is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist: predict_streamed writes such a folder")
    try:
        group = _zarr().open_group(path, mode="r")
        known = dict(group.attrs)
        kind = KINDS[known.pop("type")]
    except (FileNotFoundError, KeyError) as error:
        raise DataError(f"{path} holds no prediction ({error}): expected what predict_streamed writes") from error
    return kind(**_read(group, (rows, columns)), **known)


def _read_image(image: ImageArray, rows: slice, columns: slice) -> Tensor:
    """A window (1, C, h, w) in [0, 1]."""
    found = torch.from_numpy(image[:, rows, columns].copy())[None]
    return found / 255 if found.dtype == torch.uint8 else found.float()


def _finish(
    group: Group, sums: Group, empty: ClassCanvas | ValueCanvas, size: tuple[int, int], tile: tuple[int, int]
) -> None:
    """Compute the prediction from the sums, one block at a time."""
    for place in _blocks(size, tile):
        found = replace(empty, **_read(sums, place)).prediction()
        _write(group, _tensors(found), size, tile, place)
        group.attrs.update({"type": type(found).__name__, "draws": found.draws})
        if isinstance(found, ValuePrediction):
            group.attrs["unit"] = found.unit


def _blocks(size: tuple[int, int], tile: tuple[int, int]) -> Iterator[Place]:
    for top in range(0, size[0], tile[0]):
        for left in range(0, size[1], tile[1]):
            yield slice(top, min(top + tile[0], size[0])), slice(left, min(left + tile[1], size[1]))


def _tensors(held: ClassCanvas | ValueCanvas | ClassPrediction | ValuePrediction) -> dict[str, Tensor]:
    named = ((field.name, getattr(held, field.name)) for field in fields(held))
    return {name: value for name, value in named if isinstance(value, Tensor)}


def _read(group: Group, place: Place) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(array[(..., *place)])) for name, array in group.arrays()}


def _write(group: Group, values: dict[str, Tensor], size: tuple[int, int], tile: tuple[int, int], place: Place) -> None:
    for name, value in values.items():
        if name not in group:
            shape, chunks = (*value.shape[:-2], *size), (*value.shape[:-2], *map(min, tile, size))
            group.create_array(name, shape=shape, chunks=chunks, dtype="float32", fill_value=0.0)
        dict(group.arrays())[name][(..., *place)] = value.cpu().numpy()


def _zarr() -> ModuleType:
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError("zarr is not installed: pip install 'sfumato[large]'") from error
    return zarr
