"""Render the pictures of cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.data.scenes.lens import Lens
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.shade import Hits, colors
from sfumato.data.scenes.world import World

# Once a large block has been freed, glibc keeps such blocks and does not return them to the system. Returning them
# costs a thousand page faults, or a tenth of the time, for every scene with three views.
np.empty(1 << 24, np.uint8)


@dataclass(frozen=True)
class View:
    """The picture of a camera.

    Args:
        image: (3, H, W) in [0, 1].
        depth: Depth along the optical axis (H, W), meters; ``inf`` in the sky.
        index: The index of the solid (H, W), −1 in the sky.
        points: World points (3, H, W), meters; in the sky the position of the camera.
        sight: The solids in the coordinates of the camera.
    """

    image: np.ndarray
    depth: np.ndarray
    index: np.ndarray
    points: np.ndarray
    sight: Sight


def render(world: World, lenses: Sequence[Lens], size: tuple[int, int]) -> list[View]:
    """The picture of each camera. The pixels of all pictures are shaded together, which is faster."""
    sights = [Sight(world.bodies, lens) for lens in lenses]
    depth, index = (np.stack(maps) for maps in zip(*(sight.first(size) for sight in sights)))
    rays = np.stack([_rays(lens, size) for lens in lenses], 1)
    origins = np.stack([lens.origin for lens in lenses], 1).astype(np.float32)[:, :, None, None]
    points = origins + rays * np.where(index < 0, np.float32(0), depth)
    order = np.argsort(index.ravel(), kind="stable")  # the sky first, then solid by solid
    flat = (array.reshape(*array.shape[: array.ndim - 3], -1) for array in (points, rays, depth, index))
    hits = Hits(*(array.take(order, -1) for array in flat), pixel=float(lenses[0].axes[0, 0]))
    color, lit = np.empty((3, order.size), np.float32), np.empty(order.size, bool)
    for channel, values in zip((*color, lit), colors(world, hits)):
        channel[order] = values
    image = np.sqrt(np.clip(color, 0, 1)).reshape(3, *index.shape)
    image = _soften(image, 2 * index + lit.reshape(index.shape))
    return [View(image[:, i], depth[i], index[i], points[:, i], sight) for i, sight in enumerate(sights)]


def _rays(lens: Lens, size: tuple[int, int]) -> np.ndarray:
    """Rays through all pixels (3, H, W), of the length that goes 1 m along the optical axis."""
    a, b, c = lens.axes.T.astype(np.float32)[:, :, None, None]
    u, v = np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32)[:, None]
    return a * u + (b * v + c)


def _soften(image: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Antialiasing: a small blur of the pixels (3, V, H, W) whose key (V, H, W) differs from that of a neighbor."""
    edge = np.zeros(key.shape, bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        differs = key[one] != key[other]
        edge[one] |= differs
        edge[other] |= differs
    wide = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    wide = np.float32(0.6) * wide[:, :, 1:-1] + np.float32(0.2) * (wide[:, :, :-2] + wide[:, :, 2:])
    blurred = np.float32(0.6) * wide[..., 1:-1] + np.float32(0.2) * (wide[..., :-2] + wide[..., 2:])
    np.copyto(image, blurred, where=edge)
    return image
