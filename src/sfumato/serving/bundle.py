"""Run an exported ONNX file with onnxruntime and numpy alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sfumato import __version__
from sfumato.errors import DataError, MissingDependencyError, MissingFileError

if TYPE_CHECKING:
    from onnxruntime import SessionOptions  # pyright: ignore[reportAttributeAccessIssue]  # a compiled name

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Bundle:
    """An ONNX file that ``sfumato export`` wrote.

    Args:
        path: The file.
        threads: Number of threads of onnxruntime. Default 0: its own choice.

    Attributes:
        metadata: What the file says about itself: task, classes or unit, inputs, outputs, conformal sets and more.
        inputs: Names of the inputs, in order.

    Raises:
        MissingFileError: If there is no such file.
        MissingDependencyError: If onnxruntime is not installed.
        DataError: If it is cut off, or ``sfumato export`` did not write it.
    """

    metadata: dict[str, Json]

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(f"{path} needs onnxruntime: pip install 'sfumato[export]'") from error
        if not Path(path).is_file():
            raise MissingFileError(f"{path} does not exist: write it with `sfumato export RUN --out {path}`")
        options = quiet_options()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception of its own for every kind of broken file
            reason = " ".join(str(error).split())
            raise DataError(f"{path} is not a whole ONNX file ({reason}): export again") from error
        text = self._session.get_modelmeta().custom_metadata_map.get("sfumato")
        if text is None:
            raise DataError(f"{path} was not written by `sfumato export`: it lacks the names of classes and units")
        self._path = path
        self.metadata = _metadata(text, path)
        needed = NEEDED[str(self.metadata["kind"])]
        if missing := set(needed) - {output.name for output in self._session.get_outputs()}:
            raise DataError(f"{path} has no output {sorted(missing)[0]!r}: export again")
        self._inputs = {str(each["name"]): each for each in _entries(self.metadata["inputs"])}
        self.inputs = tuple(self._inputs)

    @property
    def input_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each input without the batch; −1 for heights and widths."""
        return {each.name: (each.type, _sides(each.shape)) for each in self._session.get_inputs()}

    @property
    def output_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The same of each output."""
        return {each.name: (each.type, _sides(each.shape)) for each in self._session.get_outputs()}

    def __repr__(self) -> str:
        return f"Bundle({self.metadata['task']}, {self.metadata['method']}, {self.metadata['likelihood']})"

    def __call__(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Predict a batch.

        Args:
            *inputs: One array for each of :attr:`inputs`. Images are (B, 3, H, W), uint8 or float32 in [0, 1] as
                ``metadata["inputs"]`` says, of any size, at the scale that the run was trained at
                (``metadata["scale"]`` of the original size).

        Returns:
            Of classes ``label`` (B, H, W), ``probability`` of it, ``probs`` (B, K, H, W), and ``total``, ``aleatoric``,
            ``epistemic`` (B, H, W) in nats. Of values ``mean``, ``aleatoric_variance`` and ``epistemic_variance``
            (B, D, H, W), and the three as variances (B, H, W) summed over D. ``novelty`` (B, H, W) if the method gives
            it.

        Raises:
            DataError: If an input is missing, or has another shape or type than expected.
        """
        if len(inputs) != len(self.inputs):
            raise DataError(f"{len(inputs)} inputs, expected {len(self.inputs)}: {', '.join(self.inputs)}")
        for name, value in zip(self.inputs, inputs):
            self._check(name, value)
        sizes = {value.shape[-2:] for name, value in zip(self.inputs, inputs) if self._inputs[name]["map"]}
        if len(sizes) > 1:
            raise DataError(f"inputs of different sizes {sorted(sizes)}: expected one height and width")
        names = [output.name for output in self._session.get_outputs()]
        try:
            found = self._session.run(names, dict(zip(self.inputs, inputs)))
        except Exception as error:  # onnxruntime has an exception of its own for every operation
            reason = " ".join(str(error).split())
            raise DataError(f"{self._path} fails on inputs of {sorted(sizes)} ({reason}): export again") from error
        return {name: np.asarray(values) for name, values in zip(names, found)}

    def _check(self, name: str, value: np.ndarray) -> None:
        kind = self._inputs[name]
        channels = (kind["channels"],) if kind["channels"] else ()
        dims = 1 + len(channels) + (2 if kind["map"] else 0)
        right = value.ndim == dims and value.shape[1 : 1 + len(channels)] == channels
        if not right or value.dtype != np.dtype(str(kind["type"])) or not value.size:
            shape = ", ".join(["B", *map(str, channels), *(["H", "W"] if kind["map"] else [])])
            raise DataError(
                f"{name} is {value.dtype} {value.shape}, expected {kind['type']} ({shape}) of at least one pixel"
            )


NEEDED = {"class": ("probs", "aleatoric"), "value": ("mean", "aleatoric_variance", "epistemic_variance")}
KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,), "task_args": (dict,), "kind": (str,), "unit": (str,), "inputs": (list,), "outputs": (list,),
    "map": (bool,), "scale": (list,), "draws": (int,), "quantiles": (list, type(None)), "conformal": (dict, type(None)),
    "method": (str,), "likelihood": (str,),
}  # fmt: skip


def _metadata(text: str, path: str | Path) -> dict[str, Json]:
    """What a file says about itself.

    Raises:
        DataError: If an entry is missing or has another type.
    """
    wrong = f"{path} says something else about itself than `sfumato export` writes"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{wrong} ({error}): export again") from error
    entries = found if isinstance(found, dict) else {}
    if (version := entries.get("sfumato")) != __version__:
        wrong = f"{path} was written by sfumato {version}, and this is {__version__}"
    for name, kinds in KINDS.items():
        if not isinstance(entries.get(name, ...), kinds):
            raise DataError(f"{wrong} (its entry {name!r} is missing or has another type): export again")
    inputs = all(
        isinstance(each, dict) and {"name", "channels", "map", "type"} <= each.keys() for each in found["inputs"]
    )
    scale = [each for each in found["scale"] if isinstance(each, int | float) and 0 < each < float("inf")]
    if found["kind"] not in NEEDED or not inputs or len(scale) != len(found["scale"]) or len(scale) != 2:
        raise DataError(f"{wrong} (its kind, inputs or scale are of another form): export again")
    return found


def _sides(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(side if isinstance(side, int) else -1 for side in shape[1:])


def quiet_options() -> SessionOptions:
    """Options of onnxruntime with which it raises its errors and does not print them too, and idle threads sleep.

    Threads that spin while they wait take the cores that decode and encode images, or those of other programs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _entries(value: Json) -> list[dict[str, Json]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
