"""The images of a report: which ones are shown, and what is predicted for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from sfumato.contracts import DataSet, Prediction, Sample, Task
from sfumato.data.views import entries_of, tasks_of, things_of
from sfumato.decisions import Decisions
from sfumato.evaluation import Evaluation, predict_sample
from sfumato.instances import find_instances
from sfumato.predictions import ClassPrediction, JointPrediction, ValuePrediction
from sfumato.report.data import Picture, ReportImage
from sfumato.report.decided import decision_pictures, p_values
from sfumato.report.saliency import saliency_of
from sfumato.report.vectors import draw_vectors
from sfumato.runs import Run, part_of, predict_seen
from sfumato.targets import Image
from sfumato.tasks import CenterOffsets, Flow, Semantic

IMAGES = 4  # images in each of the groups: best, worst, most uncertain, out of distribution
IMAGES_OF_TASKS = 2  # the same for a run of several tasks, which has these groups for each task
LEVEL = 0.9  # of the ellipses of vectors
HIDDEN = "the other picture does not show the point, because something is before it or it is outside."
ELLIPSES = "Vectors at some points. The true end of each lies in its ellipse with a probability of 90 %, if σ is right."
VARIANCES = ("aleatoric_variance", "epistemic_variance")
Joint = Prediction | JointPrediction


def groups_of(evaluation: Evaluation) -> dict[str, list[int]]:
    """The images to show by group. With several tasks the groups are named after them."""
    several = len(evaluation.tasks) > 1
    return {
        f"{name}: {group}" if several else group: members
        for name, found in evaluation.tasks.items()
        for group, members in _groups(found.per_image, IMAGES_OF_TASKS if several else IMAGES).items()
    }


def _groups(table: Mapping[str, tuple[float, ...]], count: int) -> dict[str, list[int]]:
    """Indices of the images with the lowest and highest NLL and with the highest mean uncertainty."""
    rows = range(len(table.get("index", ())))
    doubt = sorted(rows, key=lambda i: -table["uncertainty"][i])
    chosen = {"most uncertain": doubt[:count]}
    if nll := table.get("nll"):
        order = sorted(rows, key=lambda i: (math.isnan(nll[i]), nll[i]))
        known = [i for i in order if not math.isnan(nll[i])] or order
        chosen = {"best": known[:count], "worst": known[::-1][:count], **chosen}
    return {group: [int(table["index"][i]) for i in members] for group, members in chosen.items()}


@dataclass(frozen=True)
class ImageSource:
    """Predicts the images that a report shows.

    Args:
        run: The run, of one or several tasks.
        teacher: Its teacher. None without one.
        samples: Number of draws of a stochastic method. None for the number in the plan.
        seed: Seed of the draws, that of the evaluation.
        decisions: What was decided, by task. Default: nothing.
    """

    run: Run
    teacher: Run | None
    samples: int | None
    seed: int
    decisions: Mapping[str, Decisions] = field(default_factory=dict)

    def images(
        self, evaluation: Evaluation, dataset: DataSet, groups: Mapping[str, list[int]]
    ) -> dict[str, dict[int, ReportImage]]:
        """The images of all groups, by task and by index in the data set."""
        found: dict[str, dict[int, ReportImage]] = {name: {} for name in self.run.per_task}
        for index in dict.fromkeys(i for members in groups.values() for i in members):
            scores = {name: _scores_of(evaluation, name, index) for name in found}
            for name, image in self._image(dataset, index, tasks_of(dataset), scores).items():
                found[name][index] = image
        return _with_unique_names(found)

    def ood_images(self, dataset: DataSet) -> dict[str, list[ReportImage]]:
        """Example images of another data set, by task. Targets of other tasks or classes are not compared with."""
        known = tasks_of(dataset)
        found: dict[str, list[ReportImage]] = {name: [] for name in self.run.per_task}
        for index in range(0, len(dataset), max(1, len(dataset) // IMAGES))[:IMAGES]:
            for name, image in self._image(dataset, index, known, {}).items():
                found[name].append(image)
        return found

    def _image(
        self, dataset: DataSet, index: int, known: Mapping[str, Task], scores: Mapping[str, Mapping[str, float]]
    ) -> dict[str, ReportImage]:
        """What the page shows of one image, by task."""
        sample, prediction = predict_sample(self.run, dataset, index, samples=self.samples, seed=self.seed)
        taught = self._taught(sample, index)
        outline = _outline(prediction, things_of(dataset))
        first, *rest = _pictures(dataset, sample, self.run.facts.inputs).items()
        pictures = {name: Picture(value, f"The input “{name}” of the network.") for name, value in rest}
        pictures |= self._further(sample, prediction, first[1])
        saliency = saliency_of(self.run, self.run.inputs_of(sample))
        image, size = first[1], (int(first[1].shape[-2]), int(first[1].shape[-1]))
        found: dict[str, ReportImage] = {}
        for name, view in self.run.per_task.items():
            task, part = view.single_task, part_of(prediction, name)
            own = p_values(view, self.decisions.get(name, Decisions()), part, sample)
            comparable = known.get(name) == task
            target, valid = task.target_and_mask(task.entries(sample if comparable else {"image": image}))
            found[name] = ReportImage(
                str(sample.get("name", index)), image, as_map(part, size), over(target, valid.ndim, size),
                over(valid, valid.ndim, size), {**scores.get(name, {}), **own}, _set_size(view, as_map(part, size)),
                None if taught is None else as_map(part_of(taught, name), size), outline, pictures, saliency,
            )  # fmt: skip
        return found

    def _further(self, sample: Sample, prediction: Joint, image: Tensor) -> dict[str, Picture]:
        """What the other picture does not show, vectors with their ellipses, and what was decided, by name."""
        found: dict[str, Picture] = {}
        for name, view in self.run.per_task.items():
            task, part = view.single_task, part_of(prediction, name)
            several, decided = len(self.run.per_task) > 1, self.decisions.get(name, Decisions())
            for kind, picture in decision_pictures(decided, part, image).items():
                found[f"{name}: {kind}" if several else kind] = picture
            hidden = sample.get(f"{task.key}_occluded")
            if isinstance(hidden, Tensor):
                found["occluded"] = Picture(_marked(image, hidden), f"Red where no {task.key} can be seen: {HIDDEN}")
            if isinstance(task, Flow) and isinstance(part, ValuePrediction):
                drawn = torch.tensor(draw_vectors(replace(part, image=image[None]), LEVEL))
                found["ellipses"] = Picture(drawn.movedim(-1, 0) / 255, ELLIPSES)
        return found

    def _taught(self, sample: Sample, index: int) -> Joint | None:
        if self.teacher is None:
            return None
        method, inputs = self.teacher.method(), self.teacher.inputs_of(sample)
        found, scaling = predict_seen(self.teacher, method, inputs, seed=self.seed, index=index)
        return scaling.prediction(found, self.teacher.task.parts)


def _scores_of(evaluation: Evaluation, name: str, index: int) -> dict[str, float]:
    """Scores of one image."""
    found = evaluation.tasks[name]
    row = found.per_image["index"].index(index)
    wanted = dict.fromkeys(("uncertainty", *found.headline[:1], "nll", "ause"))
    return {score: found.per_image[score][row] for score in wanted if score in found.per_image}


def _with_unique_names(found: dict[str, dict[int, ReportImage]]) -> dict[str, dict[int, ReportImage]]:
    """Images whose names differ: two images of one name get their index added."""
    for images in found.values():
        names = [image.name for image in images.values()]
        for index, image in images.items():
            if names.count(image.name) > 1:
                images[index] = replace(image, name=f"{image.name} ({index})")
    return found


def _pictures(dataset: DataSet, sample: Sample, inputs: tuple[str, ...]) -> dict[str, Tensor]:
    """The inputs that are maps as pictures (3, H, W) in [0, 1]."""
    kinds, found = entries_of(dataset), {}
    for name in inputs:
        value, kind = sample[name], kinds.get(name)
        if not isinstance(value, Tensor) or value.ndim < 2 or not (kind is None or kind.is_map):
            continue
        bands = (value if value.ndim == 3 else value[None])[:3]
        if isinstance(kind, Image) or kind is None:
            bands = Image().to_float(bands)
        else:  # values in a unit: from the smallest to the largest of this image
            low, high = bands.float().aminmax()
            bands = (bands.float() - low) / (high - low).clamp_min(1e-12)
        found[name] = bands if len(bands) == 3 else bands[:1].expand(3, -1, -1)
    return found


def _marked(image: Tensor, mask: Tensor) -> Tensor:
    """The image (3, H, W), darker and gray, with red where the mask (H, W) is True."""
    gray = 0.6 * image.float().cpu().mean(0, keepdim=True).expand(3, -1, -1)
    return gray.where(~mask.cpu(), gray.new_tensor([0.85, 0.25, 0.15])[:, None, None])


def _outline(prediction: Joint, things: tuple[int, ...]) -> Tensor | None:
    """Outlines of the instances of an image, for a run that predicts classes and vectors to centers."""
    if not (isinstance(prediction, JointPrediction) and {Semantic.key, CenterOffsets.key} <= prediction.keys()):
        return None
    vectors, classes = prediction[CenterOffsets.key], prediction[Semantic.key]
    if not things or not isinstance(vectors, ValuePrediction) or not isinstance(classes, ClassPrediction):
        return None
    return find_instances(vectors, classes, things)[0].outline


def _set_size(run: Run, prediction: Prediction) -> Tensor | None:
    """What the conformal set or interval of each pixel adds to the best guess (H, W)."""
    if run.conformal is None:
        return None
    size: Tensor = run.conformal(prediction).size[0]
    return size if size.is_floating_point() else size - 1


def as_map(prediction: Prediction, size: tuple[int, int]) -> Prediction:
    """A prediction of one image as a map. One value for the whole image is repeated at every pixel."""
    if not isinstance(prediction, ClassPrediction | ValuePrediction) or prediction.is_map:
        return prediction
    found = {name: getattr(prediction, name, None) for name in ("probs", "aleatoric", "mean", *VARIANCES)}
    own = {each.name for each in fields(prediction)}
    maps = {name: over(value, 0, size) for name, value in found.items() if value is not None and name in own}
    return replace(prediction, **maps, novelty=None)


def over(value: Tensor, event: int, size: tuple[int, int]) -> Tensor:
    """A target or mask at every pixel of ``size``, where its ``event`` has no dimensions; else the value itself."""
    return value if event else value[..., None, None].expand(*value.shape, *size)
