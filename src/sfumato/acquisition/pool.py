"""What a run says about a pool of images, and which of its units are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.acquisition.candidates import Candidates, touched
from sfumato.acquisition.scores import SCORES, score_map
from sfumato.acquisition.selectors import BY_CLASS, BY_SCORE, check_budget, check_selector, ranking, select
from sfumato.acquisition.units import check_unit, unit_numbers
from sfumato.contracts import Sample
from sfumato.data.views import Samples, name_of
from sfumato.decisions import Costs, LogLoss, Look, Looking
from sfumato.errors import ConfigError, DataError, similar
from sfumato.methods.features import last_layer, read_by
from sfumato.predictions import predict, resize_maps
from sfumato.runs import Run, generator_for
from sfumato.runs.sizes import Scaling
from sfumato.storage import check_finite

BATCH = 4  # images of one size that are predicted together


@dataclass(frozen=True)
class Query:
    """How units are chosen.

    Args:
        score: ``entropy``, ``mutual-information``, ``margin``, ``variation-ratio`` or ``evpi``. Default entropy.
        unit: ``image``, ``patch``, ``superpixel`` or ``pixel``. Default patch.
        side: Side of a patch, or about that of a superpixel, pixels. Default 32.
        selector: ``top-k``, ``gumbel``, ``class-stratified``, ``k-center``, ``random`` or ``class-stratified-random``.
            Default class-stratified.
        beta: How little noise ``gumbel`` and ``class-stratified`` add, > 0. Default 1.
        per_image: At most so many units of one image. 0 for no limit. Default 0.
        similarity: Units whose features have a cosine above this one with a chosen unit are left out, see
            :func:`~sfumato.acquisition.select`. 1 keeps all. Default 1.
        costs: For ``evpi``, what actions cost. None for the log loss, where it is the mutual information.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        scale: The pool is predicted at this share of the size that the network was trained on, in (0, 1], to save time.
            Default 1.
        seed: Seed of the draws and of the choice. Default 0.

    Raises:
        ConfigError: If a choice is unknown or out of range.
    """

    score: str = "entropy"
    unit: str = "patch"
    side: int = 32
    selector: str = "class-stratified"
    beta: float = 1.0
    per_image: int = 0
    similarity: float = 1.0
    costs: Costs | None = None
    samples: int | None = None
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            meant = similar(self.score, SCORES)
            raise ConfigError(f"score is {self.score!r}{meant}, expected one of {', '.join(SCORES)}")
        check_unit(self.unit, self.side)
        check_selector(self.selector)
        if not 0 < self.beta < float("inf"):
            raise ConfigError(f"beta is {self.beta:g}, expected a number above 0")
        if not -1 <= self.similarity <= 1:
            raise ConfigError(f"similarity is {self.similarity:g}, expected a cosine, at most 1, which keeps all units")
        if not 0 < self.scale <= 1:
            raise ConfigError(f"scale is {self.scale:g}, expected a share of the size, in (0, 1]")
        if self.similarity < 1 and self.unit == "pixel":
            raise ConfigError("similarity is for larger units: leave it out, or limit the pixels with per_image")

    @property
    def needs_features(self) -> bool:
        """Whether features are compared."""
        return self.selector == "k-center" or self.similarity < 1

    @property
    def needs_prediction(self) -> bool:
        """Whether the choice depends on what the network says."""
        return self.selector in (*BY_SCORE, *BY_CLASS) or self.needs_features


@dataclass(frozen=True)
class Choice:
    """Units that were chosen.

    Args:
        units: The units, in the order of their choice.
        place: The place (n,) of each by its score among all candidates, from 1.
        pool: Number of candidates.
    """

    units: Candidates
    place: Tensor
    pool: int


def looked(
    run: Run, samples: Samples, images: Iterable[int], query: Query, *, features: bool = False
) -> Iterator[tuple[int, Sample, Look, Tensor | None]]:
    """Predictions of images at their original size, those of one size a few at a time.

    Args:
        run: The run, of one task of classes.
        samples: The images.
        images: Which of them.
        query: Its draws, scale, seed and costs are used.
        features: Whether the features that the last layer of the first network reads are given too. Default False.

    Yields:
        The number of each image, its sample, its prediction with a batch dimension of 1, and its features (F, H, W).

    Raises:
        ConfigError: If the run predicts values.
        NotFiniteError: If a prediction is not finite.
    """
    looking = Looking(cast("Any", run.likelihood), query.costs or LogLoss())
    method, task = run.method(query.samples), run.single_task
    for group in _alike(run, samples, images):
        inputs = [torch.cat(each) for each in zip(*(run.inputs_of(sample) for _, sample in group))]
        height, width = run.plan.factors
        scaling = Scaling.of(run.facts.inputs, inputs, (query.scale * height, query.scale * width))
        seen = run.prepare(*scaling.inputs(run.facts.inputs, inputs))
        found = predict(method, *seen, likelihood=looking, generator=generator_for(group[0][0], query.seed))
        prediction: Any = scaling.prediction(run.calibrated(found.prediction), {task.key: task})
        value = resize_maps(found.value, scaling.original)
        check_finite(
            {"uncertainty": prediction.total, "value of looking again": value},
            f"image {name_of(group[0][1], group[0][0])}",
        )
        layer = _features(run, seen, scaling.original) if features else None
        for place, (index, sample) in enumerate(group):
            one = slice(place, place + 1)
            part = type(prediction)(prediction.probs[one], prediction.aleatoric[one], prediction.draws)
            yield index, sample, Look(part, value[one]), None if layer is None else layer[place]


def _alike(run: Run, samples: Samples, images: Iterable[int]) -> Iterator[list[tuple[int, Sample]]]:
    """Neighboring images of one size, a few at a time."""
    group: list[tuple[int, Sample]] = []
    for index in images:
        sample = samples[index]
        shapes = [tuple(value.shape) for value in run.inputs_of(sample)]
        if group and (len(group) == BATCH or shapes != [tuple(value.shape) for value in run.inputs_of(group[0][1])]):
            yield group
            group = []
        group.append((index, sample))
    if group:
        yield group


@torch.no_grad()
def _features(run: Run, seen: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
    """What the last convolution of the first network reads, as a map (B, F, H, W) of the original size."""
    network = run.networks[0]
    found, _, _ = read_by(network, last_layer(network), seen)
    return interpolate(found.float(), size=size, mode="bilinear", align_corners=False)


def choose(
    run: Run, samples: Samples, budget: int, query: Query, asked: Mapping[int, Tensor], progress: bool = False
) -> Choice:
    """Choose units of a pool of images to be labeled.

    Args:
        run: The run, of one task of classes.
        samples: The images of the pool, at their original size.
        budget: How many units.
        query: How they are chosen.
        asked: For images with labels, the pixels (H, W) whose label is known or was asked for, bool. Units that hold
            such a pixel are no candidates.
        progress: Whether to show a progress bar. Default False.

    Returns:
        The units: fewer than the budget if the others are near-duplicates.

    Raises:
        ConfigError: If the budget is larger than the pool, or the run predicts values.
        DataError: If the pool is empty.
    """
    if run.single_task.kind != "class":
        raise ConfigError(f"{run.folder} predicts values, expected a task of classes: name one with --task")
    if not len(samples):
        raise DataError("the pool holds no image: check --pool")
    found = list(_scanned(run, samples, query, asked, progress))
    candidates = Candidates.joined([each for each, _ in found])
    check_budget(candidates, budget, query.per_image)
    here = replace(candidates, features=candidates.features.to(run.device))  # a cover compares all features
    centers = torch.cat([each for _, each in found])
    order = ranking(query.selector, here, generator_for(len(samples), query.seed), query.beta, centers)
    places = torch.tensor(select(order, candidates, budget, query.per_image, query.similarity))
    above = (-candidates.score).sort().values
    by_score = torch.searchsorted(above, -candidates.score[places]) + 1
    return Choice(candidates[places], by_score, len(candidates))


def numbered(query: Query, index: int, picture: Tensor, asked: Tensor | None = None) -> Tensor:
    """The unit (H, W) of each pixel of an image, as :func:`choose` numbers them.

    Args:
        query: How units are chosen.
        index: Number of the image.
        picture: The image (3, H, W).
        asked: Pixels (H, W) whose label was asked for, bool. None for none.
    """
    known = torch.zeros(picture.shape[-2:], dtype=torch.bool) if asked is None else asked
    return unit_numbers(query.unit, picture, query.side, known, generator_for(index, query.seed + 1))


def _scanned(
    run: Run, samples: Samples, query: Query, asked: Mapping[int, Tensor], progress: bool
) -> Iterator[tuple[Candidates, Tensor]]:
    """For each image its candidates, and the features of what is labeled."""
    from rich.progress import track

    classes, images = len(getattr(run.single_task, "names", ())), range(len(samples))
    rows = _unseen(samples) if not query.needs_prediction else looked(
        run, samples, images, query, features=query.needs_features
    )  # fmt: skip
    for index, sample, look, features in track(
        rows, "look at the pool", total=len(samples), disable=not progress, transient=True
    ):
        picture = cast(Tensor, sample[run.facts.inputs[0]])
        numbers = numbered(query, index, picture, asked.get(index))
        zeros = torch.zeros(numbers.shape)
        score = zeros if look is None else score_map(look, query.score)[0]
        label = zeros.long() if look is None else look.prediction.label[0]
        units = Candidates.of_image(index, numbers.to(score.device), score, label, classes, features)
        done = torch.isin(units.number, touched(numbers, asked[index])) if index in asked else units.size < 0
        yield units[~done], units[done].features


def _unseen(samples: Samples) -> Iterator[tuple[int, Sample, Look | None, Tensor | None]]:
    """Images without a prediction."""
    for index in range(len(samples)):
        yield index, samples[index], None, None
