"""A model repository for the Triton Inference Server: an exported file and its configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sfumato.errors import ConfigError
from sfumato.runs import Run
from sfumato.serving.bundle import Bundle
from sfumato.serving.exporter import export
from sfumato.storage import atomic_write

BATCH, DELAY = 8, 5000  # images in a batch, and microseconds that one waits for others
TYPES = {
    "tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(int64)": "TYPE_INT64",
    "tensor(float)": "TYPE_FP32", "tensor(bool)": "TYPE_BOOL",
}  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def export_triton(
    run: Run, repository: str | Path, name: str, input: str = "uint8", deterministic: bool = False
) -> dict[str, float]:
    """Write ``REPOSITORY/NAME/config.pbtxt`` and ``REPOSITORY/NAME/1/model.onnx``.

    Triton puts requests with images of one size into batches of up to 8.

    Args:
        run: A run of one task, see :func:`sfumato.serving.export`.
        repository: The folder of the model repository. It is made.
        name: Name of the model.
        input: Type of images: ``uint8``, or ``float`` for float32 in [0, 1]. Default ``uint8``.
        deterministic: See :func:`sfumato.serving.export`. Default False.

    Returns:
        The largest difference of each output from the run, see :func:`sfumato.serving.export`.

    Raises:
        ConfigError: If Triton does not accept the name.
        ExportError: If the run cannot be exported.

    Source: the documentation of Triton, "Model configuration".
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a model for Triton: expected letters, digits, '.', '-' and '_'")
    folder = Path(repository) / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    differences = export(run, folder / "1" / "model.onnx", "onnx", input, deterministic)
    with atomic_write(folder / "config.pbtxt") as part:
        part.write_text(configuration(Bundle(folder / "1" / "model.onnx"), name), encoding="utf-8")
    return differences


def configuration(bundle: Bundle, name: str) -> str:
    """The text of ``config.pbtxt`` for an exported file."""
    sides = (("input", bundle.input_shapes), ("output", bundle.output_shapes))
    tensors = [
        "\n".join([f"{kind} [", ",\n".join(_tensor(*each) for each in entries.items()), "]"]) for kind, entries in sides
    ]
    about = {key: str(bundle.metadata[key]) for key in ("sfumato", "run_state", "unit") if key in bundle.metadata}
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {BATCH}",
            *tensors,
            f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}",
            *_parameters(about),
            "",
        ]
    )


def _tensor(name: str, described: tuple[str, tuple[int, ...]]) -> str:
    """An input or output without its batch dimension. Triton wants at least one number for each image."""
    kind, shape = described
    dims = ", ".join(map(str, shape)) or "1"
    reshape = "" if shape else " reshape: { shape: [ ] }"
    return f'  {{ name: "{name}" data_type: {TYPES[kind]} dims: [ {dims} ]{reshape} }}'


def _parameters(about: Mapping[str, str]) -> list[str]:
    text = {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in about.items()}
    return [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in text.items()]
