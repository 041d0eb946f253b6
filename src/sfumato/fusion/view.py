"""What is known of one frame: depth, camera, pose, colors and classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.fusion.classes import FLOOR
from sfumato.geometry import check_intrinsics
from sfumato.predictions import ClassPrediction, ValuePrediction, check_mask


@dataclass(frozen=True)
class View:
    """What is known of one frame.

    Args:
        depth: Depth along the optical axis (1, 1, H, W) in meters. Its image (1, 3, H, W) is the color.
        valid: Where it is known (1, H, W) bool.
        intrinsics: Camera matrix (3, 3), px.
        world_from_camera: Pose (4, 4), meters.
        classes: Classes (1, K, H, W) of the same pixels. Default: none.
    """

    depth: ValuePrediction
    valid: Tensor
    intrinsics: Tensor
    world_from_camera: Tensor
    classes: ClassPrediction | None = None

    def check(self) -> None:
        """Check sizes, units and variances.

        Raises:
            DataError: If something does not fit. The message says what.
        """
        mean, size = self.depth.mean, self.depth.event
        if len(size) != 2 or tuple(mean.shape[:2]) != (1, 1):
            raise DataError(f"depth has the shape {tuple(mean.shape)}, expected (1, 1, H, W)")
        if self.depth.unit != "m":
            raise DataError(f"depth is in {self.depth.unit!r}, expected meters: poses and voxels are in meters")
        check_mask(self.valid, (1, *size), "depth")
        if self.classes is not None and tuple(self.classes.event) != tuple(size):
            raise DataError(
                f"depth has {size[0]} × {size[1]} pixels and classes {' × '.join(map(str, self.classes.event))}: "
                "resize one of them"
            )
        check_intrinsics(self.intrinsics[None], (size[0], size[1]))
        for name, values in (("depth", mean), ("variance", self.depth.variance)):
            known = values[:, 0][self.valid]
            if not bool((known.isfinite() & (known > 0)).all()):
                found = known[~(known.isfinite() & (known > 0))][0].item()
                raise DataError(
                    f"a valid pixel has the {name} {found:g}, expected a finite number above 0: mark pixels without a "
                    "measurement as not valid"
                )


def pixel_table(view: View, classes: int) -> Tensor:
    """Rows of pixels: depth (−inf where not valid), precision, three colors, and of classes the sums of one frame."""
    valid = view.valid[0]
    mean, variance = view.depth.mean[0, 0], view.depth.variance[0, 0]
    rows = [mean.where(valid, -torch.inf), (1 / variance).where(valid, 0)]
    image = view.depth.image
    if image is not None or classes:
        rows += list(torch.zeros(3, *mean.shape).to(mean) if image is None else image[0].to(mean))
    if view.classes is not None:
        logs = view.classes.probs[0].clamp_min(FLOOR).log()
        rows += [torch.ones_like(mean), view.classes.epistemic[0], *logs]
    return torch.stack([row.flatten() for row in rows])
