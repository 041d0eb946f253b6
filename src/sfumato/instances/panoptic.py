"""Class and instance of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.instances.instances import Instances
from sfumato.storage import Stored


@dataclass(frozen=True, repr=False)
class PanopticMaps(Stored):
    """Class and instance of every pixel of B images, as the scores of instances read them.

    Args:
        classes: Class of each pixel (B, H, W), int64.
        ids: Instance of each pixel (B, H, W), int64; 0 for none.

    Raises:
        DataError: If the two have other shapes than one (B, H, W).
    """

    classes: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        if self.classes.shape != self.ids.shape or self.ids.ndim != 3:
            raise DataError(
                f"classes {tuple(self.classes.shape)} and ids {tuple(self.ids.shape)}: expected one shape (B, H, W)"
            )

    def __repr__(self) -> str:
        return f"PanopticMaps({' × '.join(map(str, self.ids.shape))})"

    @classmethod
    def of(cls, found: Sequence[Instances], label: Tensor) -> Self:
        """The maps of predicted instances over predicted labels (B, H, W).

        A pixel of an instance gets the class of its instance.

        Args:
            found: The instances of each image.
            label: Predicted class of each pixel (B, H, W).

        Raises:
            DataError: If the numbers of images differ, or there is no image.
        """
        if len(found) != len(label) or not found:
            raise DataError(f"instances of {len(found)} images, labels of {len(label)}: expected the same number, > 0")
        painted = [each.paint_labels(image) for each, image in zip(found, label.to(found[0].ids.device))]
        return cls(torch.stack(painted), torch.stack([each.ids for each in found]))
