"""Run an exported file with onnxruntime and numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Bundle:
    """An ONNX file that ``sfumato export`` wrote.

    Args:
        path: the file.
        threads: of onnxruntime; 0 for its own choice.

    Attributes:
        metadata: what the file says of itself: task, classes or unit, what was trained on what, the input's kind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or not written by ``sfumato export``.
    """

    metadata: dict[str, Any]

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist: write it with `sfumato export RUN --out {path}`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception of its own for every kind of broken file
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is not a whole ONNX file ({reason}): export again") from error
        text = self._session.get_modelmeta().custom_metadata_map.get("sfumato")
        if text is None:
            raise ValueError(f"{path} was not written by `sfumato export`: it says nothing of classes or units")
        self.metadata = json.loads(text)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Predict images.

        Args:
            images: (B, 3, H, W), uint8 or float32 in [0, 1] as ``metadata["input"]`` says, of any size, at the scale
                the run was trained at (``metadata["scale"]`` of the original images).

        Returns:
            Of classes ``label`` (B, H, W) uint8, ``probability`` of it, ``total``, ``aleatoric``, ``epistemic`` (nats);
            of values ``mean`` (B, D, H, W) in ``metadata["unit"]``, and the three as variances in its square.

        Raises:
            ValueError: if images are of another shape or type.
        """
        kind = {"uint8": np.uint8, "float": np.float32}[self.metadata["input"]]
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != kind or not images.size:
            raise ValueError(
                f"images are {images.dtype} {images.shape}, expected {np.dtype(kind)} (B, 3, H, W) of at least a pixel"
            )
        height, width = images.shape[2:]
        multiple = self.metadata["multiple"]
        # The last row and column are repeated up to the size that the network's pooling asks for, and cut off again.
        more = [max(-size % multiple, 2 * multiple - size) for size in (height, width)]
        padded = np.pad(images, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), mode="edge")
        names = [output.name for output in self._session.get_outputs()]
        found = self._session.run(names, {"image": padded})
        return {name: np.asarray(maps)[..., :height, :width] for name, maps in zip(names, found)}
