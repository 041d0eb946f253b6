"""Memory and time on many large images: 3,000 images of 1024 × 2048 on disk.

    python benchmarks/scale.py                                 # all parts, on an idle machine
    python benchmarks/scale.py --only predict logit_normal     # some parts
    python benchmarks/scale.py --only fit evaluate --folder DIR --images 40     # a quick look; keeps data and run

Parts: ``fit``, ``epoch`` and ``evaluate`` measure the peak resident memory of the commands, ``evaluate_time``,
``predict`` and ``logit_normal`` measure times relative to the bare forward passes. Each part writes its numbers to
benchmarks/results/scale.json as soon as it is done, unless --images is given. The last line is JSON.

Resident memory (``rss_gb``) is the sum over the process of the command and its worker processes, read 20 times in a
second. Pages that they share, such as the code of torch, are counted in each of them, so the sum is an upper bound.
``pss_gb`` counts shared pages once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from logit_normal_prediction import overhead
from PIL import Image
from scale_evaluate import SAMPLES, Files, evaluate_overhead, make_run

from sfumato.runs import Predictor, RunBackend
from sfumato.serving import predict_files

HERE = Path(__file__).parent
SIZE, CLASSES, IMAGES, VAL, FILES = (1024, 2048), 19, 3000, 200, 32
DRAWS = 2  # of evaluate, where only memory is measured: memory does not depend on the number of draws
SOME = 400  # training images of the part `fit`: 50 steps
FEW, MANY = 25, 100  # percent of the validation images
DESCRIPTION = f"""splits:
  train: {{images: train/images, labels: train/labels}}
  val: {{images: val/images, labels: val/labels}}
classes: [{", ".join(f"class {number}" for number in range(CLASSES))}]
void: 255
"""


def write_pair(folder: Path, number: int) -> None:
    """A JPEG image of smooth noise and a PNG label of blocks."""
    random = np.random.default_rng(number)
    rough = random.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    Image.fromarray(rough).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    ids = random.integers(0, CLASSES, (SIZE[0] // 32, SIZE[1] // 32), np.uint8)
    Image.fromarray(ids).resize(SIZE[::-1], Image.Resampling.NEAREST).save(folder / f"{number}.png")


def write_data(folder: Path, images: int) -> Path:
    """A folder of images as a user has it. Names are hard links to a few files, so that the folder stays small."""
    root = folder / f"data-{images}"
    if (root / "sfumato.yaml").exists():
        return root
    source = root / "files"
    source.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_pair, [source] * FILES, range(FILES)))
    val = min(VAL, images // 2)
    for split, count in {"train": images - val, "val": val}.items():
        for kind, ending in {"images": "jpg", "labels": "png"}.items():
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                os.link(source / f"{number % FILES}.{ending}", root / split / kind / f"{number:04d}.{ending}")
    (root / "sfumato.yaml").write_text(DESCRIPTION)
    return root


def memory(process: int) -> tuple[int, int]:
    """RSS and PSS of a process and all its descendants, bytes. A process that has just ended counts as 0."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    found = [tuple(int(rollup.partition(key)[2].split()[0]) * 1024 if key in rollup else 0 for key in ("Rss:", "Pss:"))]
    found += [memory(int(child)) for child in children]
    return sum(each[0] for each in found), sum(each[1] for each in found)


def peak_gb(*command: str) -> dict[str, float]:
    """Peak memory of a ``sfumato`` command with its workers, in 10⁹ bytes."""
    print("sfumato", *command, flush=True)
    rss = pss = 0
    with subprocess.Popen([sys.executable, "-m", "sfumato", *command], stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            now = memory(running.pid)
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(0.05)
    if running.returncode:
        raise SystemExit(f"sfumato {command[0]} ended with {running.returncode}")
    return {"rss_gb": rss / 1e9, "pss_gb": pss / 1e9}


def train(folder: Path, images: int, out: Path, *options: str) -> dict[str, float]:
    """Peak memory of one epoch over a folder of images, with everything else as a user gets it."""
    data = write_data(folder, images)
    shutil.rmtree(out, ignore_errors=True)
    return peak_gb("fit", f"--data={data}", "--epochs=1", f"--out={out}", "--quiet", *options)


def fit_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Some steps of a training on all images, and a validation."""
    found = train(folder, images, folder / f"run-{images}", f"--limit={SOME}")
    return {f"{key}_fit": value for key, value in found.items()}


def epoch_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """One epoch over all images at the default size: the heap of a long training has more holes."""
    found = train(folder, images, folder / f"epoch-{images}")
    return {f"{key}_fit_epoch": value for key, value in found.items()}


def evaluate_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Evaluation of a few and of many images. Memory must not grow with their number."""
    run = folder / f"run-{images}"
    if not (run / "weights-0.safetensors").exists():
        run = folder / f"short-run-{images}"
        train(folder, images, run, "--limit=16")
    found = {
        share: peak_gb("evaluate", str(run), f"--split=val[:{share}%]", f"--samples={DRAWS}", "--quiet")
        for share in (FEW, MANY)
    }
    return {
        "rss_gb_evaluate": max(each["rss_gb"] for each in found.values()),
        "pss_gb_evaluate": max(each["pss_gb"] for each in found.values()),
        "rss_gb_evaluate_few": found[FEW]["rss_gb"],
        "rss_gb_evaluate_many": found[MANY]["rss_gb"],
        "evaluate_few": min(VAL, images // 2) * FEW // 100,
        "evaluate_many": min(VAL, images // 2),
    }


def evaluate_time_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Time of an evaluation over that of the bare forward passes, which alternate."""
    few = 12 if images == IMAGES else 2
    found = [evaluate_overhead(few) for _ in range(repeats)]
    columns = {key: median(each[key] for each in found) for key in found[0]}
    return {"evaluate_overhead": columns["evaluate_overhead"], "evaluate_images": few}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def predict_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Time of ``predict``, with files read and written, over that of the bare forward passes, which alternate."""
    few, threads = (6 if images == IMAGES else 2), torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        place = Path(name)
        data = Files(place, few)
        run = make_run(place, data.tasks["classes"])
        method, inputs = run.method(), [run.prepare(*run.inputs_of(data[index])) for index in range(few)]
        predictor = Predictor(RunBackend(run))

        def passes() -> None:
            for each in inputs:
                for _ in method.draws(*each, generator=torch.Generator().manual_seed(0)):
                    pass

        def predict() -> None:
            predict_files(predictor, [f"{place}/*-image.png"], place / "out", progress=False)

        passes(), predict()
        found = [(seconds(passes), seconds(predict)) for _ in range(repeats)]
    torch.set_num_threads(threads)
    return {"predict_overhead": median(whole / bare for bare, whole in found), "predict_images": few}


def logit_normal_part(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Processor time of a prediction with logit noise over that of the bare forward passes, which alternate."""
    return {"logit_normal_overhead": overhead(repeats)["logit_normal_overhead"]}


PARTS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "fit": fit_part,
    "epoch": epoch_part,
    "evaluate": evaluate_part,
    "evaluate_time": evaluate_time_part,
    "predict": predict_part,
    "logit_normal": logit_normal_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="number of images; for another one nothing is stored"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of repeats of the parts that measure time")
    parser.add_argument("--folder", type=Path, help="where data and run are kept; default: a temporary folder")
    options = parser.parse_args()
    path = HERE / "results" / "scale.json"
    result: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        for name in options.only:
            load = os.getloadavg()[0]
            numbers = PARTS[name](folder, options.images, options.repeats)
            result |= {key: round(value, 3) for key, value in numbers.items()} | {f"{name}_load": round(load, 1)}
            peaks = [each for key in ("rss_gb_fit", "rss_gb_evaluate") if isinstance(each := result.get(key), float)]
            result |= {"rss_gb": max(peaks)} if peaks else {}
            result |= {
                "images": IMAGES,
                "size": SIZE,
                "draws": SAMPLES,
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            }
            print(name, numbers, flush=True)
            if options.images == IMAGES:
                path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
