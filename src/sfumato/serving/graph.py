"""A run as one graph: raw image in; label or value, total, aleatoric and epistemic out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sfumato
from sfumato.methods import Deterministic
from sfumato.predictions import ClassPrediction, predict
from sfumato.storage import atomic_write
from sfumato.training import Run

FORMATS = ("onnx", "torch-export")
TOLERANCE = 1e-4
CITATION = "Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?"


class Graph(nn.Module):
    """Everything between an image and a decomposed prediction: normalization, members, fold, calibration.

    Args:
        run: whose method makes every draw without chance: ``deterministic`` or any kind of ensemble; of another, one
            pass of the network as it is, if ``deterministic``.
        deterministic: whether to leave the draws out, and with them the epistemic part.

    Raises:
        ValueError: if the method draws at random and ``deterministic`` is false.
    """

    def __init__(self, run: Run, deterministic: bool = False) -> None:
        super().__init__()
        method = run.method()
        random = hasattr(method, "samples")  # who has a number of draws makes them by chance
        if random and not deterministic:
            raise ValueError(
                f"{run.folder} predicts by {run.plan.method}, whose random draws no exported graph can make: export an "
                "ensemble or an evidential likelihood, or pass --deterministic for one pass without them (epistemic part 0)"
            )
        self.networks = nn.ModuleList(run.networks).eval()
        self.run = run
        self.method = Deterministic(run.networks[0]) if random else method

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Of uint8 or float images (B, 3, H, W): label, probability and parts of classes; mean and parts of values."""
        return _outputs(self.prediction(image))

    def prediction(self, image: Tensor) -> Any:
        """What :meth:`forward` takes apart."""
        seen = image.float() / 255 if image.dtype == torch.uint8 else image
        drawn: Any = predict(self.method, seen, likelihood=self.run.likelihood)
        return self.run.calibrated(replace(drawn, image=seen))


def export(
    run: Run, path: Path, format: str = "onnx", input: str = "uint8", deterministic: bool = False
) -> dict[str, float]:
    """Write a run as one file and check what it computes.

    Args:
        run: see :class:`Graph`.
        path: of the file.
        format: ``onnx``, or ``torch-export`` for a ``.pt2`` that torch loads.
        input: ``uint8``, or ``float`` for images in [0, 1].
        deterministic: see :class:`Graph`.

    Returns:
        The largest difference of each output from the run's own, over images of sizes other than the one traced.
        Nothing is kept if one is above 1e-4 (of values relative to the largest).

    Raises:
        ValueError: for an unknown format or input, a method that cannot be exported, an operator that the format lacks,
            or a file that computes something else.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if input not in ("uint8", "float"):
        raise ValueError(f"input is {input!r}, expected uint8 or float")
    graph = Graph(run, deterministic).eval()
    multiple = int(getattr(run.networks[0].network, "stride", 32))
    about = metadata(run, input, multiple)
    sizes = [(2, 3 * multiple, 5 * multiple), (1, 2 * multiple, 3 * multiple), (3, 4 * multiple, 2 * multiple)]
    images = [_image(size, input, index) for index, size in enumerate(sizes)]
    with torch.no_grad():
        expected = [graph.prediction(image) for image in images]
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    # Sizes are multiples of what the network halves; the reader of the file fills images up.
    height, width = (multiple * torch.export.Dim(name, min=2, max=1 << 12) for name in ("rows", "columns"))
    shapes = ({0: batch, 2: height, 3: width},)
    with atomic_write(path) as part:
        try:
            with torch.no_grad(), _quiet():
                program = torch.export.export(graph, (images[0],), dynamic_shapes=shapes)
                run_file = (_write_onnx if format == "onnx" else _write_pt2)(program, part, about)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, torch.onnx.OnnxExporterError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{run.plan.network} cannot be exported to {format}: {reason}") from error
        worst = dict.fromkeys(about["outputs"], 0.0)
        for image, found in zip(images, expected):
            sure = _decided(found)
            for name, ours, theirs in zip(worst, _outputs(found), run_file(image)):
                scale = 1.0 if "classes" in about else max(float(ours.abs().max()), 1e-12)
                difference = float((ours.double() - torch.as_tensor(theirs).double()).abs().max()) / scale
                worst[name] = max(worst[name], _disagree(ours, theirs, sure) if name == "label" else difference)
        if max(worst.values()) > TOLERANCE:
            raise ValueError(f"the {format} file differs from the run by {worst}, more than {TOLERANCE}: not kept")
    return worst


def metadata(run: Run, input: str, multiple: int) -> dict[str, Any]:
    """What a file says of itself."""
    plan, task = run.plan, run.task
    names = getattr(task, "names", None)
    meaning = {"classes": list(names), "palette": [list(c) for c in task.palette]} if names else {"unit": task.unit}  # pyright: ignore
    return meaning | {
        "sfumato": sfumato.__version__,
        "task": plan.task,
        "likelihood": plan.likelihood,
        "method": plan.method,
        "members": plan.members,
        "network": plan.network,
        "calibrator": type(run.calibrator).__name__ if run.calibrator is not None else "",
        "input": input,
        "multiple": multiple,
        "scale": [now / native for now, native in zip(plan.size, plan.original_size)],
        "outputs": ["label", "probability", "total", "aleatoric", "epistemic"]
        if names
        else ["mean", "total", "aleatoric", "epistemic"],
        "parts": "nats" if names else f"variances, {task.unit}²",  # pyright: ignore[reportAttributeAccessIssue]
        "trained_on": {"data": plan.data, "images": plan.limit or plan.images, "fingerprint": plan.fingerprint},
        "citation": CITATION,
    }


def _image(size: tuple[int, int, int], input: str, seed: int) -> Tensor:
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return (image * 255).byte() if input == "uint8" else image


def _outputs(found: Any) -> tuple[Tensor, ...]:
    """Of a prediction what a file says of it, in the order of ``metadata["outputs"]``."""
    parts = found.total, found.aleatoric, found.epistemic
    if isinstance(found, ClassPrediction):
        return found.label.to(torch.uint8), found.confidence, *parts
    return found.mean, *parts


def _decided(found: Any) -> Tensor:
    """Where the label is more probable than any other class by what outputs may differ; else it may fall either way."""
    if not isinstance(found, ClassPrediction):
        return torch.ones(())
    first, second = found.probs.topk(2, dim=1).values.unbind(1)
    return first - second > TOLERANCE


def _disagree(ours: Tensor, theirs: Any, sure: Tensor) -> float:
    return float(((ours != torch.as_tensor(theirs)) & sure).double().mean())


def _write_onnx(program: Any, path: Path, about: dict[str, Any]) -> Any:
    import onnxruntime

    written = torch.onnx.export(
        program, dynamo=True, input_names=["image"], output_names=about["outputs"], verbose=False, optimize=True
    )
    assert written is not None
    written.model.metadata_props["sfumato"] = json.dumps(about)
    written.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run(about["outputs"], {"image": np.asarray(image)})


def _write_pt2(program: Any, path: Path, about: dict[str, Any]) -> Any:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"sfumato.json": json.dumps(about)})
    with path.open("rb") as file:
        return torch.no_grad()(torch.export.load(file).module())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice to those who develop it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        yield
