"""Images larger than memory: read from disk tile by tile, their predictions written to disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.contracts import Likelihood, Method
from sfumato.predictions.classes import ClassPrediction
from sfumato.predictions.tiles import CANVAS, predicted_tiles
from sfumato.predictions.values import ValuePrediction

KINDS = {kind.__name__: kind for kind in (ClassPrediction, ValuePrediction)}


def predict_streamed(
    method: Method,
    image: Any,
    out: str | Path,
    *,
    likelihood: Likelihood,
    tile: tuple[int, int] = (512, 512),
    overlap: int = 128,
    generator: torch.Generator | None = None,
) -> None:
    """As :func:`predict_tiled`, from disk to disk: memory is needed for one tile, whatever the size of the image.

    The numbers are those of ``predict_tiled``. What is summed over tiles stands on disk beside the result until it is
    whole; only then does ``out`` appear. Needs ``pip install 'sfumato[large]'``.

    Args:
        method: draws outputs; its network takes one image.
        image: (C, H, W), float in [0, 1] or uint8: a zarr array, or whatever gives a window when asked for
            ``image[:, rows, columns]``, as numpy's memory maps and HDF5's data sets do.
        out: folder to make: a zarr group with an array (1, …, H, W) for each tensor of the prediction, in chunks of a
            tile, read by :func:`read_window` or any other reader of zarr.
        likelihood: says what an output means.
        tile: height and width, pixels.
        overlap: of neighboring tiles, pixels, smaller than a tile.
        generator: source of randomness; each tile has its own, which depends on its place only.

    Raises:
        FileExistsError: if there is something at ``out``.
        ValueError: if zarr is not installed, the image has not three dimensions or is of other numbers, or for what
            :func:`predict_tiled` refuses.
    """
    out, zarr = Path(out), _zarr()
    if out.exists():
        raise FileExistsError(f"{out} exists: delete it, or give the name of a new folder")
    if len(image.shape) != 3 or (image.dtype.kind != "f" and image.dtype != "uint8"):
        raise ValueError(f"image is {tuple(image.shape)} {image.dtype}, expected (C, H, W), uint8 or float in [0, 1]")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        sums = zarr.open_group(part / "sums", mode="w")
        size, empty = tuple(image.shape[1:]), None
        tiles = predicted_tiles(
            method, lambda r, c: (_window(image, r, c),), size, likelihood, tile, overlap, generator
        )  # fmt: skip
        for drawn, rows, columns, weight in tiles:
            if type(drawn) not in KINDS.values():
                raise ValueError(f"a {type(drawn).__name__} cannot be streamed: predict its tasks one by one")
            empty = CANVAS[type(drawn)].empty(drawn, weight.shape)
            canvas = replace(empty, **_read(sums, rows, columns)) if len(sums) else empty
            canvas.add(drawn, slice(None), slice(None), weight)
            _write(sums, _tensors(canvas), size, tile, rows, columns)
        _finish(zarr.open_group(part / "whole", mode="w"), sums, empty, size, tile)
        (part / "whole").replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_window(path: str | Path, rows: slice, columns: slice) -> ClassPrediction | ValuePrediction:
    """Some rows and columns of what :func:`predict_streamed` wrote, as a prediction (1, …, h, w).

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if it is something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: predict_streamed writes such a folder")
    try:
        group = _zarr().open_group(path, mode="r")
        known = dict(group.attrs)
        kind = KINDS[known.pop("type")]
    except (FileNotFoundError, KeyError) as error:
        raise ValueError(f"{path} holds no prediction ({error}): expected what predict_streamed writes") from error
    return kind(**_read(group, rows, columns), **known)


def _window(image: Any, rows: slice, columns: slice) -> Tensor:
    """(1, C, h, w) in [0, 1]."""
    found = torch.from_numpy(image[:, rows, columns].copy())[None]
    return found / 255 if found.dtype == torch.uint8 else found.float()


def _finish(group: Any, sums: Any, empty: Any, size: tuple[int, int], tile: tuple[int, int]) -> None:
    """Sums over tiles become predictions, a block at a time."""
    for rows, columns in _blocks(size, tile):
        found = replace(empty, **_read(sums, rows, columns)).prediction()
        _write(group, _tensors(found), size, tile, rows, columns)
        group.attrs.update(type=type(found).__name__, draws=found.draws)
        if isinstance(found, ValuePrediction):
            group.attrs["unit"] = found.unit


def _blocks(size: tuple[int, int], tile: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for top in range(0, size[0], tile[0]):
        for left in range(0, size[1], tile[1]):
            yield slice(top, min(top + tile[0], size[0])), slice(left, min(left + tile[1], size[1]))


def _tensors(held: Any) -> dict[str, Tensor]:
    named = ((field.name, getattr(held, field.name)) for field in fields(held))
    return {name: value for name, value in named if isinstance(value, Tensor)}


def _read(group: Any, rows: slice, columns: slice) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array[..., rows, columns]) for name, array in group.arrays()}


def _write(
    group: Any, values: dict[str, Tensor], size: tuple[int, int], tile: tuple[int, int], rows: slice, columns: slice
) -> None:
    for name, value in values.items():
        if name not in group:
            shape, chunks = (*value.shape[:-2], *size), (*value.shape[:-2], *map(min, tile, size))
            group.create_array(name, shape=shape, chunks=chunks, dtype="float32", fill_value=0.0)
        group[name][..., rows, columns] = value.cpu().numpy()


def _zarr() -> Any:
    try:
        import zarr  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("zarr is not installed: pip install 'sfumato[large]'") from error
    return zarr
