"""Images that have nothing to do with streets, and street images with disturbances: worlds out of distribution."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image as Picture
from torch import Tensor

from sfumato.contracts import DataSet, Sample
from sfumato.data import DatasetView, Pictures
from sfumato.data.scenes import shift
from sfumato.targets import Image

SHIFTS, SEVERITY = ("darkness", "blur", "noise"), 3
MOST = 24  # images of a world


class Shifted(DatasetView):
    """A data set whose images are darkened, blurred or noisy."""

    def __init__(self, dataset: DataSet, kind: str) -> None:
        super().__init__(dataset)
        self.kind = kind

    def __getitem__(self, index: int) -> Sample:
        sample, noise = self.whole[index], torch.Generator().manual_seed(index)
        image = sample["image"]
        assert isinstance(image, Tensor)
        return {**sample, "image": shift(Image().to_float(image), self.kind, SEVERITY, generator=noise)}


def worlds(folder: Path) -> dict[str, DataSet]:
    """The sub-folders of a folder that :func:`gather` has made, each a world of images."""
    return {each.name: Pictures(each) for each in sorted(folder.iterdir()) if each.is_dir()}


def gather(data: Path, out: Path, size: tuple[int, int]) -> None:
    """Collect the foreign images of the folders ``sevenscenes``, ``middlebury``, ``bccd`` and ``flow`` as JPEG.

    Rooms are every fourth of the frames 420 to 499. Of each Middlebury pair and each pair of flow images the first
    image is taken. Blood cells are 24 of all images, evenly spread.
    """
    rooms = [data / "sevenscenes" / f"frame-{number:06d}.color.jpg" for number in range(420, 500, 4)]
    if not rooms[0].exists():
        rooms = sorted((data / "sevenscenes").rglob("frame-*.color.jpg"))[420:500:4]
    stereo = sorted((data / "middlebury").glob("*/im2.png"))
    cells = sorted((data / "bccd" / "JPEGImages").iterdir())
    chairs = [*sorted((data / "flow").glob("*img0.ppm")), data / "flow" / "RubberWhale1.png"]
    found = {"rooms": rooms, "stereo": stereo, "cells": cells[:: len(cells) // MOST][:MOST], "chairs": chairs}
    for name, files in found.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(files):
            with Picture.open(file) as picture:
                small = picture.convert("RGB").resize(size[::-1], Picture.Resampling.BILINEAR)
                small.save(out / name / f"{number:02d}.jpg", quality=95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sevenscenes, middlebury, bccd and flow")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    gather(options.data, options.out, (360, 480))


if __name__ == "__main__":
    main()
