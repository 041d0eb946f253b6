"""Fuse the frames of a depth camera into a room, and see whether its standard deviation is right.

    python recipes/fused_room.py --frames 24 --voxel 0.03 --out room

A room with balls in it is made, so its true surface is known. A camera turns in it and measures depth with noise that
grows with the square of the depth. Each frame also has an error that all its pixels share and that no variance states,
as an error of its pose. It appears as the epistemic part. The frames are written as 7-Scenes has them and fused.
`sfumato fuse room/frames` does the same.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfumato.fusion import fuse_frames, render
from sfumato.geometry import pixel_grid
from sfumato.report.fused import write_fused

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--frames", type=int, default=24)
parser.add_argument("--size", type=int, nargs=2, default=(120, 160), help="height and width, pixels")
parser.add_argument("--voxel", type=float, default=0.03, help="meters")
parser.add_argument("--offset", type=float, default=0.02, help="error that a frame has as a whole, meters")
parser.add_argument("--out", type=Path, default=Path("room"))
options = parser.parse_args()

height, width = options.size
focal = 0.9 * width
matrix = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
walls = torch.tensor([2.0, 1.3, 1.6])  # meters from the middle to the walls, to floor and ceiling
balls = ((0.5, 0.3, 1.0, 0.4), (-1.2, 0.4, 0.5, 0.3), (1.2, -0.2, -0.6, 0.3), (-0.6, 0.5, -1.0, 0.5))  # x, y, z, radius


def pose_of(turn):
    """The camera (4, 4) near the middle of the room, turned about the vertical axis."""
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = math.cos(turn)
    pose[0, 2], pose[2, 0] = math.sin(turn), -math.sin(turn)
    pose[:3, 3] = torch.tensor([0.2 * math.sin(3 * turn), 0.1 * math.cos(2 * turn), 0.0])
    return pose


def true_depth(pose):
    """Depth (H, W) of the walls and the balls, by intersection of rays."""
    x, y = pixel_grid((height, width), torch.zeros(()))
    rays = (
        torch.stack([(x - matrix[0, 2]) / focal, (y - matrix[1, 2]) / focal, torch.ones_like(x)], -1) @ pose[:3, :3].T
    )
    origin = pose[:3, 3]
    nearest = ((walls * rays.sign() - origin) / rays).amin(-1)
    for *center, radius in balls:
        from_ball = origin - torch.tensor(center)
        a, b = rays.square().sum(-1), 2 * (rays * from_ball).sum(-1)
        root = b.square() - 4 * a * (from_ball.square().sum() - radius**2)
        hit = ((-b - root.clamp_min(0).sqrt()) / (2 * a)).where(root > 0, torch.inf)
        nearest = torch.minimum(nearest, hit.where(hit > 0, torch.inf))
    return nearest


rng = torch.Generator().manual_seed(0)
folder = options.out / "frames"
folder.mkdir(parents=True, exist_ok=True)
np.savetxt(folder / "camera-intrinsics.txt", matrix.numpy())
for number in range(options.frames):
    pose = pose_of(2 * math.pi * number / options.frames)
    depth = true_depth(pose)
    sigma = 0.0012 + 0.0019 * (depth - 0.4).square()
    noisy = depth + sigma * torch.randn(depth.shape, generator=rng) + options.offset * torch.randn((), generator=rng)
    shade = (255 * (1 - depth / 4).clamp(0, 1)).byte().numpy()
    name = f"frame-{number:06d}"
    Image.fromarray(np.stack([shade] * 3, -1)).save(folder / f"{name}.color.png")
    Image.fromarray((1000 * noisy).round().numpy().astype(np.uint16)).save(folder / f"{name}.depth.png")
    np.savetxt(folder / f"{name}.pose.txt", pose.numpy())

fused = fuse_frames(folder, voxel=options.voxel)
mesh = write_fused(fused, options.out, views=2)
print(f"{len(mesh.faces)} triangles in {options.out / 'mesh.ply'}")

errors, stds = [], []
for number in range(options.frames):  # views between the frames
    pose = pose_of(2 * math.pi * (number + 0.5) / options.frames)
    view = render(fused.volume, matrix, pose, (height, width))
    errors.append((view.depth.mean[0, 0] - true_depth(pose))[view.valid[0]])
    stds.append(view.depth.std[0, 0][view.valid[0]])
error, std = torch.cat(errors), torch.cat(stds)
print(
    f"depth at other views: median error {1000 * error.abs().median():.1f} mm, standard deviation "
    f"{1000 * std.median():.1f} mm, {(error.abs() < 1.645 * std).float().mean():.1%} inside their 90 % interval"
)
