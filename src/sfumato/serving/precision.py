"""Smaller files: weights in half precision or in 8 bits, and what that costs in scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.metrics import ValueScores, calibration, confusion, histogram, ranking
from sfumato.predictions import ValuePrediction
from sfumato.serving.bundle import Bundle
from sfumato.storage import atomic_write
from sfumato.training import Run

PRECISIONS = ("float32", "float16", "int8")


def shrink(path: Path, precision: str) -> None:
    """Store the weights of convolutions and matrices in an ONNX file in fewer bits; what it computes stays float32.

    ``float16`` halves the file. ``int8`` quarters it: each output channel c of a weight w is rounded to whole multiples
    of ``max |w_c| / 127``.

    Args:
        path: of the file, which is replaced.
        precision: one of :data:`PRECISIONS`.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    nodes = []
    for weight in list(model.graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2 or precision == "float32":
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        stored: dict[str, np.ndarray]
        how: dict[str, Any]
        if precision == "float16":
            stored, kind, how = {f"{name}_half": values.astype(np.float16)}, "Cast", {"to": onnx.TensorProto.FLOAT}
        else:
            scale = np.abs(values).reshape(len(values), -1).max(1).clip(1e-12) / 127
            rounded = np.round(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            stored = {f"{name}_int8": rounded, f"{name}_step": scale.astype(np.float32)}
            kind, how = "DequantizeLinear", {"axis": 0}
        model.graph.initializer.remove(weight)
        model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
        nodes.append(onnx.helper.make_node(kind, list(stored), [name], **how))
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    with atomic_write(path) as part:
        onnx.save(model, part)


def cost(
    run: Run, bundle: Bundle, dataset: Dataset, *, deterministic: bool = False, progress: bool = True
) -> dict[str, tuple[float, float]]:
    """Scores of a run and of a file of it on every image: what both say of labels, confidences and total uncertainty.

    Args:
        run: of which the file is.
        bundle: the file.
        dataset: at the size of the run's plan.
        deterministic: as the file was exported.
        progress: whether to show a bar.

    Returns:
        Name → of the run, of the file. Of classes mIoU, accuracy, ECE and error-detection AUROC; of values the headline
        of :class:`ValueScores`.
    """
    from sfumato.serving.graph import Graph

    graph, key = Graph(run, deterministic).eval(), run.task.key
    tables = [_Values(run.task.unit) if "unit" in bundle.metadata else _Classes(len(run.task.names)) for _ in range(2)]  # pyright: ignore[reportAttributeAccessIssue]
    for index in track(range(len(dataset)), "score", disable=not progress, transient=True):  # pyright: ignore[reportArgumentType]
        sample = dataset[index]
        bytes_of = (sample["image"][None] * 255).round().byte()
        image = bytes_of if bundle.metadata["input"] == "uint8" else bytes_of.float() / 255
        with torch.no_grad():
            ours = dict(zip(bundle.metadata["outputs"], graph(image)))
        theirs = {name: torch.from_numpy(np.array(maps)) for name, maps in bundle(image.numpy()).items()}
        for table, said in zip(tables, (ours, theirs)):
            table.add(said, sample[key][None], sample[key + "_valid"][None])
    ours, theirs = (table.scores() for table in tables)
    return {name: (ours[name], theirs[name]) for name in ours}


class _Classes:
    """Scores of what a file says of classes, which is less than the law of a pixel."""

    def __init__(self, classes: int) -> None:
        self.classes, self.sums = classes, []

    def add(self, said: dict[str, Tensor], target: Tensor, valid: Tensor) -> None:
        label, sure, total = (said[name][valid] for name in ("label", "probability", "total"))
        right = label.long() == target[valid]
        key = histogram.key(total) + (~right).int() * histogram.KEYS
        pairs = confusion.confusion(label.long(), target[valid], self.classes)
        ranks = torch.bincount(key, minlength=2 * histogram.KEYS).view(2, -1)
        row = pairs, *calibration.reliability(sure, right), ranks
        self.sums = [a + b for a, b in zip(self.sums, row)] if self.sums else list(row)

    def scores(self) -> dict[str, float]:
        pairs, bins, confidence, ranks = self.sums
        overlap = confusion.overlap(pairs)
        return {
            "miou": float(confusion.iou(overlap).nanmean()),
            "accuracy": float(overlap[0].sum() / pairs.sum()),
            "ece": float(calibration.ece(bins, confidence)),
            "error_auroc": float(ranking.auroc(*ranks)),
        }


class _Values:
    """Scores of what a file says of values."""

    def __init__(self, unit: str) -> None:
        self.table = ValueScores(unit)

    def add(self, said: dict[str, Tensor], target: Tensor, valid: Tensor) -> None:
        # The file's variances are summed over dimensions; the scores of several take them for equal.
        mean = said["mean"]
        own, net = ((said[part][:, None] / mean.shape[1]).expand_as(mean) for part in ("aleatoric", "epistemic"))
        self.table.update(ValuePrediction(mean, own, net, self.table.unit), target, valid)

    def scores(self) -> dict[str, float]:
        found: dict[str, Any] = self.table.compute()
        return {name: float(found[name]) for name in self.table.headline}
