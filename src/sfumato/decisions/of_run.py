"""Decisions of a run: fitted on held-out images, made on others, and written as tables and maps."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sfumato.data.views import Samples, names_of, providing
from sfumato.decisions.abstention import Abstention
from sfumato.decisions.costs import Costs, Looking
from sfumato.decisions.drift import Drift
from sfumato.decisions.outliers import OutlierFlag, benjamini_hochberg, image_scores
from sfumato.errors import DataError, RunError
from sfumato.evaluation.evaluate import selected
from sfumato.evaluation.held import HeldPredictions
from sfumato.metrics import ComponentScores
from sfumato.metrics.regions import boxes
from sfumato.predictions import ClassPrediction, ValuePrediction, predict, resize_maps, with_channels
from sfumato.runs import Run, generator_for, prediction_state
from sfumato.runs.sizes import Scaling
from sfumato.storage import atomic_write, check_finite, write_tensors

ERROR = "error"
"""What a stream may be watched by, beside the uncertainties: the share of wrong pixels, or the mean error of values."""


@dataclass(frozen=True)
class Pass:
    """How a run predicts images.

    Args:
        run: The run, of one task. It may be calibrated.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws. Default 0.
        progress: Whether to show a progress bar. Default False.
        fitted_on: Names and digests of images that must not be predicted, because a decision was fitted on them.
    """

    run: Run
    samples: int | None = None
    seed: int = 0
    progress: bool = False
    fitted_on: Sequence[str] = ()

    def held(self, dataset: Samples) -> HeldPredictions:
        """The predictions of a data set at the original size.

        Raises:
            DataError: If it is empty.
            RunError: If the run was calibrated on one of its images.
        """
        if not len(dataset):
            raise DataError("there are no images: check --data, --root, --split, --on and --ood")
        self.run.check_calibration_leak(cast("Any", dataset))
        return HeldPredictions(self.run, selected(self.run, dataset), self.samples, self.seed, self.progress, True, 0)

    def images(self, dataset: Samples) -> Iterator[tuple[str, Any, Tensor, Tensor]]:
        """Name, prediction, target and mask of each image, with a batch dimension of 1.

        Raises:
            RunError: If a decision was fitted on one of the images.
        """
        held, fitted, names = self.held(dataset), set(self.fitted_on), names_of(dataset)
        for number, (prediction, target, valid) in enumerate(held.of(range(len(held)))):
            if held.keys[number] in fitted:
                raise RunError(
                    f"the decision was fitted on image {names[number]}: decide on others, with --on or --ood"
                )
            yield names[number], prediction, target, valid


@dataclass(frozen=True)
class Accepted:
    """What was accepted of one image.

    Args:
        name: Name of the image.
        accepted: Share of its pixels that are accepted; of the counted ones where labels are known.
        risk: Share of the accepted and counted pixels that are wrong, or their mean cost. NaN without any.
    """

    name: str
    accepted: float
    risk: float


def fit_abstention(run: Pass, dataset: Samples, risk: float = 0.05, delta: float = 0.1, **choices: Any) -> Abstention:
    """An :class:`Abstention` from held-out images.

    Args:
        run: How the images are predicted.
        dataset: Images that the run was neither trained nor calibrated on.
        risk: The allowed mean risk, in (0, 1); with costs in their unit. Default 0.05.
        delta: How often the mean risk may be larger, in (0, 1). Default 0.1.
        **choices: Those of :meth:`Abstention.fit`.

    Raises:
        ConfigError: If a choice is out of range or does not suit the task.
        DataError: If the images are too few, or no threshold keeps the risk.
        RunError: If the run was calibrated on one of the images.
    """
    held = run.held(dataset)
    fitted = Abstention.fit(cast("Any", held.of(range(len(held)))), risk, delta, **choices)
    return replace(fitted, fitted_on=tuple(held.keys), rests_on=prediction_state(run.run))


def accepted(run: Pass, abstention: Abstention, dataset: Samples, maps: Path | None = None) -> list[Accepted]:
    """What is accepted of each image of a data set.

    Args:
        run: How the images are predicted.
        abstention: What is accepted.
        dataset: Images that it was not fitted on.
        maps: Folder for NUMBER-NAME.safetensors with the map ``accepted`` (1, *event), bool. Default: none.
    """
    rows = []
    for name, prediction, target, valid in replace(run, fitted_on=abstention.fitted_on).images(dataset):
        mask = abstention(prediction)
        counted = abstention.counted(target, valid)
        known = mask & counted
        share = mask[counted] if bool(counted.any()) else mask
        wrong = abstention.loss(prediction, target)[known].double()
        rows.append(Accepted(name, float(share.double().mean()), float(wrong.mean()) if len(wrong) else math.nan))
        _write_maps(maps, len(rows), name, {"accepted": mask})
    return rows


@dataclass(frozen=True)
class Acted:
    """The actions on one image.

    Args:
        name: Name of the image.
        expected: Mean expected cost of its pixels.
        realized: Mean cost of its labeled pixels. NaN without any.
        by_label: The same if each pixel's most probable class were certain.
        look: Mean value of looking again.
        shares: The share of its pixels with each action.
    """

    name: str
    expected: float
    realized: float
    by_label: float
    look: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Seen:
    """One image with what is known before an action is chosen.

    Args:
        name: Name of the image.
        prediction: The calibrated prediction at the original size.
        look: The value of looking again (1, *event) of its draws, which no calibrator changes.
        target: The classes (1, *event).
        valid: Where they are known (1, *event).
    """

    name: str
    prediction: ClassPrediction
    look: Tensor
    target: Tensor
    valid: Tensor


def seen(run: Pass, costs: Costs, dataset: Samples) -> Iterator[Seen]:
    """Each image of a data set with its prediction and the value of looking again.

    Raises:
        ConfigError: If the run predicts values.
        DataError: If the data set is empty.
    """
    view, method, images = run.run, run.run.method(run.samples), selected(run.run, dataset)
    looking, task = Looking(cast("Any", view.likelihood), costs), view.single_task
    if not len(dataset):
        raise DataError("there are no images: check --data, --root, --on and --ood")
    from rich.progress import track

    for index in track(range(len(images)), "predict", disable=not run.progress, transient=True):
        sample = images[index]
        scaling = Scaling.of(view.facts.inputs, inputs := view.inputs_of(sample), view.plan.factors)
        prepared = view.prepare(*scaling.inputs(view.facts.inputs, inputs))
        found = predict(method, *prepared, likelihood=looking, generator=generator_for(index, run.seed))
        prediction = scaling.prediction(view.calibrated(found.prediction), {task.key: task}).to("cpu")
        look = resize_maps(found.value, scaling.original).cpu() if found.prediction.is_map else found.value.cpu()
        target, valid = (each[None] for each in task.target_and_mask(task.entries(sample)))
        yield Seen(names_of(dataset)[index], prediction, look, target, valid)


def acted(run: Pass, costs: Costs, dataset: Samples, maps: Path | None = None) -> list[Acted]:
    """The action with the least expected cost at each pixel of each image.

    Probabilities are those of the calibrated run. The value of looking again is of its draws, which no calibrator
    changes.

    Args:
        run: How the images are predicted. The run is of classes.
        costs: The costs of the actions, for the classes of the run.
        dataset: The images. Targets are used where they are known.
        maps: Folder for NUMBER-NAME.safetensors with the maps ``action``, uint8, ``expected_cost`` and ``look`` (1,
            *event).
            Default: none.

    Raises:
        ConfigError: If the run predicts values.
        NotFiniteError: If a prediction is not finite.
    """
    rows = []
    for each in seen(run, costs, dataset):
        action, cost = costs.best(each.prediction.probs)
        check_finite({"expected cost": cost, "value of looking again": each.look}, f"image {each.name}")
        certain = costs.matrix.argmin(0)[each.prediction.label]
        real, plain = (
            float(costs.realized(chosen[each.valid], each.target[each.valid]).double().mean())
            if bool(each.valid.any())
            else math.nan
            for chosen in (action, certain)
        )
        counts = torch.bincount(action.flatten(), minlength=len(costs.actions)) / action.numel()
        shares = dict(zip(costs.actions, counts.tolist()))
        rows.append(Acted(each.name, float(cost.mean()), real, plain, float(each.look.mean()), shares))
        kind = torch.uint8 if len(costs.actions) <= 256 else torch.int32
        _write_maps(maps, len(rows), each.name, {"action": action.to(kind), "expected_cost": cost, "look": each.look})
    return rows


@dataclass(frozen=True)
class Flagged:
    """How unusual one image is.

    Args:
        name: Name of the image.
        score: Its score.
        p: Its conformal p-value.
        flagged: Whether its score is above the threshold.
        discovered: Whether it is among the images that Benjamini and Hochberg's rule selects.
        regions: Top, left, bottom, right and number of pixels of each unusual region, the largest first.
    """

    name: str
    score: float
    p: float
    flagged: bool
    discovered: bool
    regions: Sequence[tuple[int, int, int, int, int]]


def fit_flag(
    run: Pass, dataset: Samples, rate: float = 0.05, delta: float = 0.1, *, measure: str = "epistemic", side: int = 0
) -> OutlierFlag:
    """An :class:`OutlierFlag` from held-out images. Arguments and errors as of :meth:`OutlierFlag.fit`."""
    OutlierFlag.check(rate, delta, side)
    held = run.held(dataset)
    scores = [image_scores(prediction, measure, side) for prediction, _, _ in held.of(range(len(held)))]
    fitted = OutlierFlag.fit(torch.cat(scores), rate, delta, measure=measure, side=side)
    return replace(fitted, fitted_on=tuple(held.keys), rests_on=prediction_state(run.run))


def flagged(
    run: Pass, flag: OutlierFlag, dataset: Samples, maps: Path | None = None, components: ComponentScores | None = None
) -> list[Flagged]:
    """Which images of a data set are flagged.

    Args:
        run: How the images are predicted.
        flag: The flag.
        dataset: Images that it was not fitted on. No targets are needed.
        maps: Folder for NUMBER-NAME.safetensors with the map ``unusual`` (1, H, W), bool, of a flag with a side.
            Default: none.
        components: Scores of the unusual regions, to which the images are added that mark pixels as ``novel``. For a
            flag with a side. Default: none.
    """
    marked = providing(dataset, ("novel", "novel_valid"))
    names, scores, regions = [], [], []
    for name, prediction, _, _ in replace(run, fitted_on=flag.fitted_on).images(dataset):
        names.append(name)
        scores.append(flag.score(prediction))
        unusual = flag.flagged_pixels(prediction) if flag.side else None
        regions.append([] if unusual is None else boxes(unusual[0]))
        if unusual is not None:
            _write_maps(maps, len(names), name, {"unusual": unusual})
        sample = marked[len(names) - 1] if unusual is not None and components is not None else {}
        if isinstance(novel := sample.get("novel"), Tensor) and components is not None:
            known = sample.get("novel_valid")
            inside = known[None].bool() if isinstance(known, Tensor) else None
            components.update(cast(Tensor, unusual), novel[None].bool(), inside)
    every = torch.cat(scores)
    p = flag.p_values(every)
    discovered = benjamini_hochberg(p, flag.rate).tolist()
    columns = zip(names, every.tolist(), p.tolist(), flag(every).tolist(), discovered, regions)
    return [Flagged(*row) for row in columns]


@dataclass(frozen=True)
class Watched:
    """The state of a stream after one image.

    Args:
        name: Name of the image.
        score: Its score.
        log_capital: Natural logarithm of the capital that bets against a stream without change have reached.
    """

    name: str
    score: float
    log_capital: float


def watched(
    run: Pass, reference: Samples, stream: Samples, measure: str = "epistemic", delta: float = 0.01
) -> tuple[list[Watched], int | None]:
    """Watch a stream of images for a change.

    Args:
        run: How the images are predicted.
        reference: Held-out images.
        stream: Images in the order in which they came, none of them held out.
        measure: total, aleatoric, epistemic or novelty, which watch the inputs; or error, the share of wrong pixels or
            the mean absolute error, which needs labels. Default epistemic.
        delta: Probability of a false alarm over the whole stream, in (0, 1). Default 0.01.

    Returns:
        A row for each image, and the number of images that had come at the alarm. None without an alarm.
    """
    held = run.held(reference)
    scores = [_score(measure, *batch) for batch in held.of(range(len(held)))]
    drift, rows = Drift([each for each in scores if each is not None], delta, run.seed), []
    for name, *batch in replace(run, fitted_on=held.keys).images(stream):
        score = _score(measure, *batch)
        if score is None:
            raise DataError(
                f"image {name} has no labeled pixel, and the measure {ERROR} needs some: take another measure"
            )
        drift.update(score)
        rows.append(Watched(name, score, drift.log_capital))
    return rows, drift.alarm


def _score(measure: str, prediction: Any, target: Tensor, valid: Tensor) -> float | None:
    """The score of one image. None if it needs labels and there are none."""
    if measure != ERROR:
        return float(image_scores(prediction, measure))
    if not bool(valid.any()):
        return None
    if isinstance(prediction, ValuePrediction):
        error = (with_channels(target, prediction.mean) - prediction.mean).abs().mean(1)
    else:
        error = (prediction.label != target).double()
    return float(error[valid].double().mean())


def write_table(rows: Sequence[Any], path: Path) -> None:
    """Write rows as CSV with a heading. A mapping becomes a column for each entry, NaN an empty cell.

    Args:
        rows: Dataclasses of one class.
        path: The file, which is written as a whole or not at all.
    """
    flat = [_flat(row) for row in rows]
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(row):
        value = asdict(row)[field.name]
        if isinstance(value, dict):
            found |= {f"share of {key}": each for key, each in value.items()}
        elif isinstance(value, list | tuple):
            found[field.name] = "; ".join(" ".join(map(str, each)) for each in value)
        else:
            found[field.name] = "" if isinstance(value, float) and math.isnan(value) else value
    return found


def _write_maps(folder: Path | None, number: int, name: str, maps: Mapping[str, Tensor]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        plain = re.sub(r"[^\w.-]+", "_", name)[-100:]
        write_tensors(folder / f"{number:05d}-{plain}.safetensors", maps)
