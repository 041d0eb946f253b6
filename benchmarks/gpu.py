"""Everything that needs a GPU, in one script: speeds, CamVid at full size, students, tasks, and true distributions.

    python benchmarks/gpu.py pack --data DIR --out packed                     # at most 50 MB, to take along
    python benchmarks/gpu.py run --data packed --out results --seconds 540    # on the machine with the GPU
    python benchmarks/gpu.py pack --data DIR --out few --most 8               # few images, for a try on a CPU:
    python benchmarks/gpu.py run --data few --out results --epochs 1 --tiny --jobs 2

``--data`` of ``pack`` holds camvid, sevenscenes, middlebury, bccd and flow. Images are packed as JPEG of quality 90,
labels as they are. Trainings run side by side, the most important first. After each of them the tables of all that is
finished are written, so that nothing is lost when the time is over. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import camvid
import distillation
import foreign
from jobs import Job, run_jobs
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SPLITS = ("train", "val")


def pack(data: Path, out: Path, most: int) -> None:
    """CamVid as JPEG, and the foreign images; of CamVid at most so many images of a split."""
    for split in SPLITS:
        for folder in (split, f"{split}annot"):
            (out / "camvid" / folder).mkdir(parents=True, exist_ok=True)
        for file in sorted((data / "camvid" / split).glob("*.png"))[:most]:
            Image.open(file).convert("RGB").save(out / "camvid" / split / f"{file.stem}.jpg", quality=90)
        for file in sorted((data / "camvid" / f"{split}annot").glob("*.png"))[:most]:
            (out / "camvid" / f"{split}annot" / file.name).write_bytes(file.read_bytes())
    foreign.gather(data, out / "foreign", camvid.SIZE)


def speeds(out: Path, device: str, tiny: bool) -> None:
    """The speeds, alone on the machine."""
    command = [sys.executable, str(HERE / "gpu_speed.py"), f"--device={device}", f"--out={out / 'gpu_speed.json'}"]
    subprocess.run([*command, *(["--tiny"] if tiny else [])], check=False, timeout=100)


def write_tables(runs: Path, out: Path) -> None:
    """The tables of everything that is finished."""
    for name, module in (("camvid", camvid), ("distillation", distillation)):
        (out / f"{name}.json").write_text(json.dumps(module.table(runs), indent=1) + "\n")


def keep(runs: Path, out: Path) -> None:
    """What is worth keeping: all numbers and logs, and the weights of teacher and best student in half precision."""
    with tarfile.open(out / "runs.tar.gz", "w:gz") as tar:
        for file in sorted(runs.rglob("*")):
            if file.suffix in (".json", ".yaml", ".csv", ".log"):
                tar.add(file, file.relative_to(runs))
    best = json.loads((out / "distillation.json").read_text())["best"]
    wanted = [runs / f"camvid-plain-{seed}" for seed in range(camvid.MEMBERS)]
    wanted += [distillation.student_folder(runs, best, 0)] if best else []
    files = [file for folder in wanted if (file := camvid.weights_of(folder)).exists()]
    for number in range(0, len(files), 2):
        found = {f"{file.parent.name}/{name}": value.half() if value.ndim > 1 else value
                 for file in files[number : number + 2] for name, value in load_file(file).items()}  # fmt: skip
        save_file(found, out / f"weights-{number // 2}.safetensors")


def all_jobs(options: argparse.Namespace) -> list[Job]:
    """All trainings and scores, the most important first."""
    return [*camvid.jobs(options), *distillation.reference_jobs(options), *distillation.jobs(options),
            *camvid.data_jobs(options)]  # fmt: skip


def run(options: argparse.Namespace) -> dict[str, Any]:
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    options.camvid, options.foreign = options.data / "camvid", options.data / "foreign"
    if not options.only_train:
        speeds(options.out, options.device, options.tiny)
    took = run_jobs(all_jobs(options), options.runs / "logs", options.jobs,
                    options.seconds - (time.monotonic() - start),
                    lambda: write_tables(options.runs, options.out))  # fmt: skip
    write_tables(options.runs, options.out)
    keep(options.runs, options.out)
    return {"seconds": time.monotonic() - start, "jobs": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("pack", "run"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="images of a split of CamVid that are packed")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "gpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=8, help="trainings at the same time")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images, for each training")
    parser.add_argument("--epochs", type=int, default=camvid.EPOCHS)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--only-train", action="store_true", help="leave the speeds out")
    parser.add_argument("--tiny", action="store_true", help="small sizes where speed is measured")
    options = parser.parse_args()
    for name in ("data", "out", "runs"):
        setattr(options, name, getattr(options, name).absolute())
    if options.command == "pack":
        pack(options.data, options.out, options.most)
        return
    print(json.dumps(run(options)))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
