"""The model of a service: what it is called, what it takes, what it gives, and which answers it gives in batches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.data.images import decode_image
from sfumato.data.stereo_check import check_views
from sfumato.errors import ConfigError, DataError
from sfumato.predictions import AnyPrediction
from sfumato.registry import Trust
from sfumato.runs import Predicted, RunBackend
from sfumato.service.decisions import decisions_of
from sfumato.service.limits import Limits
from sfumato.serving import OnnxBackend, open_predictor
from sfumato.serving.batches import Batches, Ready, outputs
from sfumato.serving.metadata import InputKind, input_kinds

SIDES = (96, 128)  # pixels of the images that warm a model up


class Model:
    """A run or an exported file, ready to answer.

    Args:
        path: Folder of a run, or an ``.onnx`` file of ``sfumato export``.
        limits: Limits of the service. Default: those of :class:`Limits`.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        device: Device of a run. Default cpu.
        trust: Class paths outside this package that may be imported. Default: none.

    Raises:
        MissingFileError: If there is no such run or file.
        DataError: If the file is damaged, or of another version.
        ConfigError: If the file makes no draws and ``samples`` is given.
    """

    def __init__(
        self,
        path: str | Path,
        limits: Limits | None = None,
        samples: int | None = None,
        device: str = "cpu",
        trust: Trust | bool | str = "",
    ) -> None:
        path, self.limits = Path(path), limits or Limits()
        self.batches = Batches(open_predictor(path, device=device, trust=trust), self.limits.batch, samples)
        self.name = re.sub(r"[^\w.-]", "-", path.resolve().stem, flags=re.ASCII)  # a part of an address
        backend = self.batches.predictor.backend
        self.version, self.tasks = backend.state or "unknown", backend.tasks
        self.kinds = _kinds(backend)
        self.decisions = decisions_of(backend, path)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.batches.predictor.backend.inputs

    def of_files(self, files: Mapping[str, bytes], name: str) -> Ready:
        """A sample of image files.

        Args:
            files: The bytes of a file for each input.
            name: What messages call the sample.

        Raises:
            DataError: If a file is no image, is too large, or the inputs do not belong together.
        """
        if odd := sorted(set(files) ^ set(self.inputs)):
            raise DataError(
                f"{name} has {', '.join(files) or 'nothing'}, expected {', '.join(self.inputs)}: {odd[0]!r}"
            )
        if others := [kind.name for kind in self.kinds if not kind.map]:
            raise DataError(f"the input {others[0]!r} is no image: send arrays by the protocol V2")
        images = [decode_image(files[each], f"{each} of {name}", self.limits.pixels) for each in self.inputs]
        check_views({"name": name, **dict(zip(self.inputs, images))})
        return self.batches.ready(*(image[None] for image in images))

    def of_arrays(self, arrays: Mapping[str, np.ndarray]) -> list[Ready]:
        """The samples of a batch of arrays (B, …), one for each input. Images are uint8, or float32 in [0, 1].

        Raises:
            DataError: If the arrays differ in size.
        """
        tensors = [torch.from_numpy(arrays[name]) for name in self.inputs]
        return [self.batches.ready(*(value[place, None] for value in tensors)) for place in range(len(tensors[0]))]

    def finish(self, sample: Ready, found: AnyPrediction) -> Predicted:
        """The prediction of a sample at its original size."""
        return self.batches.finish(sample, found)

    @cached_property
    def example(self) -> Predicted:
        """The prediction of a gray image."""
        sample = self._gray(SIDES)
        return self.finish(sample, self.batches.predict([sample])[0])

    def warm_up(self) -> None:
        """Predict gray images, alone and in the largest batch.

        If a batch gives other bits than an image alone, samples are predicted one by one from then on, so that an
        answer depends on its image alone.

        Raises:
            NotFiniteError: If a prediction is not finite.
        """
        alone = outputs(self.example.prediction)
        most = self.batches.room(self._gray(SIDES).key)
        if most > 1:
            together = self.batches([self._gray(SIDES)] * most)
            if any(not torch.equal(alone[name], value) for name, value in outputs(together[-1].prediction).items()):
                self.batches.most = 1

    def _gray(self, size: tuple[int, int]) -> Ready:
        ramp = torch.linspace(0, 1, size[1]).expand(1, 3, *size)
        values = [ramp if kind.map else kind.example(1, size, 0) for kind in self.kinds]
        pictures = [_typed(value, kind) for value, kind in zip(values, self.kinds)]
        return self.batches.ready(*pictures)


def _typed(value: Tensor, kind: InputKind) -> Tensor:
    values = value[:, : kind.channels] if kind.map and kind.channels else value
    return (values * 255).byte() if kind.type == "uint8" and values.is_floating_point() else values


def _kinds(backend: object) -> Sequence[InputKind]:
    if isinstance(backend, RunBackend):
        return input_kinds(backend.run, "uint8")
    if not isinstance(backend, OnnxBackend):
        raise ConfigError(f"a {type(backend).__name__} has no list of inputs: serve a run or an exported file")
    entries, names = backend.bundle.metadata["inputs"], [each.name for each in fields(InputKind)]
    assert isinstance(entries, list)
    return [InputKind(**{name: each[name] for name in names}) for each in entries if isinstance(each, dict)]  # pyright: ignore[reportArgumentType] checked by Bundle
