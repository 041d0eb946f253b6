"""Files in the formats of other programs: disparity as .pfm and depth in meters, optical flow as .flo and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.contracts import Task
from sfumato.data.motion_files import write_flo, write_pfm
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import disparity_to_depth
from sfumato.predictions import ValuePrediction
from sfumato.report.vectors import draw_vectors
from sfumato.sections import Json
from sfumato.serving.map_file import MapFile
from sfumato.targets import Image as ImageKind
from sfumato.tasks import Disparity, Flow

METER = 256  # of a 16-bit depth, as KITTI has it
FARTHEST = 255.0  # meters
LEVEL = 0.9  # of the interval of depth
DRAWN = 1 << 20  # pixels of a picture of vectors
Opened = Callable[[str], Path]


@dataclass(frozen=True)
class Stereo:
    """The calibration of a rectified stereo pair, for depth in meters.

    Args:
        focal: Focal length in pixels of the images, > 0.
        baseline: Distance of the two cameras, meters, > 0.

    Raises:
        ConfigError: If one of them is not a positive number.
    """

    focal: float
    baseline: float

    def __post_init__(self) -> None:
        if not (0 < self.focal < math.inf and 0 < self.baseline < math.inf):
            raise ConfigError(
                f"the focal length is {self.focal} px and the baseline {self.baseline} m: expected two numbers above 0"
            )

    def check(self, width: int) -> None:
        """Check that the focal length can be that of images of this width, pixels.

        Raises:
            DataError: If the view would be narrower than 3° or wider than 170°.
        """
        angle = 2 * math.degrees(math.atan2(0.5 * width, self.focal))
        if not 3 <= angle <= 170:
            raise DataError(
                f"a focal length of {self.focal:g} px gives images of {width} pixels a view of {angle:.3g}°: is it "
                "that of images of another size?"
            )


def check_stereo(tasks: Mapping[str, Task]) -> None:
    """Check that depth can be computed.

    Raises:
        ConfigError: If no task is disparity.
    """
    if not any(isinstance(task, Disparity) for task in tasks.values()):
        raise ConfigError(
            f"a focal length and a baseline make depth of disparity, but the run is of {', '.join(tasks)}"
        )


@singledispatch
def write_formats(task: object, file: MapFile, first: ValuePrediction, image: Tensor, opened: Opened) -> None:
    """Write what other programs read of a task. There is nothing for most tasks.

    Args:
        task: The task.
        file: The whole prediction.
        first: Its first rows, for the unit and the kind of the distribution.
        image: The first input (1, 3, H, W).
        opened: Gives the path for a file by the end of its name.
    """


@write_formats.register
def _(task: Disparity, file: MapFile, first: ValuePrediction, image: Tensor, opened: Opened) -> None:
    write_pfm(opened(".pfm"), np.array(file.array("mean")[0, 0], np.float32))


@write_formats.register
def _(task: Flow, file: MapFile, first: ValuePrediction, image: Tensor, opened: Opened) -> None:
    write_flo(opened(".flo"), torch.from_numpy(np.array(file.array("mean")[0], np.float32)))
    step = math.ceil(math.sqrt(image.shape[-2] * image.shape[-1] / DRAWN))
    parts: dict[str, Tensor] = {}
    for name, power in (("mean", 1), ("aleatoric_variance", 2), ("epistemic_variance", 2), ("aleatoric_correlation", 0),
                        ("epistemic_correlation", 0)):  # fmt: skip
        if getattr(first, name) is not None:
            parts[name] = torch.from_numpy(np.array(file.array(name)[..., ::step, ::step])) / step**power
    shown = replace(first, **parts, image=ImageKind().to_float(image[..., ::step, ::step]), novelty=None)
    Image.fromarray(draw_vectors(shown)).save(opened("_vectors.png"), "PNG", compress_level=1)


class DepthMaps:
    """Depth and the ends of its interval as 16-bit images, filled some rows at a time.

    Args:
        stereo: The calibration.
        size: Height and width of the images, pixels.
    """

    def __init__(self, stereo: Stereo, size: tuple[int, int]) -> None:
        stereo.check(size[1])
        self.stereo = stereo
        self.pixels = {name: np.zeros(size, np.uint16) for name in ("depth", "depth_near", "depth_far")}

    def add(self, rows: slice, disparity: ValuePrediction) -> None:
        """Depths of some rows of disparity."""
        matrix = torch.diag(torch.tensor([self.stereo.focal, self.stereo.focal, 1.0]))[None]
        found = disparity_to_depth(disparity, matrix, self.stereo.baseline, LEVEL, FARTHEST)
        for name, values in zip(self.pixels, (found.depth, found.near, found.far)):
            self.pixels[name][rows] = (values[0, 0] * METER).round().clamp_min(1).cpu().numpy()

    def write(self, opened: Opened, end: str) -> dict[str, Json]:
        """Write the files. Returns how to read each, by the end of its name."""
        entries: dict[str, Json] = {}
        for name, pixels in self.pixels.items():
            Image.fromarray(pixels).save(opened(f"{end}_{name}.png"), "PNG", compress_level=1)
            entries[f"{end}_{name}.png"] = {
                "task": Disparity.key, "quantity": name, "unit": "m", "scale": 1 / METER, "offset": 0.0, "level": LEVEL,
                "farthest": FARTHEST,
            }  # fmt: skip
        return entries
