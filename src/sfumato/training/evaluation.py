"""Score a run on every image of a data set, over as many devices as there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import CatMetric

from sfumato.contracts import Method, Prediction
from sfumato.metrics import FidelityScores, InstanceScores, PanopticScores, SetScores
from sfumato.predictions import JointPrediction, find_instances
from sfumato.predictions.resize import resized
from sfumato.tasks import CenterOffsets, Semantic
from sfumato.training.distillation import teacher_of
from sfumato.training.learner import Images
from sfumato.training.run import CachedDataset, Run


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Args:
        scores: the task's scores; what they compute is merged over processes, so all processes must ask.
        uncalibrated: the scores of the same predictions without the run's calibrator; None if it has none.
        sets: the scores of the run's sets or intervals; None if it makes no promise.
        teacher: of a student, the scores of its teacher on the same images; None if there is none.
        fidelity: how near the two are, the student before any calibration.
        instances: of the vectors of a run that knows classes too: the scores of the instances found, panoptic first.
        order: (n,) int64, which image of the data set each entry of ``scores.per_image()`` is of.
        uncertainty: (n,) mean total uncertainty of each, in the same order.
    """

    scores: Any
    uncalibrated: Any
    sets: Any
    teacher: Any
    fidelity: Any
    instances: tuple[Any, ...]
    order: Tensor
    uncertainty: Tensor


class _Numbered(Dataset[dict[str, Any]]):
    """Samples that know their index, so that a process knows which image it scores."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "index": index}


class _Tally(nn.Module):
    """What is counted of one task.

    Args:
        run: of one task.
        taught: whether its teacher is scored beside it.
    """

    def __init__(self, run: Run, taught: bool) -> None:
        super().__init__()
        self.run = run
        self.scores = run.task.scores()
        self.uncalibrated = None if run.calibrator is None else run.task.scores()
        self.sets = None if run.conformal is None else SetScores()
        self.teacher = self.fidelity = None
        if taught:
            self.teacher, self.fidelity = run.task.scores(), FidelityScores(len(getattr(run.task, "names", ("",))))
        self.order, self.uncertainty = CatMetric(), CatMetric()

    def update(self, drawn: Any, said: Any, batch: dict[str, Any]) -> None:
        """Add one image, as the network predicted it and as its teacher did."""
        index = int(batch["index"][0])
        if self.uncalibrated is not None or self.sets is not None:
            self.run.check_calibration_leak(batch["name"][0], batch["image"][0])
        truth = self.run.task.target_and_mask(batch)
        prediction = self.run.calibrated(drawn)
        self.scores.update(prediction, *truth)
        if self.uncalibrated is not None:
            self.uncalibrated.update(drawn, *truth)
        if self.sets is not None:
            self.sets.update(self.run.conformal(prediction), truth[0], self.run.conformal.counted(*truth))
        if self.teacher is not None and self.fidelity is not None:
            self.teacher.update(said, *truth)
            self.fidelity.update(drawn, said, truth[1])
        self.order.update(index)
        self.uncertainty.update(prediction.total.mean())

    def found(self, instances: tuple[Any, ...]) -> Evaluation:
        """All of it."""
        scores = self.scores, self.uncalibrated, self.sets, self.teacher, self.fidelity, instances
        return Evaluation(*scores, _row(self.order).long(), _row(self.uncertainty))


class _Instances(nn.Module):
    """What is counted of instances, which two tasks tell together.

    Args:
        classes: how many.
        things: ids of those that have instances.
    """

    def __init__(self, classes: int, things: tuple[int, ...]) -> None:
        super().__init__()
        self.things, self.panoptic, self.each = things, PanopticScores(classes, things), InstanceScores(classes, things)

    def update(self, vectors: Any, classes: Any, batch: dict[str, Any]) -> None:
        """Add one image."""
        found = find_instances(vectors, classes, self.things)
        truth = [batch[key].cpu() for key in (Semantic.key, "instances", Semantic.key + "_valid")]
        labels = torch.stack([each.painted(label) for each, label in zip(found, classes.label.cpu())])
        self.panoptic.update(labels, torch.stack([each.ids for each in found]), *truth)
        self.each.update(found, *truth)


class _Scorer(L.LightningModule):
    def __init__(self, run: Run, method: Method, seed: int, things: tuple[int, ...]) -> None:
        super().__init__()
        self.members = nn.ModuleList(run.networks)  # so that Lightning moves them to the device
        self.run, self.method, self.seed = run, method, seed
        self.taught_by = teacher_of(run)
        self.teachers = nn.ModuleList(() if self.taught_by is None else self.taught_by.networks)
        self.tallies = nn.ModuleDict({name: _Tally(view, bool(self.teachers)) for name, view in run.per_task.items()})
        both = {Semantic.key, CenterOffsets.key} <= run.per_task.keys() and things
        self.instances = _Instances(len(run.per_task[Semantic.key].task.names), things) if both else None  # pyright: ignore[reportAttributeAccessIssue]

    def test_step(self, batch: dict[str, Any]) -> None:
        image = batch["image"], self.seed, int(batch["index"][0])
        drawn = self.run.predict_uncalibrated(self.method, *image)
        said = None if self.taught_by is None else self.taught_by.predict_uncalibrated(self.taught_by.method(), *image)
        for name, tally in self.tallies.items():
            tally.update(part_of(drawn, name), part_of(said, name), batch)  # pyright: ignore[reportCallIssue]
        if self.instances is not None and "instances" in batch:
            right = {name: tally.run.calibrated(drawn[name]) for name, tally in self.tallies.items()}  # pyright: ignore
            self.instances.update(right[CenterOffsets.key], right[Semantic.key], batch)

    def found(self) -> dict[str, Evaluation]:
        """All of it, by task."""
        counted = self.instances is not None and len(self.instances.each.rows) > 0
        pair = (self.instances.panoptic, self.instances.each) if self.instances is not None and counted else ()
        return {name: tally.found(pair if name == CenterOffsets.key else ()) for name, tally in self.tallies.items()}  # pyright: ignore[reportCallIssue]


def part_of(prediction: Any, name: str) -> Any:
    """A task of the prediction of several; of one, or of no prediction, itself."""
    return prediction[name] if isinstance(prediction, JointPrediction) else prediction


def evaluate(run: Run, dataset: Dataset, **how: Any) -> Evaluation:
    """Score every valid pixel of every image once: :func:`evaluate_each` for a run of one task.

    Raises:
        ValueError: if the run has several tasks, and as there.
    """
    if len(run.per_task) > 1:
        raise ValueError(
            f"{run.folder} has the tasks {', '.join(run.per_task)}: take evaluate_each, which scores them all"
        )
    return next(iter(evaluate_each(run, dataset, **how).values()))


def evaluate_each(
    run: Run,
    dataset: Dataset,
    *,
    samples: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Score every valid pixel of every image once, each task by its name, all from the same draws.

    Args:
        run: what is scored.
        dataset: at the size of the run's plan.
        samples: of MC dropout; None for the plan's.
        devices: processes or GPUs on this node; the scores do not depend on it.
        num_nodes: how many nodes.
        seed: of the draws.
        progress: whether to show a bar.

    Raises:
        ValueError: if the data set is empty, or an image was used to calibrate the run.
    """
    if not len(dataset):  # pyright: ignore[reportArgumentType]
        raise ValueError("the data set to evaluate on is empty: check --data, --root and --split")
    scorer = _Scorer(run, run.method(samples), seed, tuple(getattr(dataset, "things", ())))
    trainer = L.Trainer(
        accelerator="auto",
        devices=devices,
        num_nodes=num_nodes,
        logger=False,
        callbacks=[RichProgressBar()] if progress else [],
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    # One image a batch: its draws then depend on its own number only, not on its neighbors.
    trainer.test(
        scorer,
        Images(None, _Numbered(CachedDataset(dataset, run.task, ("instances",))), batch=1, seed=seed),
        verbose=False,
    )
    return scorer.found()


def _row(metric: CatMetric) -> Tensor:
    return torch.atleast_1d(torch.as_tensor(metric.compute())).cpu()


def predictions(
    run: Run, dataset: Dataset, *, samples: int | None = None, seed: int = 0
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Each sample with its prediction, one at a time, with the draws that :func:`evaluate` makes."""
    for index in range(len(dataset)):  # pyright: ignore[reportArgumentType]
        yield predicted(run, dataset, index, samples=samples, seed=seed)


def predicted(
    run: Run, dataset: Dataset, index: int, *, samples: int | None = None, seed: int = 0
) -> tuple[dict[str, Any], Prediction]:
    """One sample with its prediction, with the draws that :func:`evaluate` makes."""
    sample = dataset[index]
    return sample, run.predict(sample["image"][None], samples=samples, seed=seed, index=index)


def predict_image(run: Run, image: Tensor, *, samples: int | None = None, seed: int = 0, tile: int = 0) -> Any:
    """Predict one image of any size, seen at the scale the run was trained at.

    Args:
        run: what predicts.
        image: (3, H, W) in [0, 1].
        samples: of MC dropout; None for the plan's.
        seed: of the draws.
        tile: side of the tiles that it is predicted on, pixels at that scale; 0 for the whole image at once.

    Returns:
        The prediction (batch 1) at the size of ``image``, with ``image`` in it.

    Pitfall: maps are interpolated back to the image's size; the law of an interpolated pixel is that of its
    neighborhood.
    """
    height, width = image.shape[-2:]
    factors = [now / native for now, native in zip(run.plan.size, run.plan.original_size)]
    seen = (max(1, round(height * factors[0])), max(1, round(width * factors[1])))
    small = resized(image[None], seen).clamp(0, 1)
    prediction = run.predict(small, samples=samples, seed=seed, tile=tile)
    return dataclasses.replace(prediction.resized((height, width)), image=image[None])  # pyright: ignore[reportArgumentType, reportCallIssue]
