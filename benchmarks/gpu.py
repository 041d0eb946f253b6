"""Everything that needs a GPU, in one script: speeds, CamVid at full size, students, tasks, and true distributions.

    python benchmarks/gpu.py pack --data DIR --out packed                     # 19 MB, to take along
    python benchmarks/gpu.py pack --data DIR --out packed --weights runs/pretrained   # and 35 MB to train further
    python benchmarks/gpu.py run --data packed --out results --seconds 540    # on the machine with the GPU
    python benchmarks/gpu.py pack --data DIR --out few --most 8               # few images, for a try on a CPU:
    python benchmarks/gpu.py run --data few --out results --epochs 1 --tiny --jobs 2

``--data`` of ``pack`` holds camvid, sevenscenes, middlebury, bccd and flow. Images are packed as WebP of quality 80,
labels as they are. Trainings run side by side, the most important first. After each of them the tables of all that is
finished are written, so that nothing is lost when the time is over. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import camvid
import distillation
import foreign
from jobs import Job, absolute, run_jobs
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SPLITS = ("train", "val")
TURNS = 4  # trainings at the same time that take turns on a GPU
SPARE = 15.0  # seconds at the end, to write the tables and weights
SIZES = {  # of what is trained beside CamVid
    "truth": ("--jobs=2", "--steps", "4096", "2560", "1024", "1024"),
    "multitask": ("--jobs=1", "--only", "equal", "uncertainty", "classes-alone", "centers-alone",
                  "inverse_depth-alone", "log1p"),
}  # fmt: skip
TINY = {
    "truth": ("--jobs=1", "--seeds", "1", "--scenes", "64", "--images", "16", "32", "--steps", "8", "8", "4", "4"),
    "multitask": ("--jobs=1", "--seeds", "1", "--images", "16", "--epochs", "1", "--only", "equal"),
}


def pack(data: Path, out: Path, most: int, weights: Path | None) -> None:
    """CamVid as WebP, and the foreign images; of CamVid at most so many images of a split.

    With a folder of runs, also the members of the teacher in half precision.
    """
    for split in SPLITS:
        for folder in (split, f"{split}annot"):
            (out / "camvid" / folder).mkdir(parents=True, exist_ok=True)
        for file in sorted((data / "camvid" / split).glob("*.png"))[:most]:
            Image.open(file).convert("RGB").save(out / "camvid" / split / f"{file.stem}.webp", quality=80, method=6)
        for file in sorted((data / "camvid" / f"{split}annot").glob("*.png"))[:most]:
            (out / "camvid" / f"{split}annot" / file.name).write_bytes(file.read_bytes())
    foreign.gather(data, out / "foreign", camvid.SIZE)
    for seed in range(camvid.MEMBERS if weights else 0):
        folder = camvid.folder_of(weights or data, "plain", seed)
        halves = {name: value.half() if value.ndim > 1 else value
                  for name, value in load_file(camvid.weights_of(folder)).items()}  # fmt: skip
        (out / folder.name).mkdir(exist_ok=True)
        save_file(halves, camvid.weights_of(out / folder.name))


def share_gpu(folder: Path) -> bool:
    """Start NVIDIA's multi-process service if it is there and works: kernels of several processes run together."""
    control = shutil.which("nvidia-cuda-mps-control", path=os.environ["PATH"] + ":/usr/local/nvidia/bin")
    if control is None:
        print("no multi-process service: processes take turns on the GPU", flush=True)
        return False
    places = {name: str(folder / name) for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")}
    for place in places.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([control, "-d"], check=True, timeout=10, env=os.environ | places)
        subprocess.run([sys.executable, "-c", "import torch; print(torch.ones(2).cuda().sum().item())"], check=True,
                       timeout=40, env=os.environ | places)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the multi-process service does not work: {error}", flush=True)
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([control], check=False, timeout=10, input="quit\n", text=True, env=os.environ | places)
        return False
    os.environ |= places
    print("the multi-process service runs", flush=True)
    return True


def speeds(runs: Path, device: str, tiny: bool) -> None:
    """The speeds, alone on the machine, unless they are there."""
    if (runs / "gpu_speed.json").exists():
        return
    command = [sys.executable, str(HERE / "gpu_speed.py"), f"--device={device}", f"--out={runs / 'gpu_speed.json'}"]
    with (runs / "gpu_speed.log").open("w") as log, suppress(subprocess.TimeoutExpired):
        limit = ["--tiny"] if tiny else ["--seconds=45"]
        subprocess.run([*command, *limit], check=False, timeout=75, stdout=log, stderr=log)


@contextmanager
def beside(out: Path, options: argparse.Namespace) -> Iterator[None]:
    """Train for truth.py and multitask.py at the same time, in processes of their own."""
    sizes = TINY if options.tiny else SIZES
    minutes = f"--minutes={(options.seconds - SPARE) / 60:.2f}"
    started = []
    for name, arguments in sizes.items():
        command = [sys.executable, str(HERE / f"{name}.py"), f"--device={options.device}", minutes, *arguments,
                   f"--runs={options.runs / name}", f"--out={out / f'{name}.json'}"]  # fmt: skip
        with (options.runs / f"{name}.log").open("w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    try:
        yield
    finally:
        for process in started:  # with the processes that each of them has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def write_tables(runs: Path, out: Path) -> None:
    """The tables of everything that is finished, with all numbers and logs in one archive."""
    for name, module in (("camvid", camvid), ("distillation", distillation)):
        (runs / f"{name}.json").write_text(json.dumps(module.table(runs), indent=1) + "\n")
    with tarfile.open(out / "part.tar.gz", "w:gz") as tar:
        for file in sorted(runs.rglob("*")):
            if file.suffix in (".json", ".yaml", ".csv", ".log") and "textures" not in file.parts:
                tar.add(file, file.relative_to(runs))
    (out / "part.tar.gz").replace(out / "runs.tar.gz")


def keep_weights(runs: Path, out: Path) -> None:
    """The weights of single networks and of the best student, in half precision, two networks in a file."""
    best = json.loads((runs / "distillation.json").read_text())["best"]
    wanted = [camvid.folder_of(runs, f"plain-{camvid.MORE}", seed) for seed in camvid.SINGLES]
    wanted += [distillation.student_folder(runs, best, 0)] if best else []
    files = [file for folder in wanted if (file := camvid.weights_of(folder)).exists()]
    for number in range(0, len(files), 2):
        found = {f"{file.parent.name}/{name}": value.half() if value.ndim > 1 else value
                 for file in files[number : number + 2] for name, value in load_file(file).items()}  # fmt: skip
        save_file(found, out / f"weights-{number // 2}.safetensors")


def all_jobs(options: argparse.Namespace) -> list[Job]:
    """All trainings and scores, the most important first."""
    every = [*camvid.jobs(options), *distillation.reference_jobs(options), *distillation.jobs(options),
             *camvid.data_jobs(options)]  # fmt: skip
    chosen = [job for job in sorted(every, key=_urgency) if re.search(options.only, job.name)]  # the order stays
    names = {job.name for job in chosen}
    return [replace(job, needs=tuple(each for each in job.needs if each in names)) for job in chosen]


def _urgency(job: Job) -> int:
    """The longest chains first: teachers, their answers, students of most interest, tables, amounts of data."""
    if "quarter" in job.name or "half" in job.name:
        return 4
    if job.name.startswith("fit-student-perturbed") or job.name.endswith("-flips"):
        return 3
    if job.name.startswith(("fit-student", "ask")):
        return 1
    return -1 if job.name.startswith("textures") else 0 if job.name.startswith(("fit", "gather")) else 2


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, until the time is over."""
    start = time.monotonic()
    for folder in (options.out, options.runs):
        folder.mkdir(parents=True, exist_ok=True)
    options.camvid, options.foreign = options.data / "camvid", options.data / "foreign"
    for folder in options.data.glob("camvid-*"):  # networks that are trained
        shutil.copytree(folder, options.runs / folder.name, dirs_exist_ok=True)
    speeds(options.runs, options.device, options.tiny)
    if options.cuda_graph and not share_gpu(options.runs / "mps"):
        options.jobs = min(options.jobs, TURNS)
    options.seconds -= time.monotonic() - start
    with beside(options.out, options) if options.beside else nullcontext():
        took = run_jobs(all_jobs(options), options.runs / "logs", options.jobs, options.seconds - SPARE,
                        lambda: write_tables(options.runs, options.out))  # fmt: skip
    write_tables(options.runs, options.out)
    keep_weights(options.runs, options.out)
    return {"seconds": time.monotonic() - start, "jobs": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("pack", "run"))
    parser.add_argument("--data", type=absolute, required=True)
    parser.add_argument("--out", type=absolute, required=True)
    parser.add_argument("--most", type=int, default=1000, help="images of a split of CamVid that are packed")
    parser.add_argument("--weights", type=absolute, help="folder of runs whose networks are packed, to train further")
    parser.add_argument("--only", default="", help="the jobs whose names match this regular expression")
    parser.add_argument("--runs", type=absolute, default=HERE.parent / "runs" / "gpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=8, help="trainings at the same time")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images, for each training")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--cuda-graph", action="store_true", help="on a GPU: replay passes, and share the GPU")
    parser.add_argument("--beside", action="store_true", help="train for truth.py and multitask.py at the same time")
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--tiny", action="store_true", help="small sizes beside CamVid")
    options = parser.parse_args()
    if options.command == "pack":
        pack(options.data, options.out, options.most, options.weights)
        return
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
