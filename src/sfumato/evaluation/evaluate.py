"""Score a run on every image of a data set, over as many devices as there are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

from sfumato import registry
from sfumato.contracts import Score, Task
from sfumato.data.catalog import absolute_place
from sfumato.data.loading import SelectedDataset
from sfumato.data.views import Samples, things_of
from sfumato.errors import ConfigError, DataError, PluginError
from sfumato.evaluation.data import TRUTH
from sfumato.evaluation.leakage import leaking_poses
from sfumato.evaluation.results import Evaluation, OODComparison, TaskEvaluation
from sfumato.predictions import AnyPrediction, TemporalAggregation
from sfumato.runs import Run, run_state
from sfumato.tasks import BoxObjects, CenterOffsets

if TYPE_CHECKING:
    from sfumato.evaluation.scorer import Scorer


class ScoreClass(Protocol):
    """What the class of a score offers beside the score itself."""

    def for_task(self, task: Task) -> Score:
        """The score for the predictions of a task."""
        ...


def evaluate(
    run: Run,
    dataset: Samples,
    *,
    data: str = "",
    root: str = "",
    split: str = "",
    ood: Samples | None = None,
    ood_name: str = "",
    ood_root: str = "",
    samples: int | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    seed: int = 0,
    progress: bool = True,
    workers: int = 1,
    scores: Sequence[str] = (),
    sequence: bool = False,
    aggregation: TemporalAggregation[AnyPrediction] | None = None,
    aggregation_name: str = "",
) -> Evaluation | None:
    """Score every valid pixel of every image, all tasks of the run from the same draws.

    Each image is read and predicted once. With several devices each takes a share of the images; the scores do not
    depend on their number. Memory does not grow with the number of pixels.

    Args:
        run: The run to score.
        dataset: The images, at their original sizes, at which they are scored.
        data: Name of the data set, which is only recorded, with its absolute path if it is one.
        root: The folder where it lies, which is only recorded, with its absolute path.
        split: Which part of it, which is only recorded.
        ood: A data set that is out of distribution, with which uncertainties are compared. Pixels that its samples mark
            as ``novel`` (where ``novel_valid``, if they have it) are out of distribution, or all pixels if it has no
            such mark. If it has, its images are also scored alone, as benchmarks of anomalies are. Default: none.
        ood_name: Name of that data set, which is only recorded.
        ood_root: The folder where it lies, which is only recorded.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default ``auto``.
        devices: Number of processes or GPUs on this node. Default 1.
        num_nodes: Number of nodes. Default 1.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default True.
        workers: Number of worker processes on each device that read images. Default 1.
        scores: Names or class paths of further scores, from the group ``scores`` of the registry.
        sequence: Whether the images are the frames of one video, in their order. Then the steadiness of the predictions
            is scored, see :class:`sfumato.TemporalScores`. Default False.
        aggregation: What merges the frames of a video. None to predict each by itself. Default None.
        aggregation_name: Name of its flow, which is only recorded.

    Returns:
        The evaluation. None in all processes but the first, which also leave the process group.

    Raises:
        DataError: If a data set is empty, or a sample cannot be used. The message names it.
        NotFiniteError: If a prediction is not finite. The message names the image.
        RunError: If an image was used to calibrate the run.
    """
    data, root = absolute_place(data, root)
    other, colon, part = ood_name.partition(":")
    other, ood_root = absolute_place(other, ood_root)
    comparison = None if ood is None else OODComparison(f"{other}{colon}{part}", ood_root, {})
    with scan(
        run, dataset, ood=ood, samples=samples, device=device, devices=devices, num_nodes=num_nodes, seed=seed,
        progress=progress, workers=workers, scores=scores, sequence=sequence, aggregation=aggregation,
    ) as scorer:  # fmt: skip
        tasks = task_evaluations(scorer, comparison)
    if not leave_process_group():
        return None
    if ood is not None:
        from sfumato.evaluation.anomalies import with_regions  # imports torchmetrics

        tasks = with_regions(run, ood, tasks, samples, seed, progress)
    if leak := leaking_poses(run, dataset):
        from sfumato.training import warn_rank_zero  # imports lightning

        warn_rank_zero(leak)
    drawn = samples or run.config.samples
    return Evaluation(data, root, split, len(dataset), drawn, seed, run_state(run), tasks, aggregation_name)


@contextmanager
def scan(
    run: Run,
    dataset: Samples,
    *,
    ood: Samples | None = None,
    samples: int | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    seed: int = 0,
    progress: bool = True,
    workers: int = 1,
    scores: Sequence[str] = (),
    sequence: bool = False,
    aggregation: TemporalAggregation[AnyPrediction] | None = None,
) -> Iterator[Scorer]:
    """A scorer that has seen all images. At the end the run is back on its device. Arguments as of :func:`evaluate`."""
    if workers < 0:
        raise ConfigError(f"workers is {workers}, expected 0 or more")
    _check_video(run, sequence or aggregation is not None, devices * num_nodes, ood)
    before = run.device
    inside, outside = _images(run, dataset, ood)
    further = further_scores(run, scores)
    run.method(samples)  # a wrong number of samples is refused here
    from sfumato.evaluation.scorer import Scorer, run_scorer  # imports lightning
    from sfumato.training import teacher_of

    scorer = Scorer(
        run, teacher_of(run), inside, outside, samples=samples, seed=seed, workers=workers, things=things_of(dataset),
        further=further, sequence=sequence, aggregation=aggregation,
    )  # fmt: skip
    try:
        run_scorer(scorer, device, devices, num_nodes, progress)
        yield scorer
    finally:
        run.to(before)


def _check_video(run: Run, video: bool, processes: int, ood: Samples | None) -> None:
    """Check that the frames of a video come in their order, in one process, and are maps.

    Raises:
        ConfigError: If they do not.
    """
    if not video:
        return
    if processes != 1 or ood is not None:
        raise ConfigError("frames of a video are scored in their order: use one device, and leave out --ood")
    if not all(view.single_task.target.is_map for view in run.per_task.values()):
        raise ConfigError("a task of the run has one value for each image, and frames are followed pixel by pixel")


def _images(run: Run, dataset: Samples, ood: Samples | None) -> tuple[SelectedDataset, SelectedDataset | None]:
    """The entries that are read of both data sets. No image may have been used to calibrate the run."""
    for each, options in ((dataset, "--data, --root and --split"), (ood, "--ood and --ood-root")):
        if each is not None and not len(each):
            raise DataError(f"the data set to evaluate on is empty: check {options}")
    boxes = ("boxes",) if BoxObjects.key in run.per_task else ()
    inside = selected(run, dataset, ("instances", TRUTH, *boxes))
    outside = None if ood is None else SelectedDataset(ood, run.facts.inputs, (), ("novel", "novel_valid"))
    for images in (inside, outside):
        if images is not None:
            run.check_calibration_leak(images)
    return inside, outside


def selected(run: Run, dataset: Samples, further: Sequence[str] = ()) -> SelectedDataset:
    """The entries of a data set that predicting and scoring a run reads."""
    return SelectedDataset(dataset, run.facts.inputs, [view.single_task for view in run.per_task.values()], further)


def further_scores(run: Run, names: Sequence[str]) -> dict[str, dict[str, Score]]:
    """Scores of plug-ins, for each task those that suit its kind of target.

    Raises:
        ConfigError: If a score suits none of the tasks.
        PluginError: If there is no such score, or its class lacks ``for_task``.
    """
    found: dict[str, dict[str, Score]] = {name: {} for name in run.per_task}
    for name in names:
        kind = registry.load("scores", name, run.plan.trust)
        target = getattr(kind, "target", None)
        if not hasattr(kind, "for_task") or target is None:
            raise PluginError(f"score {name!r} lacks `target` or `for_task(task)`: see sfumato.contracts.Score")
        suited = [key for key, view in run.per_task.items() if target in ("any", view.single_task.kind)]
        if not suited:
            raise ConfigError(f"score {name!r} is for targets of the kind {target!r}, which no task of the run has")
        for key in suited:
            found[key][name] = cast(ScoreClass, kind).for_task(run.per_task[key].single_task)
    return found


def task_evaluations(scorer: Scorer, ood: OODComparison | None) -> dict[str, TaskEvaluation]:
    """What a scorer has counted, by task. All processes must call this, because it gathers from all of them."""
    from sfumato.evaluation.collect import task_evaluation

    with warnings.catch_warnings():
        # A process without an image takes part all the same.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before the ``update``")
        steady = scorer.sequence
        return {
            name: task_evaluation(
                tally,
                scorer.instances if name == CenterOffsets.key else None,
                scorer.boxes if name == BoxObjects.key else None,
                ood,
                None if steady is None else steady.of(name),
            )
            for name, tally in scorer.tallies.items()
        }


def leave_process_group() -> bool:
    """End the communication between processes, if there are several.

    Returns:
        Whether this is the first process. The others have nothing more to do.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return True
    first = distributed.get_rank() == 0
    distributed.destroy_process_group()
    return first
