"""``sfumato predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import complain, echo

if TYPE_CHECKING:
    from sfumato.serving.cluster import Choices


def predict(
    run: Path,
    inputs: list[str],
    out: str = "predictions",
    samples: int | None = None,
    seed: int = 0,
    tile: int | None = None,
    max_megapixels: float = 64.0,
    pairs: bool = False,
    focal: float | None = None,
    baseline: float | None = None,
    temporal: str = "",
    video: str = "",
    filter: tuple[float, float] = (0.0, 0.0),
    engine: str = "",
    workers: int = 1,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Predict images: label or value, probability, total, aleatoric and epistemic maps, raw arrays, and a figure.

    Args:
        run: Folder of a run, or an .onnx file of `sfumato export`.
        inputs: Image files, folders, globs or videos; frames of a video are numbered. For a run with several inputs one
            argument for each of them, in their order, such as LEFT RIGHT; files of equal names belong together. For
            optical flow a video or a folder of frames is enough: neighbors are predicted. The number of a camera, such
            as 0, is a video without an end: stop it with Ctrl-C.
        out: Folder for NAME_label.png, NAME_total.png, …, NAME.json (how to read them), NAME.safetensors (arrays) and
            NAME_figure.png. For several tasks NAME_TASK_label.png and so on. Default predictions.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        seed: Seed of the draws. Default 0.
        tile: Predict images on overlapping squares of this side, pixels, to save memory; 0 for whole images. A multiple
            of 128 suits the networks of this package. Default: 1024 for images of more than 1.25 megapixels.
        max_megapixels: The largest image that is read, in million pixels. Default 64.
        pairs: The inputs are text files; each line names a file for every input of the network, such as LEFT RIGHT,
            relative to the text file.
        focal: Focal length of a stereo pair in pixels of the images. With --baseline depth in meters is written.
        baseline: Distance of the two cameras of a stereo pair, meters.
        temporal: Merge the frames of each video, folder or glob, warped by optical flow: `dis` for OpenCV's, or the
            folder of a run of flow. One sample for each frame is enough then. See also --video.
        video: Write one playable NAME.mp4 for each video, folder or glob instead of files for each frame: side-by-side
            (image, best guess, total and epistemic uncertainty) or overlay (the best guess over the image).
        filter: For camera poses of the frames of a video: how far the camera moves from one frame to the next, in
            meters and degrees (standard deviations along each axis). trajectory_filtered.txt gets the path that a
            Kalman filter makes of all poses by their covariances. Default: no filter.
        engine: ray for Ray Data: inputs and --out may be addresses such as s3://BUCKET/FOLDER, and outputs that are
            there already are kept. Default: this process.
        workers: Number of workers of --engine ray. Default 1.
        device: auto, cpu, cuda or mps. Default auto. An .onnx file runs on the CPU.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato.errors import ConfigError
    from sfumato.serving import PoseMotion, Stereo, open_predictor, predict_files, predict_videos
    from sfumato.serving.camera_path import flow_function
    from sfumato.serving.cluster import Choices
    from sfumato.serving.frame_source import is_camera

    if (focal is None) != (baseline is None):
        missing = "--focal" if focal is None else "--baseline"
        raise ConfigError(f"depth needs --focal and --baseline, and {missing} is missing: give the calibration")
    stereo = None if focal is None or baseline is None else Stereo(focal, baseline)
    pixels = round(max_megapixels * 1e6)
    streamed = bool(temporal or video) or any(map(is_camera, inputs))
    if streamed and (pairs or stereo):
        raise ConfigError("--temporal, --video and cameras are for runs of one image: leave out --pairs and --focal")
    if engine:
        if streamed or pairs or stereo or any(filter):
            raise ConfigError(
                "--engine is for images in files: leave out --pairs, --focal, --temporal, --video and --filter"
            )
        _on_engine(engine, run, inputs, out, workers, Choices(samples, seed, tile, pixels, device, trust))
        return
    if workers != 1:
        raise ConfigError(f"workers is {workers}, which is for --engine ray: leave it out")
    predictor = open_predictor(run, device=device, trust=trust)
    if streamed:
        written = predict_videos(
            predictor, inputs, out, flow=flow_function(temporal, device, trust) if temporal else None, drawing=video,
            samples=samples, seed=seed, tile=tile, max_pixels=pixels, note=complain,
        )  # fmt: skip
    else:
        written = predict_files(
            predictor, inputs, out, samples=samples, seed=seed, tile=tile, max_pixels=pixels, progress=not quiet,
            pairs=pairs, stereo=stereo,
            motion=PoseMotion(*filter) if any(filter) else None,
        )  # fmt: skip
    echo(f"{written} {'frames' if video else 'predictions'} are in {out}")


def _on_engine(engine: str, run: Path, inputs: list[str], out: str, workers: int, choices: Choices) -> None:
    from sfumato.errors import ConfigError
    from sfumato.serving import predict_on_ray

    if engine != "ray":
        raise ConfigError(f"engine is {engine!r}, expected ray")
    written, kept = predict_on_ray(run, inputs, out, workers, choices)
    echo(f"{written} predictions are in {out}{f', and {kept} were there already' * bool(kept)}")
