"""``sfumato predict``."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


def predict(
    run: Path,
    inputs: list[str],
    out: Path = Path("predictions"),
    samples: int | None = None,
    seed: int = 0,
    tile: int = 0,
) -> None:
    """Predict images: label or value, probability, total, aleatoric and epistemic maps as PNG, and the raw arrays.

    Args:
        run: folder that `fit` left.
        inputs: image files, folders, globs or videos; frames of a video are numbered.
        out: folder for NAME_label.png, NAME_total.png, … and NAME.safetensors, and NAME_sets of a run with a
            guarantee; is made. Of several tasks NAME_TASK_label.png and so on.
        samples: how many outputs MC dropout draws.
        seed: of the draws.
        tile: predict large images on overlapping squares of this side, pixels, to save memory; a multiple of 128 suits
            the networks of this package; 0 for whole images.
    """
    from rich.progress import track

    from sfumato.report import save_maps, save_sizes
    from sfumato.training import Run
    from sfumato.training.evaluation import predict_image

    opened = Run.open(run)
    files = _files(inputs)
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for file in track(files, description="predict", disable=len(files) < 2):
        for name, image in _frames(file):
            prediction = predict_image(opened, image, samples=samples, seed=seed, tile=tile)
            prediction.save(out / f"{name}.safetensors")
            for task, view in opened.per_task.items():
                found, stem = (prediction[task], f"{name}_{task}") if opened.plan.tasks else (prediction, name)
                save_maps(found, view.task, out, stem)
                if view.conformal is not None:
                    region = view.conformal(found)
                    region.save(out / f"{stem}_sets.safetensors")
                    save_sizes(region, out / f"{stem}_sets.png")
            written += 1
    print(f"{written} predictions in {out}")


def _files(inputs: list[str]) -> list[Path]:
    """Every image and video that the inputs name, in order.

    Raises:
        FileNotFoundError: if an input names none.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        candidates = sorted(path.iterdir()) if path.is_dir() else [Path(p) for p in sorted(glob.glob(given))]  # noqa: PTH207
        files = [p for p in candidates if p.suffix.lower() in IMAGES | VIDEOS]
        if not files:
            raise FileNotFoundError(
                f"{given} names no image: expected a file, folder or glob of {sorted(IMAGES | VIDEOS)}"
            )
        found += files
    return found


def _frames(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and images (3, H, W) of a file; more than one where it moves."""
    from sfumato.data.images import read_image

    if file.suffix.lower() in VIDEOS:
        yield from ((f"{file.stem}_{n:06d}", frame) for n, frame in enumerate(_video(file)))
    else:
        yield file.stem, read_image(file)


def _video(file: Path) -> Iterator[Tensor]:
    import torch

    try:
        import cv2
    except ImportError as error:
        raise ValueError(f"{file} is a video: pip install opencv-python-headless to read it") from error
    capture: Any = cv2.VideoCapture(str(file))
    read, frame = capture.read()
    if not read:
        raise ValueError(f"{file} holds no frame that can be read: convert it, or give a folder of images")
    while read:
        yield torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1).float() / 255
        read, frame = capture.read()
