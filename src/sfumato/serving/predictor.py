"""An exported ONNX file as the back end of :class:`sfumato.runs.Predictor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sfumato.calibration import conformal_for
from sfumato.contracts import Task
from sfumato.errors import ConfigError, DataError, plain
from sfumato.predictions import AnyPrediction, ClassPrediction, ValuePrediction
from sfumato.registry import NO_TRUST, Trust
from sfumato.runs.plan import FILE as PLAN
from sfumato.runs.predictor import Predictor, Sets
from sfumato.runs.resolve import build_task
from sfumato.runs.state import folder_state
from sfumato.sections import Json
from sfumato.serving.bundle import Bundle
from sfumato.targets import Image


@dataclass(frozen=True)
class OnnxBackend:
    """Predictions of an exported ONNX file, equal to those of the run that it was exported from.

    Args:
        bundle: The file.
        trust: Which class paths outside this package may be imported, for tasks of plug-ins. Default: none.
    """

    bundle: Bundle
    trust: Trust = field(default=NO_TRUST)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.bundle.inputs

    @property
    def state(self) -> str:
        """The state of the run when it was exported, see :func:`sfumato.runs.run_state`."""
        return str(self.bundle.metadata.get("run_state", ""))

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size."""
        height, width = _floats(self.bundle.metadata["scale"])
        return height, width

    @property
    def multiple(self) -> int:
        """The graph repeats the last row and column up to a multiple of this, and computes each image by itself."""
        found = self.bundle.metadata.get("multiple")
        return found if isinstance(found, int) and found > 0 else 0

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The task by name."""
        name, arguments = str(self.bundle.metadata["task"]), self.bundle.metadata["task_args"]
        assert isinstance(arguments, dict)
        tuples = {key: _tuples(value) for key, value in arguments.items()}
        return {name: build_task(name, cast("dict[str, Json]", tuples), self.trust)}

    def predict(
        self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None
    ) -> ClassPrediction | ValuePrediction:
        """The calibrated prediction for inputs (B, …). A file makes no draws, so ``seed`` and ``index`` change nothing.

        Raises:
            ConfigError: If samples or tiles are requested.
        """
        if samples is not None or tile:
            raise ConfigError("an exported file makes no draws and uses no tiles: leave out --samples and --tile")
        values = (value.cpu().numpy() for value in self.typed(*inputs))
        found = {name: torch.from_numpy(np.array(maps)) for name, maps in self.bundle(*values).items()}
        draws, novelty = self.bundle.metadata["draws"], found.get("novelty")
        assert isinstance(draws, int)
        if self.bundle.metadata["kind"] == "class":
            return ClassPrediction(found["probs"], found["aleatoric"], draws, novelty=novelty)
        variances = found["aleatoric_variance"], found["epistemic_variance"]
        stored = self.bundle.metadata["quantiles"]
        quantiles = None if stored is None else torch.tensor(_floats(stored))
        unit = str(self.bundle.metadata["unit"])
        shared = {name: found.get(name) for name in ("aleatoric_correlation", "epistemic_correlation")}
        return ValuePrediction(found["mean"], *variances, unit, draws, quantiles=quantiles, novelty=novelty, **shared)

    def predict_bands(
        self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None
    ) -> Iterator[tuple[slice, ClassPrediction | ValuePrediction]]:
        """The whole prediction at once: an exported file uses no tiles."""
        yield slice(0, inputs[0].shape[-2]), self.predict(*inputs, samples=samples, seed=seed, index=index, tile=tile)

    def conformal_sets(self, prediction: AnyPrediction) -> Sets:
        """The conformal sets or intervals of a prediction, if the run had some."""
        stored = self.bundle.metadata["conformal"]
        if not isinstance(stored, dict):
            return {}
        kind = conformal_for(str(self.bundle.metadata["kind"]))
        known = {each.name for each in fields(kind)}
        values: dict[str, Any] = {  # a JSON value has the type of its field, which the checker cannot know
            key: torch.tensor(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        try:
            conformal = kind(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise DataError(f"the conformal sets of the exported file lack an entry ({error}): export again") from error
        return {str(self.bundle.metadata["task"]): conformal(prediction)}  # pyright: ignore[reportArgumentType] kind fits

    def typed(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the types that the file takes: images uint8 or float32 in [0, 1], other inputs float32."""
        return tuple(_typed(value, self._types[name]) for name, value in zip(self.inputs, inputs))

    @cached_property
    def _types(self) -> dict[str, str]:
        entries = self.bundle.metadata["inputs"]
        assert isinstance(entries, list)
        return {str(each["name"]): str(each["type"]) for each in entries if isinstance(each, dict)}


def _typed(value: Tensor, kind: str) -> Tensor:
    if kind != "uint8":
        return Image().to_float(value)
    return value if value.dtype == torch.uint8 else (value * 255).round().clamp(0, 255).byte()


def open_predictor(path: str | Path, *, device: str = "cpu", trust: Trust | bool | str = "") -> Predictor:
    """A predictor for a run folder or an exported ONNX file.

    Args:
        path: The folder or the file.
        device: Device of a run: ``auto``, ``cpu``, ``cuda`` or ``mps``. A file runs on the CPU.
        trust: Class paths outside this package that may be imported, with commas, or ``all``. Default: none.

    Raises:
        MissingFileError: If there is no such run or file.
        DataError: If the file is none of ``sfumato export``, or holds another format.
    """
    if Path(path).suffix == ".onnx":
        backend = OnnxBackend(Bundle(path), Trust.of(trust))
        _ = backend.tasks  # a file that names code that is not trusted is refused here
        _warn_outdated(Path(path), backend.state)
        return Predictor(backend)
    if Path(path).is_file():
        raise DataError(f"{path} is a file, expected the folder of a run or an exported .onnx file")
    return Predictor.open(path, device=device, trust=trust)


def _warn_outdated(path: Path, state: str) -> None:
    """Say so if the run beside an exported file has been trained or calibrated since."""
    if (path.parent / PLAN).is_file() and folder_state(path.parent) != state:
        print(plain(f"warning: {path} is older than the run beside it: export it again"), file=sys.stderr)


def _floats(value: Json) -> list[float]:
    assert isinstance(value, list)
    return [float(each) for each in value if isinstance(each, int | float)]


def _tuples(value: Json) -> object:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
