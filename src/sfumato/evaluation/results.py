"""What an evaluation finds, as plain values that are stored as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sfumato.errors import ConfigError, MissingFileError, RunError
from sfumato.evaluation.typed_json import decode, encode, schema
from sfumato.runs import Run, run_state
from sfumato.sections import Json
from sfumato.storage import atomic_write

FILE = "evaluation.json"
Columns = Mapping[str, tuple[float, ...]]
NAN = math.nan


@dataclass(frozen=True)
class Value:
    """A score, and its 95 % bootstrap interval over images.

    Args:
        value: The score of all pixels. NaN if the data leave it undefined.
        low: Lower end of the interval. NaN without an interval, as with a single image.
        high: Upper end of the interval.
    """

    value: float
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True)
class ScoreTable:
    """Scores and curves of other predictions of the same images.

    Args:
        scores: The scores by name.
        curves: What the report draws: curve → column → numbers.
    """

    scores: Mapping[str, Value]
    curves: Mapping[str, Columns]

    def __repr__(self) -> str:
        return f"ScoreTable({len(self.scores)} scores)"


@dataclass(frozen=True)
class OODHistogram:
    """How an uncertainty is distributed in and out of distribution.

    Args:
        edges: Ends of the N bins (N + 1), ascending, in nats or in the unit of the values. The last bin also holds
            what lies above it.
        inside: Pixels of the in-distribution images in each bin (N).
        outside: Pixels out of distribution in each bin (N).
        means: Mean uncertainty of the pixels in distribution, and of those out of distribution.
    """

    edges: tuple[float, ...]
    inside: tuple[float, ...]
    outside: tuple[float, ...]
    means: tuple[float, float]

    @property
    def ratio(self) -> float:
        """How many times larger the mean is out of distribution. NaN if the mean in distribution is 0.

        >>> OODHistogram((0.0, 1.0), (4.0,), (4.0,), (0.5, 1.5)).ratio
        3.0
        """
        return self.means[1] / self.means[0] if self.means[0] > 0 else NAN


@dataclass(frozen=True)
class OODComparison:
    """The comparison with a data set that is out of distribution.

    Args:
        name: Its name, as in ``scenes:novel``.
        root: The folder where it lies. Empty for generated data.
        histograms: For each part of the uncertainty its distributions.
    """

    name: str
    root: str
    histograms: Mapping[str, OODHistogram]


@dataclass(frozen=True)
class TaskEvaluation:
    """What was found for one task.

    Args:
        scores: All scores by name.
        headline: Names of the scores to show first.
        curves: What the report draws: curve → column → numbers.
        per_image: A row for each image, as columns: ``index`` (its number in the data set, ascending),
            ``uncertainty`` (its mean total uncertainty), and the headline scores of the task.
        per_class: Scores of each class, as columns in the order of ``class_names``. Empty for values.
        class_names: Names of the classes. Empty for values.
        uncalibrated: Scores of the same predictions without the run's calibrator. None if it has none.
        teacher: Scores of the teacher of a student. None for other runs.
        ood: The comparison with another data set. None if there was none.
    """

    scores: Mapping[str, Value]
    headline: tuple[str, ...]
    curves: Mapping[str, Columns]
    per_image: Columns
    per_class: Columns = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    uncalibrated: ScoreTable | None = None
    teacher: ScoreTable | None = None
    ood: OODComparison | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.headline if name not in self.scores]:
            raise ConfigError(f"headline names {unknown[0]!r}, which is none of the scores")
        columns = {name: len(numbers) for name, numbers in self.per_image.items()}
        if columns and ("index" not in columns or len(set(columns.values())) != 1):
            raise ConfigError(f"per_image has columns of {columns} rows, expected 'index' and others of equal length")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.scores[name].value:.4g}" for name in self.headline[:4])
        return f"TaskEvaluation({shown}, {len(self.scores)} scores)"


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run on a data set.

    Args:
        data: Name of the data set.
        root: The folder where it lies. Empty for generated data.
        split: Which part of it.
        images: Number of images.
        samples: Number of draws of a stochastic method.
        seed: Seed of the draws.
        run_state: Digest of the run at the time of the evaluation, see :func:`run_state`.
        tasks: What was found for each task, by its name.
        merged: By which optical flow the frames of a video were merged. Empty if each was predicted by itself.
    """

    data: str
    root: str
    split: str
    images: int
    samples: int
    seed: int
    run_state: str
    tasks: Mapping[str, TaskEvaluation]
    merged: str = ""

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            if wrong := [index for index in task.per_image.get("index", ()) if index not in range(self.images)]:
                raise ConfigError(f"per_image of {name} holds the index {wrong[0]}, but there are {self.images} images")

    def __repr__(self) -> str:
        return f"Evaluation({self.data}, {self.split}, {self.images} images: {', '.join(self.tasks)})"

    def to_json(self) -> dict[str, Json]:
        """All of it as JSON. NaN and infinities become None."""
        found = encode(self)
        assert isinstance(found, dict)
        return found

    @classmethod
    def json_schema(cls) -> dict[str, Json]:
        """The JSON Schema (draft 2020-12) of what :meth:`save` writes."""
        return schema(cls)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, as a whole or not at all."""
        with atomic_write(path) as part:
            part.write_text(json.dumps(self.to_json(), allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            MissingFileError: If there is no such file.
            RunError: If it is cut off, or holds something else.
        """
        path = Path(path)
        again = f"run `sfumato evaluate {path.parent}`"
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist: {again} first")
        try:
            return decode(cls, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is cut off or not an evaluation ({error}): {again} again") from error

    def is_current(self, run: Run) -> bool:
        """Whether the run is still as it was evaluated: not calibrated or trained since."""
        return self.run_state == run_state(run)
