"""``sfumato fuse``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.console import echo


def fuse(
    frames: Path,
    run: str = "",
    out: Path = Path("fused"),
    step: int = 1,
    voxel: float = 0.02,
    truncation: float = 0.0,
    independent: bool = False,
    gate: float | None = None,
    views: int = 4,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Fuse frames of a depth camera with poses, or predictions of a run, into a mesh whose points have variances.

    Args:
        frames: Folder of frames as 7-Scenes has them: frame-000000.color.jpg (or .png), .depth.png in millimeters and
            .pose.txt, and camera-intrinsics.txt.
        run: A run, or an .onnx file, that predicts depth in meters, classes, or both from the images. Default: the
            depth of the camera, with the noise of a Kinect.
        out: Folder for mesh.ply, whose colors show the standard deviation, volume.safetensors and pictures of views.
            Default fused.
        step: Use every n-th frame. Default 1.
        voxel: Side of a voxel, meters. Default 0.02.
        truncation: Largest distance to a surface that is kept, meters. Default 4 voxels.
        independent: Take the errors of the frames as independent. Then variances shrink with their number.
        gate: Leave out pixels whose innovation is larger than this share of innovations, such as 0.999.
        views: Number of frames from whose places the surface is shown. Default 4.
        device: auto, cpu, cuda or mps, for the run. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato.fusion import fuse_frames
    from sfumato.report.fused import write_fused
    from sfumato.serving import open_predictor
    from sfumato.storage import check_writable

    check_writable(out / "mesh.ply")
    predictor = open_predictor(Path(run), device=device, trust=trust) if run else None
    fused = fuse_frames(
        frames, predictor, step=step, voxel=voxel, truncation=truncation, independent=independent, gate=gate,
        progress=not quiet,
    )  # fmt: skip
    mesh = write_fused(fused, out, views)
    echo(f"{fused.volume.frames} frames of {frames} are in {len(fused.volume.blocks)} blocks of 8 x 8 x 8 voxels")
    within, between = mesh.aleatoric.median().sqrt().item(), mesh.epistemic.median().sqrt().item()
    echo(
        f"{len(mesh.faces)} triangles, standard deviation {1000 * mesh.std.median().item():.3g} mm (median): "
        f"{1000 * within:.3g} mm of the frames, {1000 * between:.3g} mm between them"
    )
    echo(f"{out / 'mesh.ply'}, {out / 'volume.safetensors'} and pictures of views ({views}) are written")
