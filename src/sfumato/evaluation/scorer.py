"""One pass over the images to score, shared by as many processes as there are."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch.utils.data import Dataset
from torchmetrics import Metric

from sfumato.contracts import Method, Sample, Score
from sfumato.data.loading import SampleLoader, loader
from sfumato.data.views import Samples
from sfumato.errors import ConfigError
from sfumato.evaluation.boxes import BOXES, BoxTally
from sfumato.evaluation.instances import IDS, InstanceTally
from sfumato.evaluation.sequence import SequenceTally
from sfumato.evaluation.tally import Batched, TaskTally
from sfumato.predictions import AnyPrediction, TemporalAggregation
from sfumato.runs import Run, part_of, predict_seen
from sfumato.targets import Image
from sfumato.training import lightning_devices, quiet_lightning


class ImagesToScore(Dataset[Sample]):
    """The images in distribution, then those out of it, each with its number.

    Args:
        inside: Images whose targets are scored.
        outside: Images that are out of distribution. None for no comparison.
        process: Number of this process.
        processes: Number of processes that share the images. A process without an image gets one item to skip.
    """

    def __init__(self, inside: Samples, outside: Samples | None, process: int = 0, processes: int = 1) -> None:
        self.inside, self.outside = inside, outside
        count = len(inside) + (0 if outside is None else len(outside))
        self.numbers = range(process, count, processes) or range(-1, 0)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Sample:
        number = self.numbers[place]
        if number < 0:
            return _numbered({}, number, outside=False)
        if number < len(self.inside) or self.outside is None:
            return _numbered(self.inside[number], number, outside=False)
        number -= len(self.inside)
        return _numbered(self.outside[number], number, outside=True)


def _numbered(sample: Sample, number: int, *, outside: bool) -> Sample:
    return {**sample, "index": torch.tensor(number), "outside": torch.tensor(outside)}


class Scorer(L.LightningModule):
    """Predicts every image once and counts what all scores need.

    Args:
        run: The run.
        teacher: Its teacher, if it is a student.
        inside: Images whose targets are scored.
        outside: Images that are out of distribution. None for no comparison.
        samples: Number of draws. None for the number in the plan.
        seed: Seed of the draws.
        workers: Number of worker processes that read images.
        things: Ids of the classes that have instances. Empty if the data have none.
        further: For each task, scores of plug-ins by name.
        sequence: Whether the images are the frames of one video, in their order. Default False.
        aggregation: What merges the frames of a video. None to predict each by itself. Default None.
    """

    def __init__(
        self,
        run: Run,
        teacher: Run | None,
        inside: Samples,
        outside: Samples | None,
        *,
        samples: int | None,
        seed: int,
        workers: int,
        things: tuple[int, ...],
        further: Mapping[str, Mapping[str, Score]],
        sequence: bool = False,
        aggregation: TemporalAggregation[AnyPrediction] | None = None,
    ) -> None:
        super().__init__()
        self.run, self.teacher, self.samples, self.seed, self.workers = run, teacher, samples, seed, workers
        self.inside, self.outside, self.things, self.further = inside, outside, things, further
        self.tallies: dict[str, TaskTally] = {}
        self.instances: InstanceTally | None = None
        self.sequence = SequenceTally(run) if sequence else None
        self.aggregation = aggregation
        self.boxes: BoxTally | None = None
        self.method: Method | None = None
        self.teacher_method: Method | None = None

    def on_test_start(self) -> None:
        """Place the run, its calibrators and all counts on the device of this process."""
        run = self.run.to(self.device)
        self.method = run.method(self.samples)
        if self.teacher is not None:
            self.teacher = self.teacher.to(self.device)
            self.teacher_method = self.teacher.method()
        place = torch.device("cpu") if self.device.type == "mps" else self.device  # MPS has no 64-bit sums
        taught, ood = self.teacher is not None, self.outside is not None
        for name, view in run.per_task.items():
            self._check_mergeable(self.further[name])
            tally = TaskTally(view, place, taught=taught, ood=ood, further=self.further[name])
            self.tallies[name] = tally.to(place)
            if self.sequence is not None:
                self.sequence.to(place)
        self.instances = InstanceTally.for_run(run, self.things)  # on the CPU, where instances are found
        self.boxes = BoxTally.for_run(run)  # on the CPU, too

    def on_test_end(self) -> None:
        """Place the counts of instances and boxes where the processes exchange their counts."""
        for tally in (self.instances, self.boxes):
            if tally is not None and self.trainer.world_size > 1:
                tally.to(self.device)

    def _check_mergeable(self, scores: Mapping[str, Score]) -> None:
        for name, score in scores.items():
            if self.trainer.world_size > 1 and not isinstance(score, Metric):
                raise ConfigError(
                    f"score {name!r} is a {type(score).__name__}, which several processes cannot share: derive it from "
                    "torchmetrics.Metric, or use one device"
                )

    def test_dataloader(self) -> SampleLoader:
        """The images of this process, one in a batch, so that the draws of an image depend on its number only."""
        images = ImagesToScore(self.inside, self.outside, self.trainer.global_rank, self.trainer.world_size)
        return loader(images, 1, workers=self.workers, device=str(self.device))

    def test_step(self, batch: Batched) -> None:
        """Predict and count one image."""
        index, outside = int(batch["index"]), bool(batch["outside"])
        if index < 0:
            return
        inputs = [batch[name] for name in self.run.facts.inputs]
        assert self.method is not None
        drawn, scaling = predict_seen(self.run, self.method, inputs, seed=self.seed, index=index)
        if self.aggregation is not None and drawn.image is not None:
            drawn = self.aggregation(drawn.image, drawn)
        if outside:
            for name, tally in self.tallies.items():
                tally.update_outside(part_of(drawn, name), scaling, batch)
            return
        taught = None
        if self.teacher is not None and self.teacher_method is not None:
            taught, small = predict_seen(self.teacher, self.teacher_method, inputs, seed=self.seed, index=index)
            taught = small.prediction(taught, self.teacher.task.parts)
        found = {
            name: tally.update(part_of(drawn, name), part_of(taught, name), scaling, batch)
            for name, tally in self.tallies.items()
        }
        if self.instances is not None and IDS in batch:
            self.instances.update(found, batch)
        if self.sequence is not None:
            place = next(iter(self.tallies.values())).place
            self.sequence.update(Image().to_float(inputs[0].to(place)), found)
        if self.boxes is not None and BOXES in batch:
            self.boxes.update(found, batch)


def run_scorer(scorer: Scorer, device: str, devices: int, num_nodes: int, progress: bool) -> None:
    """Let a scorer see all images.

    Args:
        scorer: The scorer.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: Number of processes or GPUs on this node.
        num_nodes: Number of nodes.
        progress: Whether to show a progress bar.
    """
    accelerator, chosen = lightning_devices(device, devices)
    with quiet_lightning():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=chosen,
            num_nodes=num_nodes,
            logger=False,
            callbacks=[RichProgressBar()] if progress else [],
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            inference_mode=False,  # sums that are made in inference mode cannot be added to afterwards
        )
        trainer.test(scorer, verbose=False)
