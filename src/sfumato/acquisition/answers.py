"""From annotations to a folder that ``fit`` reads: what nobody labeled is not valid."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from sfumato.acquisition.annotations import Annotation, Names, Picture, read_json, read_text
from sfumato.acquisition.coco import from_coco
from sfumato.acquisition.cvat import from_cvat
from sfumato.acquisition.label_studio import from_label_studio
from sfumato.data.folder import FILE
from sfumato.data.views import Samples, files_of, names_of
from sfumato.errors import ConfigError, DataError, RunExistsError, similar
from sfumato.storage import check_writable
from sfumato.targets import MASK
from sfumato.tasks import Semantic

VOID = 255  # in label files: not labeled


def read_answers(path: str | Path, pictures: Sequence[Picture], labels: Sequence[str]) -> list[Annotation]:
    """The annotations in a file of COCO (JSON), Label Studio (JSON) or CVAT (XML for images 1.1).

    Args:
        path: The file.
        pictures: The images of the pool.
        labels: The names of the classes.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read, holds no annotation, or names an image or a class that is not known.
    """
    path, names = Path(path), Names(pictures)
    text = read_text(path)
    try:
        found = _parsed(text, names)
        if not found:
            raise DataError("it holds no annotation: annotate some of the regions, and export again")
        for each in found:
            if each.label not in labels:
                meant = similar(each.label, labels)
                raise DataError(
                    f"{pictures[each.picture].name} has the class {each.label!r}{meant}, the run knows "
                    f"{', '.join(labels)}: rename it"
                )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return found


def _parsed(text: str, names: Names) -> list[Annotation]:
    if not text.strip():
        raise DataError("it is empty: export it again")
    if text.lstrip().startswith("<"):
        return from_cvat(text, names)
    content = read_json(text)
    return from_label_studio(content, names) if isinstance(content, list) else from_coco(content, names)


def label_maps(
    annotations: Sequence[Annotation], pictures: Sequence[Picture], labels: Sequence[str]
) -> dict[int, np.ndarray]:
    """The class (H, W) of each pixel, uint8, of the images with annotations; 255 where there is none.

    Args:
        annotations: The annotations.
        pictures: The images of the pool.
        labels: The names of the classes, at most 255.

    Raises:
        DataError: If annotations of two classes overlap.
    """
    found: dict[int, np.ndarray] = {}
    for each in annotations:
        picture = pictures[each.picture]
        values = found.setdefault(each.picture, np.full((picture.height, picture.width), VOID, np.uint8))
        left, top, width, height = each.area.box
        window, label = values[top : top + height, left : left + width], labels.index(each.label)
        if (wrong := each.area.mask & (window != VOID) & (window != label)).any():
            row, column = (int(each) for each in np.argwhere(wrong)[0])
            raise DataError(
                f"annotations of {picture.name} overlap: row {top + row}, column {left + column} is {each.label!r} and "
                f"{labels[window[row, column]]!r}. Give each pixel one class"
            )
        window[each.area.mask] = label
    return found


def write_labeled(
    folder: str | Path, task: Semantic, train: Samples, pool: Samples, maps: Mapping[int, np.ndarray]
) -> tuple[int, int]:
    """Write a folder with the labels of a run and new ones, which ``fit --data FOLDER`` reads.

    Pixels without a label are 255 in its label files, which the description calls void.

    Args:
        folder: The folder. It must not exist.
        task: Names and colors of the classes.
        train: The labeled images that the run was trained on. Those without a label are left out.
        pool: The images of the pool.
        maps: For some of them, the class (H, W) of each pixel, 255 for none.

    Returns:
        The number of images, and of pixels with a label.

    Raises:
        RunExistsError: If the folder exists.
        ConfigError: If there are more than 255 classes.
        DataError: If a pixel has two labels, or two images one name.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunExistsError(f"{folder} exists already: choose another --out")
    if len(task.names) > VOID:
        raise ConfigError(f"there are {len(task.names)} classes, label files hold at most {VOID}")
    labeled = _merged(train, pool, maps)
    check_writable(folder)
    with _new_folder(folder) as part:
        for name, (samples, index, values) in labeled.items():
            _copy_image(samples, index, part / "images" / name)
            Image.fromarray(values).save(part / "labels" / f"{name}.png")
        (part / FILE).write_text(_description(task), encoding="utf-8")
    return len(labeled), sum(int((values != VOID).sum()) for _, _, values in labeled.values())


def _description(task: Semantic) -> str:
    text: dict[str, object] = {"splits": {"train": {"images": "images", "labels": "labels"}}}
    text |= {"classes": list(task.names), "void": VOID}
    if len(set(task.palette)) == len(task.palette):
        text["colors"] = [list(color) for color in task.palette]
    return yaml.safe_dump(text, sort_keys=False, allow_unicode=True)


def _merged(
    train: Samples, pool: Samples, maps: Mapping[int, np.ndarray]
) -> dict[str, tuple[Samples, int, np.ndarray]]:
    """By the name of each image: where it is read, and the class of each pixel."""
    found: dict[str, tuple[Samples, int, np.ndarray]] = {}
    for index, name in enumerate(names_of(train)):
        values = labels_of(train[index])
        if (values != VOID).any():
            found[_plain(name, found)] = train, index, values
    names = names_of(pool)
    for index, values in maps.items():
        plain = flat(names[index])
        if plain not in found:
            found[plain] = pool, index, values
            continue
        samples, other, before = found[plain]
        if not same_image(samples[other], pool[index]):
            raise DataError(f"{names[index]} of the pool is another image than {plain} of the training data: rename it")
        if ((before != VOID) & (values != VOID) & (before != values)).any():
            raise DataError(f"{names[index]} has pixels that are labeled already, as another class: leave them out")
        found[plain] = samples, other, np.where(values != VOID, values, before)
    return found


def _plain(name: str, taken: Mapping[str, object]) -> str:
    plain = flat(name)
    if plain in taken:
        raise DataError(f"two training images are called {plain}: rename one")
    return plain


def flat(name: str) -> str:
    """The name of an image without folders, by which its file is called in a folder that is written."""
    return name.replace("/", "-")


def labels_of(sample: Mapping[str, Tensor | str]) -> np.ndarray:
    """The class (H, W) of each pixel of a sample, uint8; 255 where it is not known."""
    classes, valid = sample[Semantic.key], sample[Semantic.key + MASK]
    assert isinstance(classes, Tensor)
    assert isinstance(valid, Tensor)
    return np.where(valid.numpy(), classes.numpy(), VOID).astype(np.uint8)


def same_image(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two samples show the same image, as 8-bit files would hold them."""
    return torch.equal(_bytes(one["image"]), _bytes(other["image"]))


def _bytes(image: Tensor) -> Tensor:
    return (image * 255).round().byte() if image.is_floating_point() else image


def _copy_image(samples: Samples, index: int, place: Path) -> None:
    """Copy the file of an image; one that has none is written as PNG."""
    if files := files_of(samples, index):
        shutil.copyfile(files[0], place.with_name(place.name + files[0].suffix))
        return
    image: Any = samples[index]["image"]
    pixels = _bytes(image).movedim(0, -1).contiguous().numpy()
    Image.fromarray(pixels).save(place.with_name(place.name + ".png"))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it with ``images`` and ``labels``, which takes its place when the block ends without an error."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("images", "labels"):
        (part / name).mkdir(parents=True)
    try:
        yield part
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
