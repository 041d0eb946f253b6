"""Few labeled CamVid frames, with and without what a network has learned before from video without labels.

    python benchmarks/video_labels.py --camvid DIR --runs runs/labels
    python benchmarks/video_labels.py --camvid DIR --runs runs/labels --tiny        # a few steps, to see that all runs

The encoder (the whole U-Net) learns depth and the motion of the camera from frames by ``--objective reprojection`` with
learned poses, then classes from 10, 25 and 50 labeled frames by ``--init-from``. Three starts are compared: random
weights; frames of CamVid train, which are a second apart; the frames of the val clip at 15 Hz. The last is
transductive: it has seen the test images, without labels. DIR holds ``train``, ``trainannot``, ``val`` and
``valannot``. All trainings of one number of labels have the same number of steps. The focal length is not in the data;
1.09 widths are assumed. Scores are those of the last validation, on all val frames at the size of the network. What
exists is not repeated. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs import Job, absolute, run_jobs
from video import RESULT, write

from sfumato.data.frames import frame_number
from sfumato.training.metrics_file import read_metrics

SIZE, FILE_SIZE, FOCAL = (120, 160), (360, 480), 1.09
LABELED, BATCH, STEPS, STEPS_BEFORE = (10, 25, 50), 5, 100, {"train": 220, "val": 100}
STARTS = {"random": "", "train frames, 1 Hz": "train", "val frames, 15 Hz": "val"}
COMMON = ("--network=unet", '--network-args={"dropout": 0.2}', "--method=deterministic", f"--batch={BATCH}",
          f"--size={SIZE[0]}x{SIZE[1]}", "--workers=0", "--device=cpu", "--precision=32-true", "--quiet")  # fmt: skip
SCORES = ("miou", "accuracy", "class_accuracy", "nll")
LEARNED = {"sources": ["previous", "next"], "poses": "learned"}


def sequences(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Runs of frames with equal steps, at least three frames long."""
    part: list[Path] = []
    for path in files:
        step = frame_number(path) - frame_number(part[-1]) if part else 0
        if part and (path.name[:6] != part[-1].name[:6] or (len(part) > 1 and step != _step(part)) or step < 1):
            if len(part) >= 3:
                yield part
            part = []
        part.append(path)
    if len(part) >= 3:
        yield part


def _step(part: Sequence[Path]) -> int:
    return frame_number(part[1]) - frame_number(part[0])


def link_frames(source: Path, out: Path) -> int:
    """Write the frames of a folder as the data set ``video`` reads them. Their number is returned."""
    height, width = FILE_SIZE
    focal, count = FOCAL * width, 0
    for number, part in enumerate(sequences(sorted(source.glob("*.png")))):
        folder = out / f"part{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "camera-intrinsics.txt").write_text(f"{focal} 0 {width / 2}\n0 {focal} {height / 2}\n0 0 1\n")
        for path in part:
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
        count += len(part)
    return count


def fit(args: argparse.Namespace, name: str, steps: int, images: int, *options: str, needs: str = "") -> Job:
    """A training of the common network with about so many steps."""
    epochs = max(1, round((4 if args.tiny else steps) * BATCH / images))
    words = ("-m", "sfumato", "fit", *COMMON, f"--epochs={epochs}", f"--out={args.runs / name}", *options)
    return Job(name, words, args.runs / name / "weights-0.safetensors", (needs,) if needs else ())


def jobs(args: argparse.Namespace) -> list[Job]:
    """All trainings: those without labels, then those with labels, one number of labels after the other."""
    found: list[Job] = []
    learned = f"--objective-args={json.dumps(LEARNED)}"
    for kind in filter(None, STARTS.values()):
        frames = args.runs / f"frames-{kind}"
        options = ["--data=video", f"--root={frames}", "--task=depth", "--objective=reprojection", learned]
        count = link_frames(args.camvid / kind, frames)
        found.append(fit(args, f"motion-{kind}", STEPS_BEFORE[kind], count, *options, "--learning-rate=0.001"))
    for labeled in LABELED[:1] if args.tiny else LABELED:
        for kind in STARTS.values():
            start = f"motion-{kind}" if kind else ""
            options = ["--data=camvid", f"--root={args.camvid}", f"--limit={labeled}"]
            options += [f"--init-from={args.runs / start}"] if start else []
            found.append(fit(args, f"{kind or 'random'}-{labeled}", STEPS, labeled, *options, needs=start))
    return found


def table(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The scores of the last validation of each training that has ended, at the size that the network sees."""
    rows: dict[str, dict[str, float]] = {}
    for name, kind in STARTS.items():
        for labeled in LABELED:
            folder = args.runs / f"{kind or 'random'}-{labeled}"
            if (folder / "weights-0.safetensors").is_file():
                last = read_metrics(folder / "log" / "member-0" / "metrics.csv")[-1]
                rows[f"{labeled}, {name}"] = {score: round(last[f"val_{score}"], 4) for score in SCORES}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=absolute, required=True, help="folder of CamVid")
    parser.add_argument("--runs", type=absolute, required=True, help="folder for frames and runs")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time after which trainings are stopped")
    parser.add_argument("--tiny", action="store_true", help="a few steps")
    parser.add_argument("--out", type=absolute, default=RESULT, help="file of the result")
    args = parser.parse_args()
    about = {"size": SIZE, "steps": STEPS, "steps_before": STEPS_BEFORE, "batch": BATCH, "seeds": 1}
    run_jobs(jobs(args), args.runs, seconds=args.seconds, after=lambda: _write(args, about))
    _write(args, about)
    print(json.dumps(table(args)))


def _write(args: argparse.Namespace, about: Mapping[str, Any]) -> None:
    write(args.out, "labels", {"about": about, "rows": table(args)})


if __name__ == "__main__":
    main()
