"""What is chosen of a pool of image files, as files for annotation programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sfumato.acquisition.annotations import Annotation, Picture
from sfumato.acquisition.answers import flat, same_image
from sfumato.acquisition.areas import Area
from sfumato.acquisition.coco import to_coco
from sfumato.acquisition.cvat import to_cvat
from sfumato.acquisition.label_studio import labeling_config, to_label_studio
from sfumato.acquisition.pool import Query, choose, looked, numbered
from sfumato.acquisition.scores import SCORES, score_map
from sfumato.data.views import Samples, files_of, names_of
from sfumato.decisions import Look
from sfumato.errors import DataError
from sfumato.runs import Run
from sfumato.storage import write_all
from sfumato.targets import MASK
from sfumato.tasks import Semantic

LABELED = 0.5  # an image with a larger share of labeled pixels counts as labeled


@dataclass(frozen=True)
class Selected:
    """One chosen unit.

    Args:
        picture: Number of its image in the pool.
        rank: In which order it was chosen, from 1.
        area: Its pixels.
        scores: Its mean score of each kind.
        place: Its place by the score that was asked for, among all candidates, from 1.
        label: The class from which most of its score comes.
        share: How much of it, in [0, 1].
    """

    picture: int
    rank: int
    area: Area
    scores: Mapping[str, float]
    place: int
    label: str
    share: float

    @property
    def attributes(self) -> dict[str, float | int | str]:
        """Rank, scores and class, by plain names."""
        scores = {name.replace("-", "_"): float(f"{value:.5g}") for name, value in self.scores.items()}
        return {"rank": self.rank, **scores}


@dataclass(frozen=True)
class Selection:
    """What was chosen of a pool.

    Args:
        pictures: The images of the pool.
        units: The chosen units, in the order of their choice.
        pool: Number of candidates.
        looks: For each image with chosen units its prediction and the map (H, W) of the score that was asked for.
    """

    pictures: Sequence[Picture]
    units: Sequence[Selected]
    pool: int
    looks: Mapping[int, tuple[Look, Tensor]]

    @property
    def pixels(self) -> int:
        """Number of chosen pixels."""
        return sum(each.area.size for each in self.units)

    def annotations(self, labels: tuple[str, ...]) -> list[Annotation]:
        """The predicted classes inside the chosen units, to be corrected by a person.

        Args:
            labels: The names of the classes.
        """
        found = []
        for each in self.units:
            left, top, width, height = each.area.box
            predicted = self.looks[each.picture][0].prediction.label[0].cpu().numpy()
            window = predicted[top : top + height, left : left + width]
            for number in np.unique(window[each.area.mask]).tolist():
                own = Area.of(each.area.mask & (window == number))
                area = Area(top + own.top, left + own.left, own.mask)
                found.append(Annotation(each.picture, labels[number], area, each.attributes))
        return found

    def write(self, folder: str | Path, task: Semantic) -> None:
        """Write ``coco.json``, ``label-studio.json``, ``label-studio.xml``, ``cvat.xml`` and ``regions.csv``.

        Args:
            folder: The folder, which is made if it does not exist.
            task: Names and colors of the classes.
        """
        folder, found = Path(folder), self.annotations(task.names)
        folder.mkdir(parents=True, exist_ok=True)
        shown = sorted({each.picture for each in self.units})
        few = {number: place for place, number in enumerate(shown)}
        pictures = [self.pictures[number] for number in shown]
        own = [Annotation(few[each.picture], each.label, each.area, each.attributes) for each in found]
        texts = {
            "regions.csv": self._table(),
            "coco.json": to_coco(pictures, own, task.names),
            "label-studio.json": to_label_studio(pictures, own),
            "label-studio.xml": labeling_config(task.names, task.palette),
            "cvat.xml": to_cvat(pictures, own, task.names),
        }
        write_all({
            folder / name: lambda path, text=text: path.write_text(text, encoding="utf-8")
            for name, text in texts.items()
        })  # fmt: skip

    def _table(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["rank", "image", "left", "top", "width", "height", "pixels", *SCORES, "place", "class", "share"]
        )
        for each in self.units:
            scores = [f"{each.scores[name]:.5g}" for name in SCORES]
            writer.writerow([each.rank, self.pictures[each.picture].name, *each.area.box, each.area.size, *scores,
                             each.place, each.label, f"{each.share:.3f}"])  # fmt: skip
        return text.getvalue()


def acquire(run: Run, pool: Samples, train: Samples, budget: int, query: Query, progress: bool = False) -> Selection:
    """Choose what of a pool of image files is to be labeled.

    Args:
        run: The run, of one task of classes.
        pool: The images, read from files, at their original size.
        train: The labeled images that the run was trained on. Labeled pixels of pool images are no candidates.
        budget: How many units.
        query: How they are chosen.
        progress: Whether to show a progress bar. Default False.

    Raises:
        ConfigError: If the budget is larger than the pool, or the run predicts values.
        DataError: If an image of the pool is labeled already, or is not read from a file.
    """
    asked = labeled_pixels(pool, train, query.unit)
    chosen = choose(run, pool, budget, query, asked, progress)
    pictures = pictures_of(pool)
    looks, areas, maps = {}, {}, {}
    wanted = chosen.units.image.unique().tolist()
    for index, sample, look, _ in looked(run, pool, wanted, query):
        maps[index] = {name: score_map(look, name)[0].cpu() for name in SCORES}
        looks[index] = look, maps[index][query.score]
        areas[index] = numbered(query, index, cast(Tensor, sample["image"]), asked.get(index)).numpy()
    names: tuple[str, ...] = getattr(run.single_task, "names", ())
    units = []
    for place, index in enumerate(chosen.units.image.tolist()):
        mask = areas[index] == int(chosen.units.number[place])
        inside = torch.from_numpy(mask)
        scores = {name: float(values[inside].mean()) for name, values in maps[index].items()}
        if query.needs_prediction:
            scores[query.score] = float(chosen.units.score[place])
        label, share = _largest_part(chosen.units.by_class[place], looks[index][0].prediction.label[0].cpu()[inside])
        units.append(Selected(index, place + 1, Area.of(mask), scores, int(chosen.place[place]), names[label], share))
    return Selection(pictures, units, chosen.pool, looks)


def _largest_part(by_class: Tensor, labels: Tensor) -> tuple[int, float]:
    """The class from which most of a score comes, and its share; without a score the most frequent class, and 0."""
    total = float(by_class.sum())
    return (int(by_class.argmax()), float(by_class.max()) / total) if total > 0 else (int(labels.mode().values), 0.0)


def pictures_of(pool: Samples) -> list[Picture]:
    """The names of the files of a pool, and the sizes of its images.

    Raises:
        DataError: If an image is not read from a file.
    """
    found = []
    for index, name in enumerate(names_of(pool)):
        files = files_of(pool, index)
        if not files:
            raise DataError("the pool is not read from files: name a folder of images with --pool")
        image: Any = pool[index]["image"]
        found.append(Picture(f"{name}{files[0].suffix}", *image.shape[-2:]))
    return found


def labeled_pixels(pool: Samples, train: Samples, unit: str) -> dict[int, Tensor]:
    """For images of a pool that are training images too, the pixels (H, W) with a label.

    Args:
        pool: The images of the pool.
        train: The training images.
        unit: What is chosen as a whole.

    Raises:
        DataError: If more than half of an image is labeled; for whole images, if any of it is.
    """
    known: dict[str, list[int]] = {}
    for index, name in enumerate(names_of(train)):
        for text in {flat(name), name.rpartition("/")[2]}:
            known.setdefault(text, []).append(index)
    found, done = {}, []
    for index, name in enumerate(names_of(pool)):
        for other in {each for text in (flat(name), name.rpartition("/")[2]) for each in known.get(text, ())}:
            sample: Any = train[other]
            if not same_image(sample, pool[index]):
                continue
            valid = sample[Semantic.key + MASK]
            if bool(valid.any()):
                found[index] = valid
            if float(valid.float().mean()) > (0 if unit == "image" else LABELED):
                done.append(name)
    if done:
        raise DataError(
            f"{len(done)} images of the pool are labeled already, the first is {done[0]}: take them out of the pool"
        )
    return found
