"""Smaller files: weights in half precision or in 8 bits, and how much the scores lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sfumato.contracts import DataSet
from sfumato.data.sizes import at_factors
from sfumato.errors import ConfigError, ExportError, MissingDependencyError
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.runs import Run
from sfumato.serving.bundle import Bundle
from sfumato.serving.graph import Graph
from sfumato.serving.predictor import OnnxBackend
from sfumato.storage import atomic_write

PRECISIONS = ("float32", "float16", "int8")


def reduce_precision(path: str | Path, precision: str) -> None:
    """Store the weights of convolutions and matrices of an ONNX file in fewer bits. Computations stay in float32.

    ``float16`` halves the file. ``int8`` quarters it: the weights w of each output channel c are rounded to whole
    multiples of ``max |w_c| / 127``.

    Args:
        path: The file, which is replaced.
        precision: One of :data:`PRECISIONS`.

    Raises:
        ConfigError: If there is no such precision.
        ExportError: If a weight does not fit into float16. The file stays as it is.
        MissingDependencyError: If onnx is not installed.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("reducing the precision needs onnx: pip install 'sfumato[export]'") from error
    if precision == "float32":
        return
    model = onnx.load(path)
    nodes = []
    for weight in list(model.graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        stored = _stored(numpy_helper.to_array(weight), weight.name, precision)
        model.graph.initializer.remove(weight)
        model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
        if precision == "float16":
            nodes.append(onnx.helper.make_node("Cast", list(stored), [weight.name], to=onnx.TensorProto.FLOAT))
        else:
            nodes.append(onnx.helper.make_node("DequantizeLinear", list(stored), [weight.name], axis=0))
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    with atomic_write(path) as part:
        onnx.save(model, part)


def _stored(values: np.ndarray, name: str, precision: str) -> dict[str, np.ndarray]:
    """The arrays that a weight is stored as."""
    if precision == "float16":
        if (largest := np.abs(values).max()) > np.finfo(np.float16).max:
            raise ExportError(f"{name} holds {largest:.3g}, more than float16 can: use --precision int8 or float32")
        return {f"{name}_half": values.astype(np.float16)}
    step = np.abs(values).reshape(len(values), -1).max(1).clip(1e-12) / 127
    rounded = np.round(values / step.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    return {f"{name}_int8": rounded, f"{name}_step": step.astype(np.float32)}


def precision_cost(
    run: Run, bundle: Bundle, dataset: DataSet, *, deterministic: bool = False, progress: bool = True
) -> dict[str, tuple[float, float]]:
    """Headline scores of a run and of a file that was exported from it, on every image of a data set.

    Args:
        run: The run, of one task.
        bundle: The file.
        dataset: Images at the size of the run.
        deterministic: Whether the file was exported with ``deterministic``. Default False.
        progress: Whether to show a progress bar. Default True.

    Returns:
        For each score its value of the run, and of the file.
    """
    from rich.progress import track

    images = at_factors(dataset, run.plan.factors)
    task, graph, backend = run.single_task, Graph(run.to("cpu"), deterministic).eval(), OnnxBackend(bundle)
    tables = task.scores(), task.scores()
    for index in track(range(len(images)), "score", disable=not progress, transient=True):
        sample = images[index]
        inputs = backend.typed(*run.inputs_of(sample))
        target, valid = task.target_and_mask(task.entries(sample))
        for table, prediction in zip(tables, _both(graph, backend, inputs)):
            table.update(prediction, target[None], valid[None])
    ours, theirs = (table.compute() for table in tables)
    return {name: (float(ours[name]), float(theirs[name])) for name in tables[0].headline if name in ours}


def _both(
    graph: Graph, backend: OnnxBackend, inputs: tuple[torch.Tensor, ...]
) -> tuple[ClassPrediction | ValuePrediction, ClassPrediction | ValuePrediction]:
    with torch.no_grad():
        ours = graph.prediction(*inputs)
    return ours, backend.predict(*inputs, samples=None, seed=0, index=0, tile=0)
