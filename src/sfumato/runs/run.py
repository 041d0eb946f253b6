"""A run: a folder with a plan and the weights of its networks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from sfumato import storage
from sfumato.calibration import conformal_for
from sfumato.contracts import Calibrator, DataSet, Likelihood, Method, Sample, Task
from sfumato.errors import ConfigError, DataError, RunError
from sfumato.likelihoods import Joint
from sfumato.predictions import AnyPrediction, JointPrediction, predict
from sfumato.predictions.tiles import automatic_tile, overlap_of, predict_with_tile, predicted_bands
from sfumato.registry import Trust
from sfumato.runs.boxes import BoxFinder
from sfumato.runs.config import Config, Facts
from sfumato.runs.device import resolve_device
from sfumato.runs.network import build_network, load_weights, weights_path
from sfumato.runs.plan import FILE, Plan
from sfumato.runs.resolve import calibrator_classes, task_and_likelihood
from sfumato.targets import Image
from sfumato.tasks import MultiTask

P = TypeVar("P")
CALIBRATOR, CONFORMAL, METHOD_STATE = "calibrator.safetensors", "conformal.safetensors", "method.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished run: all that is needed to predict.

    Args:
        folder: The folder with ``plan.yaml`` and ``weights-N.safetensors``.
        plan: Configuration and facts.
        task: What is predicted.
        likelihood: What the outputs of the networks mean.
        networks: The networks, in evaluation mode.
        method_state: Tensors that a method fitted after training, by name.
        calibrator: The correction of every prediction; None if the run is not calibrated.
        conformal: What makes conformal sets or intervals of predictions; None if nothing was fitted.
        prefix: Start of the names of the files of calibrator and conformal sets, for one of several tasks.
    """

    folder: Path
    plan: Plan
    task: Task | MultiTask
    likelihood: Likelihood[AnyPrediction]
    networks: tuple[nn.Module, ...]
    method_state: Mapping[str, Tensor] = field(default_factory=dict)
    calibrator: Calibrator[Any] | None = None  # of the predictions of its task
    conformal: Any = None  # a sfumato.calibration.Conformal for the predictions of its task
    prefix: str = ""

    @classmethod
    def open(cls, folder: str | Path, *, device: str | torch.device = "cpu", trust: Trust | bool | str = "") -> Self:
        """Open what ``fit`` left.

        Args:
            folder: The folder of the run.
            device: Where networks and fitted tensors are placed: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default
                ``cpu``.
            trust: Class paths outside this package that the run may import, with commas, or ``all``. Default: none. A
                run that somebody else made may name any code.

        Raises:
            MissingFileError: If the folder holds no run, or one that has not finished.
            RunError: If a file is cut off or does not belong to the plan.
            UntrustedCodeError: If the plan names code outside this package that is not trusted.
        """
        folder, place = Path(folder), resolve_device(device)
        plan = Plan.load(folder / FILE, Trust.of(trust))
        task, likelihood = task_and_likelihood(plan)
        networks = tuple(build_network(plan.without_start(), likelihood).eval() for _ in range(plan.networks))
        for member, network in enumerate(networks):
            load_weights(network, weights_path(folder, member))
        path = folder / METHOD_STATE
        state = storage.read_tensors(path, error=RunError)[0] if path.exists() else {}
        storage.check_finite(state, str(path))
        return cls(folder, plan, task, likelihood, networks, state).with_fitted().to(place)

    def with_fitted(self) -> Self:
        """The run with the calibrator and the conformal sets that are stored for it, if any."""
        if isinstance(self.task, MultiTask):
            return self
        known = {
            CALIBRATOR: tuple(calibrator_classes(self.task).values()),
            CONFORMAL: (conformal_for(self.task.kind),),
        }
        found = [
            storage.load(kinds, path, error=RunError) if (path := self.file(name)).exists() else None
            for name, kinds in known.items()
        ]
        conformal: Any = found[1]
        if conformal is not None and conformal.rests_on != storage.digest(self.file(CALIBRATOR)):
            conformal = None  # a newer calibrator has replaced it
        return replace(self, calibrator=found[0], conformal=conformal)

    def __repr__(self) -> str:
        config = self.config
        return f"Run({self.folder}, {config.method}, {config.likelihood}, {len(self.networks)} networks, {self.device})"

    @property
    def config(self) -> Config:
        """What a person chose."""
        return self.plan.config

    @property
    def facts(self) -> Facts:
        """What follows from the training data."""
        return self.plan.facts

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next((p.device for p in self.networks[0].parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> Self:
        """The run on another device: networks (moved in place), fitted tensors, calibrator and conformal sets."""
        place = resolve_device(device)
        for network in self.networks:
            network.to(place)
        moved = {name: None if (old := getattr(self, name)) is None else old.to(place) for name in FITTED}
        state = {name: tensor.to(place) for name, tensor in self.method_state.items()}
        return replace(self, method_state=state, **moved)

    def file(self, name: str) -> Path:
        """Where something that was fitted after training is stored."""
        return self.folder / (self.prefix + name)

    @cached_property
    def per_task(self) -> dict[str, Self]:
        """The run as one of each of its tasks, by name. A run of one task is its own only entry."""
        if not isinstance(self.likelihood, Joint) or not isinstance(self.task, MultiTask):
            return {self.config.task: self}
        return {
            name: replace(
                self,
                plan=self.plan.select_task(name),
                task=task,
                likelihood=self.likelihood.select_task(name),
                prefix=f"{name}-",
            )
            .with_fitted()
            .to(self.device)
            for name, task in self.task.parts.items()
        }

    @property
    def box_finder(self) -> BoxFinder | None:
        """What finds the boxes in the predictions of the run. None if it does not predict boxes."""
        return BoxFinder.of({name: view.single_task for name, view in self.per_task.items()}, self.folder)

    def select_task(self, task: str = "") -> Self:
        """The run as one of its tasks. The name may be left out if it has one task.

        Raises:
            ConfigError: If it has several tasks and none is named, or it lacks the one that is.
        """
        if task in self.per_task:
            return self.per_task[task]
        if task or len(self.per_task) > 1:
            raise ConfigError(f"{self.folder} has the tasks {', '.join(self.per_task)}: name one of them with --task")
        return next(iter(self.per_task.values()))

    @property
    def single_task(self) -> Task:
        """The task of a run of one task.

        Raises:
            ConfigError: If the run has several tasks.
        """
        if isinstance(self.task, MultiTask):
            raise ConfigError(f"{self.folder} has the tasks {', '.join(self.per_task)}: name one of them with --task")
        return self.task

    def method(self, samples: int | None = None) -> Method:
        """The method of the plan over the run's networks.

        Args:
            samples: Number of draws of a stochastic method. None for the number in the plan.

        Raises:
            ConfigError: If ``samples`` is less than 1.
        """
        if samples is not None and samples < 1:
            raise ConfigError(f"samples is {samples}, expected at least 1")
        return self.plan.training.build(self.networks, samples or self.config.samples, self.method_state)

    def prepare(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs on the run's device, uint8 images as float in [0, 1]."""
        return tuple(Image().to_float(value.to(self.device)) for value in inputs)

    def inputs_of(self, sample: Mapping[str, Tensor | str]) -> tuple[Tensor, ...]:
        """The inputs (1, …) of the network in a sample.

        Raises:
            DataError: If the sample lacks one.
        """
        return tuple(value[None] for value in _entries(sample, self.facts.inputs))

    def predict(
        self, *inputs: Tensor, samples: int | None = None, seed: int = 0, index: int = 0, tile: int | None = None
    ) -> Any:
        """The prediction for a batch, at the size that the network sees, calibrated if the run is.

        The prediction of several tasks is a :class:`JointPrediction` from one set of draws.

        Args:
            *inputs: What the network takes, such as images (B, 3, H, W), uint8 or float in [0, 1].
            samples: Number of draws of a stochastic method. None for the number in the plan.
            seed: Seed of the draws. Default 0.
            index: Number of the image, so that its draws depend on nothing else. Default 0.
            tile: Side of the tiles that are predicted one by one, pixels. 0 for the whole image at once. None for tiles
                of 1024 pixels if the image has more than 1.25 megapixels, and the whole image else. Default None.

        Returns:
            A :class:`ClassPrediction`, :class:`ValuePrediction` or :class:`JointPrediction`, with the first input as
            its ``image``.
        """
        return self.calibrated(
            self.predict_uncalibrated(self.method(samples), *inputs, seed=seed, index=index, tile=tile)
        )

    def predict_uncalibrated(
        self, method: Method, *inputs: Tensor, seed: int = 0, index: int = 0, tile: int | None = None
    ) -> AnyPrediction:
        """The prediction of a method without the run's calibrator. Arguments as of :meth:`predict`."""
        inputs = self.prepare(*inputs)
        generator = generator_for(index, seed)
        side = self.automatic_tile(inputs) if tile is None else tile
        found = predict_with_tile(method, *inputs, likelihood=self.likelihood, tile=side, generator=generator)
        return replace(found, image=inputs[0])

    def predict_bands(
        self, *inputs: Tensor, tile: int, samples: int | None = None, seed: int = 0, index: int = 0
    ) -> Iterator[tuple[slice, AnyPrediction]]:
        """The numbers of :meth:`predict` on tiles, some whole rows at a time, with memory for one row of tiles.

        Arguments as of :meth:`predict`.

        Yields:
            Rows from top to bottom, and their calibrated prediction without an image.
        """
        method = self.method(samples)

        def window(rows: slice, columns: slice, own: torch.Generator) -> AnyPrediction:
            cut = (value[..., rows, columns] if value.ndim == 4 else value for value in inputs)
            return predict(method, *self.prepare(*cut), likelihood=self.likelihood, generator=own)

        height, width = inputs[0].shape[-2:]
        bands = predicted_bands(window, (height, width), (tile, tile), overlap_of(tile), generator_for(index, seed))
        for rows, found in bands:
            yield rows, self.calibrated(found)

    def automatic_tile(self, inputs: tuple[Tensor, ...]) -> int:
        """See :func:`sfumato.predictions.tiles.automatic_tile`."""
        return automatic_tile(inputs, (view.single_task for view in self.per_task.values()))

    def calibrated(self, prediction: P) -> P:
        """A prediction of the networks, corrected by the run's calibrator if there is one."""
        if isinstance(prediction, JointPrediction):
            parts = {name: view.calibrated(prediction[name]) for name, view in self.per_task.items()}
            return replace(prediction, parts=parts)
        if self.calibrator is None:
            return prediction
        return self.calibrator(prediction)

    def fitted_images(self, box_bounds: bool = True) -> set[str]:
        """Names and digests of all images that a calibrator or conformal sets of this run were fitted on.

        Args:
            box_bounds: Whether bounds of boxes count. Default True.
        """
        views = self.per_task.values() if isinstance(self.task, MultiTask) else (self,)
        fitted = [each for view in views for each in (view.calibrator, view.conformal) if each is not None]
        if (boxes := self.box_finder) is not None:
            known = boxes.calibrator, boxes.bounds if box_bounds else None
            fitted += [each for each in known if each is not None]
        return {name for each in fitted for name in each.fitted_on}

    def check_calibration_leak(self, dataset: DataSet, box_bounds: bool = True) -> None:
        """Check that no image of a data set was used to calibrate this run. Only images with a known name are read.

        Args:
            dataset: The data set.
            box_bounds: Whether bounds of boxes count. Default True.

        Raises:
            RunError: If one was used.
        """
        fitted = self.fitted_images(box_bounds)
        names = {entry.rpartition(" ")[0] for entry in fitted}
        for index, name in enumerate(dataset.names if fitted else ()):
            if name in names and image_key(dataset[index], self.facts.inputs) in fitted:
                raise RunError(
                    f"image {name} was used to calibrate {self.folder}: take other images, as in "
                    f"--split 'val[50%:]', or undo the calibration with `sfumato calibrate {self.folder} --reset`"
                )


FITTED = ("calibrator", "conformal")


def generator_for(index: int, seed: int) -> torch.Generator:
    """The generator of the image with this index: the same in every batch and process."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def image_key(sample: Sample, inputs: tuple[str, ...]) -> str:
    """Name and digest of the inputs of a sample, by which calibrators remember the images they were fitted on."""
    digest = hashlib.blake2b(digest_size=8)
    for value in _entries(sample, inputs):
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{sample['name']} {digest.hexdigest()}"


def _entries(sample: Mapping[str, Tensor | str], inputs: tuple[str, ...]) -> Iterator[Tensor]:
    for name in inputs:
        value = sample.get(name)
        if not isinstance(value, Tensor):
            raise DataError(f"sample {sample.get('name', '')!r} has no {name!r}, which the network takes as an input")
        yield value
