"""A run that teaches: its draws become targets for a student."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sfumato.contracts import Moments, StudentLikelihood
from sfumato.errors import RunError
from sfumato.predictions import JointMoments, TaskPrediction
from sfumato.runs import Run, weights_path
from sfumato.runs.run import METHOD_STATE
from sfumato.storage import read_tensors, write_tensors
from sfumato.targets import Image

FOLDER = "distillation-targets"
Student = StudentLikelihood[TaskPrediction]


@dataclass(frozen=True)
class Teacher:
    """A run that teaches. Called with the inputs of its network, it gives the distillation target of each task.

    Args:
        run: The run whose draws are learned, without its calibrator.
        students: For each task that is learned, by key, the likelihood of the student.
        samples: Number of samples of a stochastic method. None for that in the run's plan. Default None.
    """

    run: Run
    students: Mapping[str, Student]
    samples: int | None = None

    def __call__(self, *inputs: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The distillation targets (B, L, *event) of a batch, those of all tasks from the same draws.

        Args:
            *inputs: The inputs of the network, images as float32 in [0, 1]. The networks follow them to their device.
            generator: Source of the random numbers of a stochastic method.
        """
        device = inputs[0].device
        run = self.run if self.run.device == device else self.run.to(device)
        students, statistics = self.students, {}
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for chunk in run.method(self.samples).draws(*inputs, generator=generator):
                for output in chunk:
                    for name, moments in self._moments(output.float()).items():
                        new = students[name].teacher_statistics(moments)
                        statistics[name] = statistics[name].merge(new) if name in statistics else new
            return {name: student.distillation_target(statistics[name]) for name, student in students.items()}

    def _moments(self, output: Tensor) -> dict[str, Moments[TaskPrediction]]:
        """The moments of one draw, by task."""
        moments = self.run.likelihood.moments(output)
        if isinstance(moments, JointMoments):
            return dict(moments.parts)
        return {self.run.single_task.key: cast("Moments[TaskPrediction]", moments)}

    def add_targets(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An augmented batch whose targets hold, after the label, what the teacher says about it now."""
        # A generator of its own, seeded by that of the step: the student's dropout is then that of cached targets.
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        targets = self(*(batch[name] for name in self.run.facts.inputs), generator=generator)
        return {**batch, **{key: torch.cat([batch[key].float(), each], 1) for key, each in targets.items()}}

    @cached_property
    def digest(self) -> str:
        """A digest of everything that a distillation target depends on beside the inputs."""
        config = self.run.config
        parts = [config.method, config.likelihood, str(self.samples or config.samples), config.network,
                 repr(dict(self.students)), repr(self.run.facts.scales)]  # fmt: skip
        found = hashlib.blake2b("\n".join(parts).encode(), digest_size=16)
        files = [weights_path(self.run.folder, member) for member in range(self.run.plan.networks)]
        for path in [*files, self.run.folder / METHOD_STATE]:
            if path.exists():
                found.update(path.read_bytes())
        return found.hexdigest()

    def cached_targets(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The distillation targets (L, *event) of one sample in half precision, stored in a file.

        Args:
            inputs: The inputs of the network, without a batch dimension, as the data set gives them.

        Raises:
            RunError: If the file is cut off, or holds targets of another teacher.
        """
        path = self.path(inputs)
        if path.exists():
            return _read(path, self.digest)
        ready = self.run.prepare(*(value[None] for value in inputs))
        # Seeded by the inputs, so that a target depends on nothing else.
        found = self(*ready, generator=torch.Generator().manual_seed(int(path.stem[:15], 16)))
        targets = {key: _compact(each[0].cpu()) for key, each in found.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, targets, {"teacher": self.digest})
        return targets

    def path(self, inputs: tuple[Tensor, ...]) -> Path:
        """The file with the distillation targets of one sample."""
        digest = hashlib.blake2b(digest_size=16)
        for value in inputs:
            digest.update(Image().to_float(value.cpu()).contiguous().numpy().tobytes())
        return self.run.folder / FOLDER / self.digest[:16] / f"{digest.hexdigest()}.safetensors"


def _compact(target: Tensor) -> Tensor:
    half = target.half()
    return half if bool(half.isfinite().all()) else target  # millimeters may be more than half precision holds


def _read(path: Path, teacher: str) -> dict[str, Tensor]:
    advice = "delete it and distill again with --resume"
    targets, metadata = read_tensors(path, error=RunError, advice=advice)
    if (found := metadata.get("teacher")) != teacher:
        raise RunError(f"{path} is of another teacher ({found}, expected {teacher}): delete {path.parent}")
    return targets
