"""Few labeled CamVid frames, with and without what a network has learned before from video without labels.

    python benchmarks/video_labels.py --camvid DIR --runs runs/labels
    python benchmarks/video_labels.py --camvid DIR --runs runs/labels --tiny        # a few steps, to see that all runs

The encoder (the whole U-Net) learns depth and the motion of the camera from frames by ``--objective reprojection`` with
learned poses, then classes from 10, 25 and 50 labeled frames by ``--init-from``. Three starts are compared: random
weights; frames of CamVid train, which are a second apart; the frames of the val clip at 15 Hz. The last is
transductive: it has seen the test images, without labels. DIR holds ``train``, ``trainannot``, ``val`` and
``valannot``. All trainings of one number of labels have the same number of steps. The focal length is not in the data;
1.09 widths are assumed. What exists is not repeated. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs import absolute
from video import RESULT, write

from sfumato.data.frames import frame_number
from sfumato.evaluation import Evaluation

SIZE, FILE_SIZE, FOCAL = (120, 160), (360, 480), 1.09
LABELED, BATCH, STEPS, STEPS_BEFORE = (10, 25, 50), 5, 300, 300
STARTS = {"random": "", "train frames, 1 Hz": "train", "val frames, 15 Hz": "val"}
COMMON = ("--network=unet", '--network-args={"dropout": 0.2}', "--method=deterministic", f"--batch={BATCH}",
          f"--size={SIZE[0]}x{SIZE[1]}", "--workers=0", "--device=cpu", "--precision=32-true", "--quiet")  # fmt: skip
SCORES = ("miou", "accuracy", "nll", "error_auroc", "aurc", "temporal_consistency")


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


def sfumato(*words: str) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "sfumato", *words], check=True)


def before(args: argparse.Namespace, kind: str) -> tuple[Path, int]:
    """The run that learned depth and motion from the frames of a split, and the number of frames."""
    frames, out = args.runs / f"frames-{kind}", args.runs / f"motion-{kind}"
    count = link_frames(args.camvid / kind, frames)
    if not (out / "weights-0.safetensors").is_file():
        steps = 4 if args.tiny else STEPS_BEFORE
        sfumato(
            "fit", "--data=video", f"--root={frames}", "--task=depth", "--objective=reprojection",
            '--objective-args={"sources": ["previous", "next"], "poses": "learned"}', f"--out={out}", *COMMON,
            f"--epochs={max(1, round(steps * BATCH / count))}", "--learning-rate=0.001",
        )  # fmt: skip
    return out, count


def scored(args: argparse.Namespace, labeled: int, start: Path | None, name: str) -> dict[str, float]:
    """Train on so many labeled frames, and score on val."""
    out = args.runs / f"{name}-{labeled}"
    if not (out / "weights-0.safetensors").is_file():
        steps = 4 if args.tiny else STEPS
        sfumato(
            "fit", "--data=camvid", f"--root={args.camvid}", f"--limit={labeled}", f"--out={out}", *COMMON,
            f"--epochs={max(1, round(steps * BATCH / labeled))}", *([f"--init-from={start}"] if start else []),
        )  # fmt: skip
    if not (out / "evaluation.json").is_file():
        sfumato("evaluate", str(out), "--sequence", "--device=cpu", "--workers=0", "--quiet")
    found = Evaluation.load(out / "evaluation.json").tasks["classes"].scores
    return {score: round(found[score].value, 4) for score in SCORES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=absolute, required=True, help="folder of CamVid")
    parser.add_argument("--runs", type=absolute, required=True, help="folder for frames and runs")
    parser.add_argument("--tiny", action="store_true", help="a few steps")
    parser.add_argument("--out", type=absolute, default=RESULT, help="file of the result")
    args = parser.parse_args()
    starts: dict[str, Path | None] = {}
    frames: dict[str, int] = {}
    for name, kind in STARTS.items():
        starts[name], frames[name] = before(args, kind) if kind else (None, 0)
    rows: dict[str, Any] = {}
    for labeled in LABELED[:1] if args.tiny else LABELED:
        for name, start in starts.items():
            rows[f"{labeled}, {name}"] = scored(args, labeled, start, (STARTS[name] or "random"))
            about = {"size": SIZE, "steps": STEPS, "steps_before": STEPS_BEFORE, "batch": BATCH, "frames": frames}
            found = write(args.out, "labels", {"about": about, "rows": rows})
    print(json.dumps(found["labels"]))


if __name__ == "__main__":
    main()
