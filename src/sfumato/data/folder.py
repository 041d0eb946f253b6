"""A user's own folder of images and targets, described by a few lines of YAML."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato import targets
from sfumato.contracts import Sample
from sfumato.data.description import VIEWS, Description, Labels, read_description
from sfumato.data.images import read_image, read_turned_image
from sfumato.data.motion_files import read_disparity, read_flow
from sfumato.data.observers import most_likely, observed_shares
from sfumato.data.stored import read_channel
from sfumato.data.target_files import read_classes, read_depth, read_probabilities
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError
from sfumato.tasks import BaseTask

FILE = "sfumato.yaml"
Fit = tuple[tuple[int, ...], int, int]
"""Height and width of the image, its EXIF orientation, and the largest number of pixels."""


class Folder(Dataset[Sample]):
    """Images with labels, probabilities or depth, described by ``sfumato.yaml`` beside them.

    For classes::

        splits:
          train: {images: train/images, labels: train/labels}
          val: {images: val/images, labels: val/labels}
        classes: [road, car, other]      # of ids 0, 1, 2; of 1, 2, 3 where void is 0
        colors: [[128, 64, 128], [0, 0, 142], [90, 90, 90]]     # optional
        void: 255                        # optional: the id of pixels without a class

    ``classes: {0: background, 255: vessel}`` names other ids. Label files with three channels hold the ``colors``;
    ``void`` may be a color too. Files of folders belong together by their stem. A pattern with one ``*`` takes the
    place of a folder; what the ``*`` stands for must be equal::

          train: {images: "train/*_training.tif", labels: "train/*_manual1.gif", mask: "mask/*_mask.gif"}

    Pixels where a ``mask`` is 0 are not valid. ``labels: [FIRST, SECOND]`` are those of several observers, and
    ``probabilities:`` in place of ``labels:`` are those of the classes, see
    :func:`~sfumato.data.target_files.read_probabilities`. ``train: train.txt`` is a text file with one image and its
    targets in each line. ``folds: 5`` says that ``train`` is divided into five parts, one of which is validated on, see
    :class:`~sfumato.data.folds.FoldedDataset`.

    For depth::

        splits:
          train: {images: train/images, depth: train/depth}
        depth: {unit: 0.001, minimum: 0.3, maximum: 10}

    ``unit`` is the meters that a stored 1 stands for (0.001: millimeters). A stored 0 is missing, and so are depths
    outside ``minimum`` and ``maximum`` (meters). Classes and depth may be given at once. Files with more than
    ``max_megapixels: 64`` million pixels are refused.

    For stereo pairs, whose left views are the ``images``, and for optical flow from ``images`` to ``next``::

        splits:
          train: {images: train/left, right: train/right, disparity: train/disparity}
        disparity: {maximum: 64}
        camera: {focal: 721.5, center: [609.6, 172.9], baseline: 0.54}      # optional

        splits:
          train: {images: first, next: second, flow: flow}
        flow: {reach: 20}

    Beside classes or depth, ``next:`` without ``flow`` names the later frames of a video.

    ``maximum`` and ``reach`` are in pixels. Disparities are PFM, PNG or others, see
    :func:`~sfumato.data.motion_files.read_disparity`; ``unit: 0.25`` beside ``maximum`` says that a stored 1 is a
    quarter of a pixel. Flows are .flo, PFM or 16-bit PNG, see :func:`~sfumato.data.motion_files.read_flow`. A split
    without them is for training without labels. With a ``camera`` (``focal`` and ``center`` px, ``baseline`` meters),
    samples hold ``intrinsics`` and the poses of the pair, and ``depth: {minimum: 1, maximum: 80}`` without a unit is
    computed from disparity.

    A sample holds ``name``, ``image`` (3, H, W) uint8 (float32 in [0, 1] from 16-bit and float files), and as described
    ``classes`` (H, W) int64 with ``classes_valid`` (H, W) bool, ``depth`` (1, H, W) meters with ``depth_valid`` (H, W)
    bool. With several observers or probabilities, ``classes`` is the most likely class (of equally likely ones that of
    the first observer, else the lowest), and ``class_probs`` and ``classes_soft``, which are equal, are the
    probabilities (K, H, W) float32: the former to score with, the latter to train on.

    Args:
        root: The folder that holds ``sfumato.yaml``, or the path of such a file under another name.
        split: One of the splits described. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.
        complete: Whether a missing file is an error. If False, its image is left out, and ``missing`` has a line for
            each such file. Default True.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the description, a folder, a label or a depth is missing.
        DataError: If the description cannot be read, or a folder is empty.
    """

    inputs: tuple[str, ...] = ("image",)

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        size: tuple[int, int] | None = None,
        *,
        complete: bool = True,
    ) -> None:
        root = Path(root)
        self._described = read_description(root if root.suffix in (".yaml", ".yml") else root / FILE)
        self.size, described = size, self._described
        self.tasks: dict[str, BaseTask] = described.tasks
        self.splits = tuple(described.splits)
        if split not in self.splits:
            advice = ": a fold is val after `fit --fold 0`" if split == "val" and described.folds else ""
            raise ConfigError(f"split is {split!r}, but {described.file} has {list(self.splits)}{advice}")
        rows = described.rows(split)
        self._rows = rows.complete() if complete else rows
        self.missing, self.names = rows.missing, rows.names
        several = any(len(each) > 1 for each in rows.targets.get("labels", []))
        self._soft = several or "probabilities" in rows.targets

    @property
    def folds(self) -> int:
        """The number of folds that ``train`` is divided into; 0 for none."""
        return self._described.folds

    @property
    def void(self) -> int | tuple[int, int, int] | None:
        """The id or the color of pixels without a class."""
        return self._described.labels and self._described.labels.void

    @property
    def entries(self) -> dict[str, targets.EntryKind]:
        """The kinds of the probabilities of classes, if there are any."""
        if not self._soft or self._described.labels is None:
            return {}
        kind = targets.ScalarMap(dims=self._described.labels.task.classes)
        return {"class_probs": kind, "classes_soft": kind}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        known, files = self._described, {kind: paths[index] for kind, paths in self._rows.targets.items()}
        image, orientation = read_turned_image(self._rows.images[index], known.max_pixels)
        fit = (tuple(image.shape[1:]), orientation, known.max_pixels)
        sample: Sample = {"name": self.names[index], "image": image}
        if known.labels:
            sample |= _classes(files, known.labels, fit)
        if known.depth and known.depth.unit:
            task = known.depth.task
            depth = read_depth(files["depth"][0], known.depth.unit, task.minimum, task.maximum, *fit)
            sample["depth"], sample["depth_valid"] = depth
        sample |= {view: read_image(files[view][0], known.max_pixels) for view in VIEWS if view in files}
        sample |= _correspondences(files, known, image)
        if "mask" in files:
            inside = torch.from_numpy(read_channel(files["mask"][0], *fit) != 0)
            sample = {key: _inside(key, value, inside) for key, value in sample.items()}
        return resize(sample, self.size, {**targets.ENTRIES, **self.entries})

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its targets."""
        return self._rows.images[index], *(path for paths in self._rows.targets.values() for path in paths[index])


def _classes(files: dict[str, tuple[Path, ...]], labels: Labels, fit: Fit) -> dict[str, Tensor]:
    """The entries of the classes of a sample."""
    if "probabilities" in files:
        probs = read_probabilities(files["probabilities"][0], labels.task.classes, *fit)
        return _soft(probs, most_likely(probs), torch.ones(probs.shape[1:], dtype=torch.bool))
    observed = [read_classes(path, labels.ids, labels.colors, labels.void, *fit) for path in files["labels"]]
    if len(observed) == 1:
        return {"classes": observed[0][0], "classes_valid": observed[0][1]}
    probs, valid = observed_shares(observed, labels.task.classes)
    return _soft(probs, most_likely(probs, observed[0]), valid)


def _correspondences(files: dict[str, tuple[Path, ...]], known: Description, image: Tensor) -> dict[str, Tensor]:
    """Disparity, flow, and what follows from the camera, of those that are described."""
    shape, found = (int(image.shape[-2]), int(image.shape[-1])), dict[str, Tensor]()
    if "flow" in files:
        found["flow"], found["flow_valid"] = read_flow(files["flow"][0], shape, known.max_pixels)
    if known.disparity and "disparity" in files:
        disparity = read_disparity(files["disparity"][0], known.disparity.unit, shape, known.max_pixels)
        found["disparity"], found["disparity_valid"] = disparity
    if known.camera is None:
        return found
    known.camera.check(shape, str(known.file))
    if known.depth and not known.depth.unit and "disparity" in found:
        depth, valid = known.camera.depth(found["disparity"], found["disparity_valid"])
        inside = valid & (depth[0] >= known.depth.task.minimum) & (depth[0] <= known.depth.task.maximum)
        found["depth"], found["depth_valid"] = depth.where(inside, 0), inside
    return {**found, "intrinsics": torch.from_numpy(known.camera.matrix).float(), **known.camera.poses()}


def _soft(probs: Tensor, classes: Tensor, valid: Tensor) -> dict[str, Tensor]:
    return {"classes": classes, "classes_valid": valid, "class_probs": probs, "classes_soft": probs}


def _inside(key: str, value: Tensor | str, inside: Tensor) -> Tensor | str:
    """An entry with what lies outside the region of interest made invalid, and 0 where it is a target."""
    if isinstance(value, str) or value.shape[-2:] != inside.shape or key in ("image", *VIEWS):
        return value
    return value & inside if value.dtype == torch.bool else value.where(inside, 0)
