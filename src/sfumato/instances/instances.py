"""The instances of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato.storage import Stored


@dataclass(frozen=True, repr=False)
class Instances(Stored):
    """The N instances of one image. No two of them share a pixel.

    Args:
        ids: (H, W) int64; 0 where there is no instance, n + 1 at the pixels of instance n.
        classes: Class of each instance (N,), int64.
        scores: Score of each instance (N,) in [0, 1], larger where it is more certainly an instance of its class.
        centers: Center of each instance (N, 2), x and y, px.
        aleatoric: Mean aleatoric variance of the vectors of its pixels (N,), px².
        epistemic: Mean epistemic variance of the vectors of its pixels (N,), px².
    """

    ids: Tensor
    classes: Tensor
    scores: Tensor
    centers: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    def __repr__(self) -> str:
        return f"Instances({len(self)} in {' × '.join(map(str, self.ids.shape))})"

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def masks(self) -> Tensor:
        """The pixels of each instance (N, H, W), bool."""
        return self.ids == torch.arange(1, len(self) + 1, device=self.ids.device)[:, None, None]

    @property
    def outline(self) -> Tensor:
        """The outermost pixels of each instance (H, W), bool: those with a neighbor outside of it."""
        padded = pad(self.ids[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0].to(self.ids)
        beside = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
        return torch.stack([other != self.ids for other in beside]).any(0) & (self.ids > 0)

    @property
    def total(self) -> Tensor:
        """``aleatoric + epistemic`` (N,), px²."""
        return self.aleatoric + self.epistemic

    @property
    def uncertainty(self) -> Tensor:
        """Standard deviation of the vectors of each instance (N,), px."""
        return self.total.sqrt()

    def paint_labels(self, label: Tensor) -> Tensor:
        """Labels (H, W) with the class of the instance at each pixel of an instance."""
        return torch.cat([self.classes.new_zeros(1), self.classes])[self.ids].where(self.ids > 0, label)
