"""The data set: generated pairs of images with a known disparity."""

from typing import ClassVar

import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.errors import ConfigError
from toy_stereo.task import ToyDisparity

COUNTS = {"train": 12, "val": 12}


class ToyPairs(Dataset[Sample]):
    """Random textures whose left view is the right view, moved by a whole number of pixels.

    Args:
        root: Not used.
        split: ``train`` or ``val``.
        size: Height and width, px. Default 24 × 32.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image", "right")
    tasks: ClassVar[dict[str, ToyDisparity]] = {"toy_disparity": ToyDisparity()}
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    def __init__(self, root: str = "", split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in COUNTS:
            raise ConfigError(f"split is {split!r}, expected train or val")
        self.size, self.split = size or (24, 32), split
        self.names = [f"{split}-{index}" for index in range(COUNTS[split])]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        height, width = self.size
        generator = torch.Generator().manual_seed(1000 * (self.split == "val") + index)
        coarse = torch.rand(1, 3, height // 2, (width + 8) // 2, generator=generator)
        wide = interpolate(coarse, (height, width + 8), mode="bilinear")[0]
        disparity = int(torch.randint(1, 4, (), generator=generator))
        right, left = wide[..., :width], wide[..., disparity : disparity + width]
        image, other = ((view * 255).round().byte() for view in (right, left))  # left view: content moved to the right
        return {
            "name": self.names[index],
            "image": image,
            "right": other,
            "toy_disparity": torch.full((1, height, width), float(disparity)),
            "toy_disparity_valid": torch.arange(width).expand(height, width) >= disparity,
        }
