"""What cameras see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.data.scenes.lens import Lens
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.shade import Hits, colors
from sfumato.data.scenes.world import World

# The first large block that is freed teaches glibc to keep such blocks rather than to return them to the system,
# which would cost a thousand page faults, or a tenth of the time, for every scene with three views.
np.empty(1 << 24, np.uint8)


@dataclass(frozen=True)
class View:
    """What a camera sees.

    Args:
        image: (3, H, W) in [0, 1].
        depth: along the optical axis (H, W) meters, ``inf`` in the sky.
        index: of the solid (H, W), −1 in the sky.
        points: of the world (3, H, W) meters; in the sky, where the camera stands.
        sight: the world as the camera sees it.
    """

    image: np.ndarray
    depth: np.ndarray
    index: np.ndarray
    points: np.ndarray
    sight: Sight


def render(world: World, lenses: Sequence[Lens], size: tuple[int, int]) -> list[View]:
    """What each camera sees; pixels of all of them are shaded together, which is faster."""
    sights = [Sight(world.bodies, lens) for lens in lenses]
    depth, index = (np.stack(maps) for maps in zip(*(sight.first(size) for sight in sights)))
    rays = np.stack([_rays(lens, size) for lens in lenses], 1)
    origins = np.stack([lens.origin for lens in lenses], 1).astype(np.float32)[:, :, None, None]
    points = origins + rays * np.where(index < 0, np.float32(0), depth)
    order = np.argsort(index.ravel(), kind="stable")  # solid by solid, the sky first
    flat = (array.reshape(*array.shape[: array.ndim - 3], -1) for array in (points, rays, depth, index))
    hits = Hits(*(array.take(order, -1) for array in flat), pixel=float(lenses[0].axes[0, 0]))
    color, lit = np.empty((3, order.size), np.float32), np.empty(order.size, bool)
    for channel, values in zip((*color, lit), colors(world, hits)):
        channel[order] = values
    image = np.sqrt(np.clip(color, 0, 1)).reshape(3, *index.shape)
    image = _soften(image, 2 * index + lit.reshape(index.shape))
    return [View(image[:, i], depth[i], index[i], points[:, i], sight) for i, sight in enumerate(sights)]


def _rays(lens: Lens, size: tuple[int, int]) -> np.ndarray:
    """Through all pixels (3, H, W), as long as it takes to advance 1 m along the optical axis."""
    a, b, c = lens.axes.T.astype(np.float32)[:, :, None, None]
    u, v = np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32)[:, None]
    return a * u + (b * v + c)


def _soften(image: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Antialiasing: a small blur of pixels (3, V, H, W) whose key (V, H, W) differs from a neighbor's."""
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
