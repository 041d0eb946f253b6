"""Predict many files with Ray Data: local or remote addresses in, the files of ``sfumato predict`` out."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec
import numpy as np

from sfumato.data.images import MAX_PIXELS, PICTURES, decode_image
from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError, ResourceError, SfumatoError
from sfumato.sections import one_line
from sfumato.serving.outputs import write_sample
from sfumato.serving.predictor import open_predictor

BATCH = 4  # files that a worker takes at a time, so that little is done again after it is killed
Row = dict[str, object]


@dataclass(frozen=True)
class Choices:
    """How files are predicted.

    Args:
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        tile: Side of the tiles, see :class:`sfumato.runs.Predictor`. Default None.
        max_pixels: The largest number of pixels of a file. Default 64 million.
        device: Device of a run. Default ``cpu``.
        trust: Class paths outside this package that may be imported. Default: none.
    """

    samples: int | None = None
    seed: int = 0
    tile: int | None = None
    max_pixels: int = MAX_PIXELS
    device: str = "cpu"
    trust: str = ""


def rows_of(given: Sequence[str], inputs: Sequence[str]) -> list[Row]:
    """The samples that addresses stand for.

    Args:
        given: Folders, files or globs, one for each input, at any address that fsspec knows, such as ``s3://…``.
        inputs: Names of the inputs of the network.

    Returns:
        For each sample its ``name``, the addresses ``files`` of its inputs, and its number ``index``.

    Raises:
        MissingFileError: If an address names no image.
        ConfigError: If inputs lack partners.
    """
    if len(given) != len(inputs):
        raise ConfigError(f"{len(given)} addresses, expected {len(inputs)}: one for each of {', '.join(inputs)}")
    listed = [_listed(each) for each in given]
    for other, files in zip(given[1:], listed[1:]):
        if odd := sorted(listed[0].keys() ^ files.keys()):
            raise ConfigError(f"{odd[0]} is in only one of {given[0]} and {other}: expected files of equal names")
    return [
        {"name": name, "files": [files[name] for files in listed], "index": index}
        for index, name in enumerate(sorted(listed[0]))
    ]


def _listed(address: str) -> dict[str, str]:
    """The addresses of the images in a folder by their names without endings."""
    try:
        system, root = fsspec.core.url_to_fs(address)
        folder = system.isdir(root)
        found = system.find(root) if folder else [root] if system.isfile(root) else system.glob(root)
    except (OSError, ValueError, ImportError) as error:
        raise MissingFileError(f"{address} cannot be listed: {one_line(error)}") from error
    paths = [str(path) for path in found if str(path).lower().endswith(PICTURES)]
    if not paths:
        raise MissingFileError(f"{address} names no image: expected a folder, file or glob of {' '.join(PICTURES)}")
    files: dict[str, str] = {}
    for path in paths:
        relative = PurePosixPath(path).relative_to(root) if folder else PurePosixPath(PurePosixPath(path).name)
        name = str(relative.with_suffix(""))
        if name in files:
            raise ConfigError(f"{files[name]} and {path} would be written to one place: rename one")
        files[name] = system.unstrip_protocol(path)
    return files


class FilePredictor:
    """Predicts files and writes the outputs of each, see :func:`sfumato.serving.outputs.write_sample`.

    ``NAME.json`` is written last and names the state of the run. So a file whose outputs are there is skipped, and one
    that a killed worker left half done is predicted again.

    Args:
        path: Folder of a run, or an ``.onnx`` file, that every worker can read.
        out: Folder of the outputs, at any address that fsspec knows.
        choices: How files are predicted. Default: as :class:`Choices`.
    """

    def __init__(self, path: str | Path, out: str, choices: Choices | None = None) -> None:
        self._choices = choices or Choices()
        self._predictor = open_predictor(path, device=self._choices.device, trust=self._choices.trust)
        self._system, self._out = fsspec.core.url_to_fs(out)

    def __call__(self, batch: Mapping[str, Sequence[object]]) -> dict[str, np.ndarray]:
        """Predict some rows of :func:`rows_of`, given as columns.

        Returns:
            ``name``; ``written``, False if the outputs were there; and ``problem``, empty, or why there are none.
        """
        columns: dict[str, list[object]] = {"name": [], "written": [], "problem": []}
        for name, files, index in zip(batch["name"], batch["files"], batch["index"]):
            written, problem = False, ""
            try:
                written = self._predict(str(name), [str(file) for file in files], int(str(index)))  # pyright: ignore[reportGeneralTypeIssues] a list
            except (SfumatoError, OSError) as error:
                problem = one_line(error)
            for key, value in (("name", str(name)), ("written", written), ("problem", problem)):
                columns[key].append(value)
        return {key: np.array(values) for key, values in columns.items()}

    def _predict(self, name: str, files: Sequence[str], index: int) -> bool:
        if self._is_done(name):
            return False
        choices, inputs = self._choices, self._predictor.backend.inputs
        images = [decode_image(_content(file), file, choices.max_pixels)[None] for file in files]
        bands = self._predictor.bands(
            *images, samples=choices.samples, seed=choices.seed, index=index, tile=choices.tile
        )
        assert len(images) == len(inputs)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / PurePosixPath(name).name
            write_sample(bands, self._predictor.backend.tasks, images[0], target, self._predictor.backend.state)
            self._upload(Path(folder), name)
        return True

    def _is_done(self, name: str) -> bool:
        try:
            about = json.loads(self._system.cat_file(self._at(f"{name}.json")))
        except (OSError, ValueError):
            return False
        return isinstance(about, dict) and about.get("run_state") == self._predictor.backend.state

    def _upload(self, folder: Path, name: str) -> None:
        parent = str(PurePosixPath(name).parent)
        self._system.makedirs(self._at(parent), exist_ok=True)
        last = f"{PurePosixPath(name).name}.json"
        for file in sorted(folder.iterdir(), key=lambda each: (each.name == last, each.name)):
            self._system.put_file(str(file), self._at(f"{parent}/{file.name}"))

    def _at(self, name: str) -> str:
        return str(PurePosixPath(self._out) / name)


def _content(address: str) -> bytes:
    with fsspec.open(address, "rb") as file:
        return file.read()  # pyright: ignore[reportAttributeAccessIssue] an open file


def predict_on_ray(
    path: str | Path, given: Sequence[str], out: str, workers: int = 1, choices: Choices | None = None
) -> tuple[int, int]:
    """Predict files with Ray Data. Outputs that are there already are kept.

    Ray runs on this machine, or on the cluster that ``RAY_ADDRESS`` names. It restarts a worker that is killed, and
    predicts its files again.

    Args:
        path: Folder of a run, or an ``.onnx`` file, that every worker can read.
        given: Folders, files or globs, one for each input, at any address that fsspec knows.
        out: Folder of the outputs.
        workers: Number of workers, each with a model of its own. Default 1.
        choices: How files are predicted. Default: as :class:`Choices`.

    Returns:
        The number of samples that were predicted, and of those whose outputs were there.

    Raises:
        ConfigError: If ``workers`` is less than 1, or inputs lack partners.
        MissingFileError: If an address names no image.
        DataError: If some files cannot be predicted. All others are.
        MissingDependencyError: If Ray Data is not installed.
        ResourceError: If Ray fails.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1")
    choices = choices or Choices()
    inputs = open_predictor(path, device="cpu", trust=choices.trust).backend.inputs
    rows = rows_of(given, inputs)
    found = _on_ray(rows, workers, (str(Path(path).resolve()), _absolute(out), choices))
    problems = [row for row in found if row["problem"]]
    written = sum(bool(row["written"]) for row in found)
    if problems:
        first = problems[0]
        raise DataError(
            f"{len(problems)} of {len(rows)} samples cannot be predicted, such as {first['name']}: {first['problem']}. "
            f"The others are in {out}"
        )
    return written, len(found) - written


def _absolute(address: str) -> str:
    system, path = fsspec.core.url_to_fs(address)
    return system.unstrip_protocol(path)


def _on_ray(rows: list[Row], workers: int, arguments: tuple[object, ...]) -> list[Row]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray raises its errors, and would print them too
    try:
        import ray  # pyright: ignore[reportMissingImports] of the extra ray
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDependencyError(f"--engine ray needs {error.name}: pip install 'ray[data]'") from error
    blocks = max(1, min(len(rows) // BATCH, 4 * workers))
    try:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        data = ray.data.from_items(rows, override_num_blocks=blocks)
        done = data.map_batches(
            FilePredictor,  # pyright: ignore[reportArgumentType] a class, of which each worker makes one
            fn_constructor_args=arguments,
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        return [dict(row) for row in done.iter_rows()]
    except (ray.exceptions.RayError, ConnectionError, ValueError) as error:
        raise ResourceError(f"Ray has failed: {one_line(error)[:500]}") from error
