"""Surfaces of a volume as triangles, and PLY files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import DataError, MissingDependencyError
from sfumato.fusion.render import interpolated
from sfumato.fusion.volume import FIRST, Volume
from sfumato.predictions import ClassPrediction
from sfumato.storage import atomic_write, check_finite


@dataclass(frozen=True)
class Mesh:
    """Triangles with variances.

    Args:
        vertices: Points (V, 3), meters.
        faces: Numbers of the vertices of each triangle (F, 3), int64, counterclockwise as seen from the front.
        colors: Colors (V, 3) in [0, 1].
        aleatoric: Aleatoric variance of the place of each vertex (V,), m².
        epistemic: Epistemic variance (V,), m².
        classes: Classes of the vertices (V, K). None if the volume has none.
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    classes: ClassPrediction | None = None

    @property
    def std(self) -> Tensor:
        """Standard deviation of the place of each vertex (V,), meters."""
        return (self.aleatoric + self.epistemic).sqrt()


def mesh_of(volume: Volume, least: int = 2) -> Mesh:
    """The surface of a volume, by marching cubes.

    Args:
        volume: The volume.
        least: Smallest number of frames that have measured all corners of a cube, ≥ 1. Default 2.

    Raises:
        DataError: If there is no surface.
        MissingDependencyError: If scikit-image is not installed.

    Source: Lewiner et al. (2003), "Efficient implementation of marching cubes' cases with topological guarantees".
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise MissingDependencyError("a mesh needs scikit-image: pip install 'sfumato[fusion]'") from error
    if not len(volume.blocks):
        raise DataError("the volume is empty: add frames with valid depth first")
    distance, low = volume.blocks.dense(volume.sums("distance"), volume.truncation)
    seen, _ = volume.blocks.dense(volume.sums("count"), 0.0)
    mask = _whole_cubes(seen.numpy() >= max(least, 1))
    values = distance.numpy()
    if not mask.any() or values[mask].min() > 0:
        raise DataError(f"no surface was seen by {least} frames: add frames, or lower the least number")
    try:
        found: Any = marching_cubes(values, 0.0, mask=mask)
    except (RuntimeError, ValueError) as error:  # skimage says so where the level lies outside of the masked values
        raise DataError(f"no surface was seen by {least} frames: add frames, or lower the least number") from error
    vertices = low + (torch.from_numpy(np.ascontiguousarray(found[0])) + 0.5) * volume.voxel
    rows, _ = interpolated(volume, vertices, volume.rows)
    aleatoric, epistemic = volume.variances_of(rows)
    classes = None
    if volume.classes:
        probs, within = volume.class_moments(rows).pooled(independent=volume.independent)
        classes = ClassPrediction(probs, within, volume.frames)
    faces = torch.from_numpy(np.ascontiguousarray(found[1])).long()
    return Mesh(vertices, faces, rows[:, FIRST : FIRST + 3].clamp(0, 1), aleatoric, epistemic, classes)


def _whole_cubes(seen: np.ndarray) -> np.ndarray:
    """A mask that is True at the highest corner of each cube whose 8 corners are seen, as scikit-image reads it."""
    mask = np.zeros_like(seen)
    whole = np.ones([each - 1 for each in seen.shape], bool)
    for corner in np.ndindex(2, 2, 2):
        whole &= seen[tuple(slice(c, n - 1 + c) for c, n in zip(corner, seen.shape))]
    mask[1:, 1:, 1:] = whole
    return mask


def write_ply(mesh: Mesh, path: str | Path, colors: Tensor | None = None) -> None:
    """Write a binary PLY file, as MeshLab, CloudCompare, Blender and Open3D read it.

    Vertices have ``x, y, z`` in meters, ``red, green, blue``, and as further properties ``sigma``, the standard
    deviation, and ``sigma_epistemic``, in meters; with classes also ``label`` and ``confidence``.

    Args:
        mesh: The mesh.
        path: The file. It is written as a whole or not at all.
        colors: Other colors (V, 3) uint8 than those of the mesh, such as colors of the standard deviation.

    Raises:
        DataError: If there are not as many colors as vertices.
        NotFiniteError: If a number is not finite.
        ResourceError: If the file cannot be written.
    """
    numbers = {"sigma": mesh.std, "sigma_epistemic": mesh.epistemic.sqrt()}
    check_finite({"vertices": mesh.vertices, **numbers}, f"the mesh for {path}")
    shown = (mesh.colors * 255).round().byte() if colors is None else colors
    if tuple(shown.shape) != tuple(mesh.vertices.shape):
        raise DataError(f"colors have the shape {tuple(shown.shape)}, expected {tuple(mesh.vertices.shape)}")
    table = dict(zip("xyz", mesh.vertices.float().T)) | dict(zip(("red", "green", "blue"), shown.T)) | numbers
    if mesh.classes is not None:
        table |= {"label": mesh.classes.label.int(), "confidence": mesh.classes.confidence}
    columns = {name: np.ascontiguousarray(each.cpu().numpy()) for name, each in table.items()}
    kinds = {"float32": "float", "uint8": "uchar", "int32": "int"}
    header = ["ply", "format binary_little_endian 1.0", "comment meters", f"element vertex {len(mesh.vertices)}"]
    header += [f"property {kinds[str(each.dtype)]} {name}" for name, each in columns.items()]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header"]
    vertices = np.empty(len(mesh.vertices), [(name, each.dtype.newbyteorder("<")) for name, each in columns.items()])
    for name, each in columns.items():
        vertices[name] = each
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("numbers", "<i4", 3)])
    faces["count"], faces["numbers"] = 3, mesh.faces.numpy()
    with atomic_write(path) as part:
        part.write_bytes(("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes())
