"""What can be learned from other pictures at all: the depth that matches best, and whether the true depth costs least.

    python benchmarks/selfsup_limits.py

No network. For each pixel of a few scenes the best of 60 depths from 2 to 79 m by the photometric error, averaged over
5 × 5 pixels, is compared with the true depth: for the right view, and for the pictures before and after, of ``Scenes``
and of the scenes of benchmarks/selfsup.py, whose camera moves further. Then the loss of the objective at depths that
are the true ones times a factor, and at the true depths with and without the points that nearer points hide. The last
line is JSON, and results/selfsup_limits.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from selfsup_data import Travels
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import default_collate

from sfumato.data import Scenes
from sfumato.geometry import camera_from_camera, hidden, project, sample_at, transform, unproject
from sfumato.likelihoods import Gaussian
from sfumato.objectives import Reprojection
from sfumato.objectives.photometric import photometric_error
from sfumato.tasks import Depth

HERE = Path(__file__).parent
FARTHEST = 79.0
FACTORS = (0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0)
TASK = Depth(1.0, 80.0)
Batch = Mapping[str, Tensor]


def placed(depth: Tensor, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """Where another picture shows the points at a depth (B, 1, H, W), and their depth there."""
    motion = camera_from_camera(batch["world_from_camera"], batch[f"world_from_{name}"])
    return project(transform(unproject(depth, batch["intrinsics"]), motion), batch["intrinsics"])


def matched(batch: Batch, sources: tuple[str, ...]) -> dict[str, float]:
    """Relative errors of the depth that matches best."""
    true, valid = batch["depth_true"][:, 0], batch["depth_valid"] & (batch["depth_true"][:, 0] < FARTHEST)
    best, found = torch.full_like(true, torch.inf), torch.zeros_like(true)
    for depth in torch.logspace(0.3, 1.9, 60):
        errors = []
        for name in sources:
            warped, inside = sample_at(batch[name], placed(depth.expand_as(true)[:, None], batch, name)[0])
            errors.append(photometric_error(batch["image"], warped).where(inside, 1.0))
        error = avg_pool2d(torch.stack(errors).amin(0)[:, None], 5, 1, 2)[:, 0]
        found, best = depth.where(error < best, found), torch.minimum(error, best)
    relative = ((found - true).abs() / true)[valid]
    return {"median": float(relative.median()), "wrong_by_a_quarter": float((relative > 0.25).float().mean())}


class Says(nn.Module):
    """A network that says the same depth whatever it sees."""

    def __init__(self, depth: Tensor) -> None:
        super().__init__()
        self.depth = depth

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logarithm of the depth, and a small scale."""
        return torch.cat([self.depth.clamp(1, 80).log(), torch.full_like(self.depth, -4)], 1)


def losses(batch: Batch) -> dict[str, float]:
    """The photometric loss at the true depths times factors, at the finest level."""
    true = batch["depth_true"].where(batch["depth_valid"][:, None], FARTHEST)
    objective = Reprojection(TASK, Gaussian.for_task(TASK), levels=1)
    return {str(factor): float(objective(Says(factor * true), batch)[0]["photometric"]) for factor in FACTORS}


def occlusion(batch: Batch) -> dict[str, float]:
    """The share of pixels that the right camera does not see behind nearer ones, and how the z-buffer finds them."""
    true = batch["depth_true"].where(batch["depth_valid"][:, None], 1000.0)
    pixels, depth = placed(true, batch, "right")
    found = hidden(pixels, depth) & batch["depth_valid"]
    behind = batch["disparity_occluded"] & (pixels[:, 0] >= 0)
    error = photometric_error(batch["image"], sample_at(batch["right"], pixels)[0])
    inside = batch["depth_valid"] & (pixels[:, 0] >= 0)
    return {
        "hidden": float(behind.float().mean()),
        "recall": float((found & behind).sum() / behind.sum()),
        "precision": float((found & behind).sum() / found.sum()),
        "error_of_all": float(error[inside].mean()),
        "error_without_found": float(error[inside & ~found].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    size, count = tuple(options.size), options.scenes
    worlds = {"scenes": Scenes(count, size, 1, views=("right", "next", "previous")), "travels": Travels(count, size, 1)}
    found: dict[str, Any] = {"scenes_used": count, "size": size}
    with torch.no_grad():
        for name, world in worlds.items():
            samples = (world[index] for index in range(count))
            batch = default_collate([{key: value for key, value in each.items() if key != "name"} for each in samples])
            found[name] = {
                "right": matched(batch, ("right",)),
                "before_and_after": matched(batch, ("previous", "next")),
                "loss_by_factor": losses(batch),
            }
            if "disparity_occluded" in batch:
                found[name]["occlusion"] = occlusion(batch)
    (HERE / "results" / "selfsup_limits.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
