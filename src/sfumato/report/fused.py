"""A fused volume as files to look at: a mesh whose colors show the standard deviation, and pictures of views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.fusion import FusedFrames, Mesh, Rendered, mesh_of, render, write_ply
from sfumato.report.pictures import ColorKey, color_key, color_table
from sfumato.report.prediction_figure import Panel, save_figure
from sfumato.tasks import Depth

BRIGHTEST = 0.95  # the share of values below that of the brightest color, so that few large ones leave all others dark
LIGHT = 0.35  # brightness of a surface that is seen from the side
UNSEEN = (225, 228, 232)


def write_fused(fused: FusedFrames, out: str | Path, views: int = 4) -> Mesh:
    """Write ``mesh.ply``, ``volume.safetensors`` and for some frames ``NAME_view.png``.

    Args:
        fused: The volume and its frames.
        out: The folder; it is made.
        views: Number of frames from whose places pictures are made, evenly spaced. Default 4.

    Returns:
        The mesh.

    Raises:
        DataError: If there is no surface.
        ResourceError: If a file cannot be written.
    """
    out = Path(out)
    mesh = mesh_of(fused.volume)
    end = torch.quantile(_few(mesh.std), BRIGHTEST).item()
    out.mkdir(parents=True, exist_ok=True)
    fused.volume.save(out / "volume.safetensors")
    write_ply(mesh, out / "mesh.ply", torch.from_numpy(_colored(mesh.std.numpy(), end)))
    shown = [fused.used[len(fused.used) * (2 * each + 1) // (2 * views)] for each in range(views)]
    for number in shown:
        save_figure(_panels(fused, number, end), out / f"{fused.frames.names[number]}_view.png")
    return mesh


def surface_picture(view: Rendered, values: Tensor, end: float) -> np.ndarray:
    """A surface as a picture (H, W, 3) uint8: colors of values (H, W) from 0 to ``end``, darker where it is steep."""
    shade = view.normal[0, 2].abs() * (1 - LIGHT) + LIGHT
    picture = _colored(values.numpy(), end) * shade.numpy()[..., None]
    return np.where(view.valid[0].numpy()[..., None], picture, UNSEEN).round().astype(np.uint8)


def _panels(fused: FusedFrames, number: int, end: float) -> Iterator[Panel]:
    sample = fused.frames[number]
    image, matrix, pose = (sample[name] for name in ("image", "intrinsics", "world_from_camera"))
    assert isinstance(image, Tensor)
    assert isinstance(matrix, Tensor)
    assert isinstance(pose, Tensor)
    small = matrix.clone()
    small[:2] /= 2
    view = render(fused.volume, small, pose, (image.shape[-2] // 2, image.shape[-1] // 2))
    valid = view.valid[0]
    yield Panel(fused.frames.names[number], image.permute(1, 2, 0).numpy())
    if view.classes is not None and fused.task is not None:
        task, found, shown = fused.task, view.classes, view.classes.label[0]
    else:
        task, found, shown = Depth(0.5, 6.0), view.depth, view.depth.mean[0]
    picture = np.where(valid.numpy()[..., None], task.color(shown).numpy(), UNSEEN).astype(np.uint8)
    yield Panel(f"fused {task.key}", picture, key=color_key(found, task, task.display_range))
    std = view.depth.std[0, 0].where(valid, 0)
    bar = ColorKey(bar=color_table(), ends=(0.0, end), unit="m")
    yield Panel("surface, color: σ", surface_picture(view, std, end), key=bar)
    for name, variance in (("aleatoric", view.depth.aleatoric_variance), ("epistemic", view.depth.epistemic_variance)):
        part = variance[0, 0].sqrt().where(valid, 0)
        brightest = torch.quantile(_few(part[valid]), BRIGHTEST).item() if bool(valid.any()) else 1.0
        yield Panel(f"σ {name}", part.numpy(), "m", brightest)


def _few(values: Tensor) -> Tensor:
    """At most a million of them, evenly spaced, because torch sorts no more than 16 million for a quantile."""
    flat = values.flatten()
    return flat[:: max(1, len(flat) // 1_000_000)]


def _colored(values: np.ndarray, end: float) -> np.ndarray:
    return color_table()[(np.clip(values / (end or 1.0), 0, 1) * 255).round().astype(np.uint8)]
