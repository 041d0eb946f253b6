"""What a camera would see of a volume: depth with its variances, colors and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.fusion.volume import FIRST, Volume
from sfumato.geometry import check_intrinsics, check_poses, pixel_grid
from sfumato.predictions import ClassPrediction, ValuePrediction

NEAR, FAR = 0.2, 10.0  # meters between which surfaces are searched
ROUNDS = 4  # of the search for the place where the distance is 0
CORNERS = torch.cartesian_prod(*3 * [torch.arange(2)])


@dataclass(frozen=True)
class Rendered:
    """A view of a volume.

    Args:
        depth: Depth along the optical axis (1, 1, H, W), meters; its image holds the colors. The mean is 0 and the
            variance 1 where nothing is seen.
        valid: Where a surface is seen (1, H, W) bool.
        normal: Normals of the surface (1, 3, H, W) in the axes of the camera, of length 1 where valid, else 0.
        classes: Classes (1, K, H, W), uniform where nothing is seen. None if the volume has none.
    """

    depth: ValuePrediction
    valid: Tensor
    normal: Tensor
    classes: ClassPrediction | None = None


@torch.no_grad()
def render(volume: Volume, intrinsics: Tensor, world_from_camera: Tensor, size: tuple[int, int]) -> Rendered:
    """Search along the ray of each pixel for the first surface that is seen from its front.

    Args:
        volume: The volume.
        intrinsics: Camera matrix (3, 3), px.
        world_from_camera: Pose (4, 4), meters.
        size: Height and width of the picture, px.

    Returns:
        The view. Its variances are those of the fused distance at the surface.

    Raises:
        DataError: If the camera or the pose is not one, or the volume is empty.

    Pitfall: Only between 0.2 m and 10 m of the camera.
    """
    if not len(volume.blocks):
        raise DataError("the volume is empty: add frames with valid depth first")
    check_intrinsics(intrinsics[None], size)
    pose = check_poses(world_from_camera).float()
    x, y = pixel_grid(size, torch.zeros(())).flatten(1)
    fx, skew, cx, fy, cy = (intrinsics[i, j].item() for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    down = (y - cy) / fy
    rays = torch.stack([(x - cx - skew * down) / fx, down, torch.ones_like(down)], 1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    pixels, before, after = _march(volume, origin, rays)
    depth, found = _crossing(volume, origin, rays[pixels], before, after)
    pixels, depth = pixels[found], depth[found]
    rows, _ = interpolated(volume, origin + depth[:, None] * rays[pixels], volume.rows)
    aleatoric, epistemic = volume.variances_of(rows)
    normal = _normals(volume, origin + depth[:, None] * rays[pixels]) @ pose[:3, :3]
    valid = torch.zeros(len(rays), dtype=torch.bool)
    valid[pixels] = True

    def spread(values: Tensor, missing: float) -> Tensor:
        """Values (V, …) of the pixels that see a surface, as a map (1, …, H, W)."""
        whole = values.new_full((len(rays), *values.shape[1:]), missing)
        whole[pixels] = values
        return whole.movedim(0, -1).reshape(1, *values.shape[1:], *size)

    prediction = ValuePrediction(
        spread(depth[:, None], 0.0), spread(aleatoric[:, None], 1.0), spread(epistemic[:, None], 0.0), "m",
        draws=volume.frames, image=spread(rows[:, FIRST : FIRST + 3], 0.0),
    )  # fmt: skip
    classes = None
    if volume.classes:
        probs, within = volume.class_moments(rows).pooled(independent=volume.independent)
        empty = torch.tensor(float(volume.classes)).log().item()
        classes = ClassPrediction(spread(probs, 1 / volume.classes), spread(within, empty), volume.frames)
    return Rendered(prediction, valid.reshape(1, *size), spread(normal, 0.0), classes)


def _march(volume: Volume, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rays (V,) that go through a surface from its front, and depths (V,) just before and just behind it.

    A ray goes half a block where there is none, else as far as the distance allows, at least half a voxel.
    """
    voxel, numbers = volume.voxel, torch.arange(len(rays))
    distances, known = volume.sums("distance"), volume.known
    depth = torch.full((len(rays),), NEAR)
    last, front = depth.clone(), torch.zeros(len(rays), dtype=torch.bool)
    hits = []
    lengths = rays.norm(dim=1)
    while len(numbers):
        ray = rays[numbers]
        voxels = volume.blocks.find(((origin + depth[:, None] * ray) / voxel).floor().long())
        exists = voxels >= 0
        voxels = voxels.where(exists, 0)
        measured = exists & known[voxels]
        distance = distances[voxels]
        through = measured & (distance <= 0)
        hit = through & front
        hits.append(torch.stack([numbers[hit].double(), last[hit].double(), depth[hit].double()]))
        step = (0.8 * distance).clamp(0.5 * voxel, 4 * voxel).where(measured, voxel)
        step = step.where(exists, volume.blocks.side / 2) / lengths[numbers]
        later = depth + step
        front = measured & (distance > 0)
        goes_on = ~through & (later < FAR)
        last = depth[goes_on]
        numbers, depth, front = numbers[goes_on], later[goes_on], front[goes_on]
    pixels, before, after = torch.cat(hits, 1)
    return pixels.long(), before.float(), after.float()


def _crossing(volume: Volume, origin: Tensor, rays: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The depth (V,) at which the interpolated distance is 0, and where it was found: regula falsi.

    An end that stays in place is given half the weight (Illinois), because distances are cut off at the truncation.
    """
    room = volume.voxel / rays.norm(dim=1)  # the march looked at the nearest voxel, not at the interpolated distance
    before, after = before - room, after + room
    (one, first), (other, second) = (_distance(volume, origin + d[:, None] * rays) for d in (before, after))
    found = first & second & (other < one)
    depth, last = before, first
    for number in range(ROUNDS):
        share = (one / (one - other).clamp_min(1e-9)).clamp(0, 1).where(found, 0)
        depth = before + share * (after - before)
        middle, fine = _distance(volume, origin + depth[:, None] * rays)
        found &= fine
        ahead = middle > 0
        again = (ahead == last) if number else torch.zeros_like(ahead)  # the other end has not moved for two rounds
        one, other = torch.where(ahead, middle, one / (1 + again)), torch.where(ahead, other / (1 + again), middle)
        before, after, last = torch.where(ahead, depth, before), torch.where(ahead, after, depth), ahead
    return depth, found & (depth > 0)


def _distance(volume: Volume, points: Tensor) -> tuple[Tensor, Tensor]:
    column = volume.sums("distance")[:, None]
    values, found = interpolated(volume, points, column.__getitem__)
    return values[:, 0], found


def interpolated(volume: Volume, points: Tensor, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What voxels hold at points (V, 3), trilinear over the known ones of the 8 nearest voxels, and whether any is.

    ``of`` gives it (V, R) for voxels (V,).
    """
    places = points / volume.voxel - 0.5
    low = places.floor()
    part = places - low
    total = points.new_zeros(len(points))
    rows: Tensor | None = None
    known = volume.known
    for corner in CORNERS:
        voxels = volume.blocks.find(low.long() + corner)
        weight = torch.where(corner.bool(), part, 1 - part).prod(1)
        weight = weight.where((voxels >= 0) & known[voxels.clamp_min(0)], 0)
        each = of(voxels.clamp_min(0)) * weight[:, None]
        rows = each if rows is None else rows.add_(each)
        total += weight
    assert rows is not None
    return rows / total.clamp_min(1e-6)[:, None], total > 1e-3


def _normals(volume: Volume, points: Tensor) -> Tensor:
    """Normals (V, 3) of length 1 at points of the surface, from the distances a voxel away."""
    parts = []
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = volume.voxel
        parts.append(_distance(volume, points + step)[0])  # it is 0 at the points themselves
    normal = torch.stack(parts, 1)
    return normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-9)
