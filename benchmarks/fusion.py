"""Depth of a room from many frames, at views that were left out: how it is weighted, and how sure it is.

    python benchmarks/fusion.py --data SEVENSCENES --pictures FOLDER     # open3d and opencv are optional

Blocks of 25 frames alternate: of one, every fifth frame is fused; of the next one, three frames in its middle are left
out, at least seven frames away. One factor for all variances is fitted on the views of the first half of the video, and
all numbers are of those of the second half, pixels that all methods see. Targets are the depths that the camera
measured there, so each predicted variance is that of the surface plus that of a measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.calibration import VarianceScaling
from sfumato.data import SevenScenes
from sfumato.fusion import View, Volume, depth_camera, mesh_of, render, write_ply
from sfumato.geometry import transform, unproject
from sfumato.metrics import ValueScores
from sfumato.predictions import ValuePrediction

RESULT = Path(__file__).parent / "results" / "fusion.json"
BLOCK, EVERY, HELD = 25, 5, (7, 12, 17)
STEP = 4  # every fourth pixel of a view is rendered and scored
SIGMA, GROWTH = 0.01, 0.0019  # m, of unit weights; 1/m, of weights 1/Z⁴: σ = GROWTH Z²
FAR_OFF = 0.05  # m


def unit_noise(depth: Tensor, valid: Tensor) -> tuple[ValuePrediction, Tensor]:
    """The same variance for each pixel."""
    variance = torch.full_like(depth, SIGMA**2)
    return ValuePrediction(depth, variance, torch.zeros_like(depth), "m"), valid


def quadratic_noise(depth: Tensor, valid: Tensor) -> tuple[ValuePrediction, Tensor]:
    """A standard deviation that grows with the square of the depth."""
    variance = (GROWTH * depth.square()).square().where(valid[:, None], 1.0)
    return ValuePrediction(depth, variance, torch.zeros_like(depth), "m"), valid


Noise = Callable[[Tensor, Tensor], tuple[ValuePrediction, Tensor]]


@dataclass(frozen=True)
class Row:
    """One way to fuse and to predict: the noise of a frame, the choices of the volume, the parts of the variance."""

    noise: Noise
    choices: dict[str, Any]
    epistemic: bool = True


ROWS = {
    "unit weights": Row(unit_noise, {}),
    "1/Z^4": Row(quadratic_noise, {}),
    "ours": Row(depth_camera, {}),
    "ours, without the epistemic part": Row(depth_camera, {}, epistemic=False),
    "ours, frames taken as independent": Row(depth_camera, {"independent": True}),
    "ours, gate 0.999": Row(depth_camera, {"gate": 0.999}),
}


def chosen(count: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the frames that are fused, of the views to fit the factor on, and of those to score."""
    blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    fused = [number for block in blocks[::2] for number in block[::EVERY]]
    held = [block[place] for block in blocks[1::2] for place in HELD if place < len(block)]
    half = len(held) // 2
    return fused, held[:half], held[half:]


def seen_part(sample: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Every fourth pixel of the depth (1, 1, h, w), its mask (1, h, w), and the camera matrix of these pixels."""
    matrix = sample["intrinsics"].clone()
    matrix[:2] /= STEP
    return sample["depth"][None, :, ::STEP, ::STEP], sample["depth_valid"][None, ::STEP, ::STEP], matrix


def fuse(frames: SevenScenes, numbers: list[int], row: Row) -> tuple[Volume, float]:
    """The volume of some frames, and the frames that were fused in a second."""
    volume, seconds = Volume(**row.choices), 0.0
    for number in numbers:
        sample = frames[number]
        start = time.process_time()
        depth, valid = row.noise(sample["depth"][None], sample["depth_valid"][None])
        volume.add(View(depth, valid, sample["intrinsics"], sample["world_from_camera"]))
        seconds += time.process_time() - start
    return volume, len(numbers) / seconds


def predicted(volume: Volume, row: Row, sample: dict[str, Any]) -> tuple[ValuePrediction, Tensor]:
    """The depth that a camera would measure at a view (1, 1, h, w), and where the volume has a surface."""
    depth, _, matrix = seen_part(sample)
    view = render(volume, matrix, sample["world_from_camera"], (depth.shape[-2], depth.shape[-1]))
    noise, _ = row.noise(view.depth.mean, view.valid)
    within = view.depth.aleatoric_variance + noise.aleatoric_variance
    between = view.depth.epistemic_variance * row.epistemic
    return replace(view.depth, aleatoric_variance=within, epistemic_variance=between, image=None), view.valid


def open3d_depths(frames: SevenScenes, numbers: list[int], views: list[int]) -> tuple[list[Tensor], float]:
    """Depths (1, 1, h, w) of views, 0 where there is none, of the mesh of Open3D; and frames per second."""
    import open3d as o3d

    core = o3d.core
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"), (core.float32, core.float32), ((1), (1)), 0.02, 8, 50_000, core.Device("CPU:0")
    )
    seconds = 0.0
    for number in numbers:
        sample = frames[number]
        depth = o3d.t.geometry.Image(core.Tensor(known_depth(sample)))
        matrix, pose = (core.Tensor(each.double().numpy()) for each in camera_of(sample))
        start = time.process_time()
        blocks = grid.compute_unique_block_coordinates(depth, matrix, pose, 1.0, 10.0, 4.0)
        grid.integrate(blocks, depth, matrix, pose, 1.0, 10.0, 4.0)
        seconds += time.process_time() - start
    scene = o3d.t.geometry.RaycastingScene()  # exact intersections with the mesh; its own ray cast is biased by a voxel
    scene.add_triangles(grid.extract_triangle_mesh(1.0))
    found = []
    for number in views:
        sample = frames[number]
        depth, _, small = seen_part(sample)
        pose, ones = sample["world_from_camera"].float(), torch.ones(1, 1, *depth.shape[-2:])
        points = transform(unproject(ones, small[None]), pose[None])[0].movedim(0, -1)  # at depth 1
        rays = torch.cat([pose[:3, 3].expand_as(points), points - pose[:3, 3]], -1)
        hit = torch.from_numpy(scene.cast_rays(core.Tensor(rays.contiguous().numpy()))["t_hit"].numpy().copy())
        found.append(hit.where(hit.isfinite(), 0)[None, None])
    return found, len(numbers) / seconds


def opencv_depths(frames: SevenScenes, numbers: list[int], views: list[int]) -> tuple[list[Tensor], float]:
    """The same by the ray cast of the hashed TSDF volume of OpenCV 5."""
    import cv2

    settings = cv2.VolumeSettings(cv2.VolumeType_HashTSDF)
    settings.setVoxelSize(0.02)
    settings.setTsdfTruncateDistance(0.08)
    settings.setDepthFactor(1.0)
    settings.setMaxDepth(10.0)
    settings.setCameraIntegrateIntrinsics(frames[0]["intrinsics"].numpy())
    settings.setIntegrateHeight(480), settings.setIntegrateWidth(640)
    _, _, small = seen_part(frames[0])
    settings.setCameraRaycastIntrinsics(small.numpy())
    settings.setRaycastHeight(480 // STEP), settings.setRaycastWidth(640 // STEP)
    volume, seconds = cv2.Volume(cv2.VolumeType_HashTSDF, settings), 0.0
    for number in numbers:
        sample = frames[number]
        pose = sample["world_from_camera"].numpy().astype(np.float32)
        depth = known_depth(sample)
        start = time.process_time()
        volume.integrate(depth, pose)
        seconds += time.process_time() - start
    found = []
    for number in views:
        pose = frames[number]["world_from_camera"].numpy().astype(np.float32)
        points = volume.raycast(pose)[0]
        depth = torch.from_numpy(np.array(points))[..., 2].nan_to_num(0.0)
        found.append(depth[None, None].clamp_min(0))
    return found, len(numbers) / seconds


def known_depth(sample: dict[str, Any]) -> np.ndarray:
    """The depth (H, W) of a frame, 0 where it is not valid."""
    return np.ascontiguousarray(sample["depth"][0].where(sample["depth_valid"], 0).numpy())


def camera_of(sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The camera matrix, and the pose as camera from world."""
    return sample["intrinsics"], torch.linalg.inv(sample["world_from_camera"].double())


def absolute_ause(error: Tensor, std: Tensor) -> float:
    """The area between the mean absolute error of the surest pixels and that of the best ones, per share left out."""
    steps = torch.arange(1, len(error) + 1, dtype=torch.float64)
    by_std, best = (error.double()[key.argsort()].cumsum(0) / steps for key in (std, error))
    return float((by_std - best).mean())


def scored(held: Iterator[tuple[ValuePrediction, Tensor, Tensor]]) -> dict[str, float]:
    """Scores of predictions, targets (1, 1, h, w) and masks (1, h, w)."""
    scores, errors, stds = ValueScores(unit="m"), [], []
    for prediction, target, valid in held:
        scores.update(prediction, target, valid)
        errors.append((prediction.mean - target)[:, 0][valid].abs())
        stds.append(prediction.std[:, 0][valid])
    error, std = torch.cat(errors), torch.cat(stds)
    known = scores.compute()
    found = {name: float(known[name]) for name in ("nll", "coverage90", "rmse", "pixels")}
    near = error < FAR_OFF
    return found | {
        "mean_error": error.mean().item(), "median_error": error.median().item(),
        "far_off": 1 - near.double().mean().item(), "ause": absolute_ause(error, std),
        "median_std": std.median().item(),
    }  # fmt: skip


def main() -> None:
    """Fuse in each way, and score at the same pixels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    frames = SevenScenes(options.data, "all")
    fused, fitting, scoring = chosen(len(frames))
    views = fitting + scoring
    found: dict[str, list[tuple[ValuePrediction, Tensor]]] = {}
    speed: dict[str, float] = {}
    volumes: dict[str, Volume] = {}
    for name, row in ROWS.items():
        if row.epistemic:
            volumes[name], speed[name] = fuse(frames, fused, row)
        else:
            volumes[name] = volumes["ours"]
        found[name] = [predicted(volumes[name], row, frames[number]) for number in views]
        print(name, speed.get(name), flush=True)
    for name, peer in (("Open3D", open3d_depths), ("OpenCV", opencv_depths)):
        try:
            depths, speed[name] = peer(frames, fused, views)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        zero = torch.zeros_like(depths[0])
        found[name] = [(ValuePrediction(each, zero + SIGMA**2, zero, "m"), each[:, 0] > 0) for each in depths]
        print(name, speed[name], flush=True)
    targets = [seen_part(frames[number])[:2] for number in views]
    seen = [
        torch.stack([each[place][1] for each in found.values()]).all(0) & valid
        for place, (_, valid) in enumerate(targets)
    ]
    result: dict[str, Any] = {
        "frames": len(fused), "views_to_fit": len(fitting), "views": len(scoring), "voxel": 0.02,
        "machine": {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "seen_by_all": float(torch.stack([s.double().mean() / v.double().mean() for s, (_, v) in zip(seen, targets)])
                             .mean()),
        "rows": {},
    }  # fmt: skip
    for name, predictions in found.items():
        held = [(p, target, mask) for (p, _), (target, _), mask in zip(predictions, targets, seen)]
        fit = VarianceScaling.fit(iter(held[: len(fitting)]))
        row = scored(iter(held[len(fitting) :]))
        scaled = scored((fit(p), target, mask) for p, target, mask in held[len(fitting) :])
        row |= {"scaled_nll": scaled["nll"], "scaled_coverage90": scaled["coverage90"]}
        row |= {"factor": math.sqrt(float(fit.factor)), "frames_per_second": speed.get(name, speed["ours"])}
        row["own_seen"] = float(
            torch.stack([(p[1] & v).sum() / v.sum() for p, (_, v) in zip(predictions, targets)]).mean()
        )
        result["rows"][name] = row
        print(name, json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        write_ply(mesh_of(volumes["ours"]), options.pictures / "mesh.ply")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
