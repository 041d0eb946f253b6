"""Write a run as one ONNX or torch.export file, and check what the file computes."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from sfumato.errors import ConfigError, ExportError, MissingDependencyError, NotFiniteError, SfumatoError
from sfumato.runs import Run
from sfumato.sections import Json, one_line
from sfumato.serving.bundle import quiet_options
from sfumato.serving.graph import Graph, Outcome
from sfumato.serving.metadata import IMAGE_TYPES, InputKind, input_kinds, metadata
from sfumato.serving.padding import pad_inside
from sfumato.serving.sums import sums_by_convolution
from sfumato.storage import atomic_write
from sfumato.tasks import CameraPose

FORMATS = ("onnx", "torch-export")
TOLERANCE = 1e-4
SMALL, COARSE = 64, 32  # pixels: images that are large enough for any network, and sizes that suit most
Compute = Callable[[Sequence[Tensor]], Sequence[np.ndarray | Tensor]]


def export(
    run: Run, path: str | Path, format: str = "onnx", input: str = "uint8", deterministic: bool = False
) -> dict[str, float]:
    """Write a run as one file and check what the file computes.

    Args:
        run: A run of one task, see :class:`Graph`.
        path: The file.
        format: ``onnx``, or ``torch-export`` for a ``.pt2`` file that torch loads. Default ``onnx``.
        input: Type of images: ``uint8``, or ``float`` for float32 in [0, 1]. Default ``uint8``.
        deterministic: See :class:`Graph`. Default False.

    Returns:
        The largest difference of each output from the prediction of the run, over inputs of sizes other than the traced
        one; for values relative to the largest one, for labels the share of pixels that differ although they are not
        tied. The file is kept only if all are at most 1e-4.

    Raises:
        ConfigError: If there is no such format or type, or the run is of camera poses.
        ExportError: If the method or an operator cannot be exported, or the file computes something else.
        NotFiniteError: If an output is not finite.
    """
    _check_choices(format, input)
    if CameraPose.key in run.per_task:
        raise ConfigError("a run of camera poses cannot be exported: predict with the folder of the run")
    graph = Graph(run.to("cpu"), deterministic).eval()
    stride = int(getattr(run.networks[0], "stride", 1))
    grids = dict.fromkeys([Grid(stride, max(2, SMALL // stride)), Grid(math.lcm(stride, COARSE), 2)])
    if stride > 1:  # the network says which sizes it takes, so small ones need no more padding
        grids = {Grid(stride, 2): None} | grids
    *first, last = grids
    for grid in first:
        try:
            return _export(run, graph, Path(path), format, input, grid, odd=format == "onnx")
        except SizesError:
            continue
    try:
        return _export(run, graph, Path(path), format, input, last, odd=format == "onnx" and last.multiple == stride)
    except SizesError as error:
        advice = "Adaptive pooling, and code that depends on the size of the image, often cannot be exported"
        raise ExportError(f"{error}. {advice}") from error


@dataclass(frozen=True)
class Grid:
    """The sizes that a graph is traced for.

    Args:
        multiple: What heights and widths are multiples of.
        least: The smallest height and width, in multiples.
    """

    multiple: int
    least: int

    def sizes(self, odd: bool) -> list[tuple[int, int]]:
        """Three sizes, the second the smallest. The last two are no multiples if ``odd``."""
        rows = ((1, 3), (0, 0), (2, self.least))
        return [
            ((self.least + a) * self.multiple + odd * n, (self.least + b) * self.multiple + odd * n)
            for n, (a, b) in enumerate(rows)
        ]


class SizesError(ExportError):
    """A network that cannot be traced for these sizes, or whose trace is right for some of them only."""


def _export(run: Run, graph: Graph, path: Path, format: str, input: str, grid: Grid, odd: bool) -> dict[str, float]:
    kinds = input_kinds(run, input)
    examples = [
        tuple(kind.example(batch, size, 10 * n + place) for place, kind in enumerate(kinds))
        for n, (batch, size) in enumerate(zip((2, 1, 3), grid.sizes(odd)))
    ]
    try:
        with torch.no_grad():
            expected = [graph.outcome(*inputs) for inputs in examples]
    except ConfigError as error:  # images of this size are too small for the network
        raise SizesError(str(error)) from error
    _check_finite(expected, "the run's own output")
    network = run.config.network or "the network"
    with atomic_write(path) as part:
        with export_errors(network, format, SizesError):
            program = _traced(graph, kinds, examples[0], grid)
        with export_errors(network, format):
            about = metadata(run, kinds, grid.multiple, expected[0])
            compute = (_write_onnx if format == "onnx" else _write_torch)(program, part, about, grid)
        with export_errors(network, format, SizesError):
            found = [compute(inputs) for inputs in examples]
            differences = compare(expected, found)
        if max(differences.values()) > TOLERANCE:
            worst = {name: f"{value:.2g}" for name, value in differences.items() if value > TOLERANCE}
            raise SizesError(f"the {format} file differs from the run by {worst}, more than {TOLERANCE}: not kept")
    return differences


def _check_choices(format: str, input: str) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if input not in IMAGE_TYPES:
        raise ConfigError(f"input is {input!r}, expected one of {', '.join(IMAGE_TYPES)}")


@contextmanager
def export_errors(network: str, format: str, kind: type[ExportError] = ExportError) -> Iterator[None]:
    """Turn the exceptions of torch, onnx and onnxruntime into an :class:`ExportError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's advice to its developers
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            yield
    except (SfumatoError, OSError, MemoryError):
        raise
    except ImportError as error:
        raise MissingDependencyError(f"export needs {error.name}: pip install 'sfumato[export]'") from error
    except Exception as error:  # torch and onnx have an exception of their own for every operator and kind of file
        reason = one_line(error)[:300]
        raise kind(f"{network} cannot be exported to {format}: {type(error).__name__}: {reason}") from error


def _traced(graph: Graph, kinds: list[InputKind], inputs: tuple[Tensor, ...], grid: Grid) -> ExportedProgram:
    batch = Dim("batch", min=1, max=1 << 16)
    rows, columns = (Dim(name, min=grid.least, max=1 << 16) for name in ("rows", "columns"))
    height, width = (rows, columns) if grid.multiple == 1 else (grid.multiple * rows, grid.multiple * columns)
    shapes = tuple(
        {0: batch, value.ndim - 2: height, value.ndim - 1: width} if kind.map else {0: batch}
        for kind, value in zip(kinds, inputs)
    )
    with torch.no_grad():
        return torch.export.export(graph, inputs, dynamic_shapes={"inputs": shapes})


def _write_onnx(program: ExportedProgram, path: Path, about: Mapping[str, Json], grid: Grid) -> Compute:
    import onnxruntime

    inputs, outputs = [str(each["name"]) for each in _entries(about["inputs"])], [*map(str, _list(about["outputs"]))]
    written = torch.onnx.export(
        program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False, optimize=True
    )
    assert written is not None
    # What torch writes differs between processes and names files of this machine.
    for part in (written.model, written.model.graph, *written.model.graph):
        part.metadata_props.clear()
    # torch names a value inside after its operation, such as mean, which may be the name of an output too.
    for value in (value for part in written.model.graph for value in part.outputs):
        if value.name in outputs and value not in written.model.graph.outputs:
            value.name = f"inner_{value.name}"
    maps = [str(each["name"]) for each in _entries(about["inputs"]) if each["map"]]
    sums_by_convolution(written.model.graph)
    pad_inside(written.model.graph, maps, grid.multiple, grid.least, bool(about["map"]))
    written.model.metadata_props["sfumato"] = json.dumps(about, sort_keys=True)
    written.save(str(path))
    session = onnxruntime.InferenceSession(str(path), quiet_options(), providers=["CPUExecutionProvider"])

    def compute(values: Sequence[Tensor]) -> Sequence[np.ndarray | Tensor]:
        return [np.asarray(each) for each in session.run(outputs, dict(zip(inputs, map(np.asarray, values))))]

    return compute


def _write_torch(program: ExportedProgram, path: Path, about: Mapping[str, Json], grid: Grid) -> Compute:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"sfumato.json": json.dumps(about, sort_keys=True)})
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def compute(values: Sequence[Tensor]) -> Sequence[np.ndarray | Tensor]:
        with torch.no_grad():
            return module(*values)

    return compute


def _entries(value: Json) -> list[dict[str, Json]]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _list(value: Json) -> list[Json]:
    assert isinstance(value, list)
    return value


def compare(expected: Sequence[Outcome], found: Sequence[Sequence[np.ndarray | Tensor]]) -> dict[str, float]:
    """The largest difference of each output from what the run computes, see :func:`export`.

    Raises:
        NotFiniteError: If an output is not finite.
    """
    worst: dict[str, float] = {}
    for outcome, outputs in zip(expected, found, strict=True):
        margins = outcome.margins
        for (name, own), output in zip(outcome.outputs.items(), outputs, strict=True):
            theirs = torch.as_tensor(output).double()
            if not theirs.isfinite().all():
                raise NotFiniteError(f"the exported file gives a {name} that is not finite: not kept")
            if name in margins:
                value = float(((own.double() != theirs) & (margins[name] > TOLERANCE)).double().mean())
            else:
                value = float((own.double() - theirs).abs().max()) / outcome.scale(name)
            worst[name] = max(worst.get(name, 0.0), value)
    return worst


def _check_finite(outcomes: Sequence[Outcome], whose: str) -> None:
    for outcome in outcomes:
        for name, values in outcome.outputs.items():
            if values.is_floating_point() and not values.isfinite().all():
                raise NotFiniteError(f"{whose} {name} is not finite for a random image: check weights and calibrator")
