"""Ray Data with one worker and with two, and with one of two killed: time, and files lost or written twice.

    python benchmarks/cluster.py                   # needs 'ray[data]'; about 4 minutes on an idle machine
    python benchmarks/cluster.py --images 40

A U-Net with 8 classes and random weights predicts generated images of 240 × 320. Each worker has one thread. The time
starts when the first output appears, because starting Ray and its workers takes longer than the work of this benchmark.
The plain loop is `sfumato predict` in this process with one thread. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import ray
import torch
from PIL import Image
from untrained import untrained_run

from sfumato.serving import open_predictor, predict_files, predict_on_ray

SIZE = (240, 320)


def workers_of(parent: int) -> list[int]:
    """Processes of Ray's workers that descend from a process."""

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == parent:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return False
        return False

    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            known = b"MapWorker" in path.read_bytes()
        except OSError:
            continue
        if known and descends(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on_ray(run: Path, images: Path, out: Path, workers: int, kill: bool = False) -> dict[str, float]:
    """Seconds from the first output to the last one, and the numbers of files."""
    first: list[float] = []
    killed: list[int] = []

    def watch() -> None:
        while not list(out.glob("*.json")):
            time.sleep(0.02)
        first.append(time.perf_counter())
        if kill:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ray.init(num_cpus=workers, log_to_driver=False, logging_level="error", include_dashboard=False)
    written, kept = predict_on_ray(run, [str(images)], str(out), workers)
    end = time.perf_counter()
    watcher.join()
    ray.shutdown()
    return {"seconds": round(end - first[0], 2), "written": written, "kept": kept, "killed": len(killed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, images = untrained_run(folder / "run", SIZE), folder / "images"
        images.mkdir()
        for n in range(options.images):
            coarse = np.random.default_rng(n).integers(0, 256, (16, 22, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(images / f"{n:03d}.png")
        start = time.perf_counter()
        predict_files(open_predictor(run), [str(images)], folder / "plain", progress=False)
        plain, expected = time.perf_counter() - start, content(folder / "plain")
        found = {
            "one": on_ray(run, images, folder / "one", 1),
            "two": on_ray(run, images, folder / "two", 2),
            "killed": on_ray(run, images, folder / "killed", 2, kill=True),
        }
        contents = {key: content(folder / key) for key in found}
        lost = sum(len(expected.keys() - files.keys()) for files in contents.values())
        different = sum(files.get(file) != value for files in contents.values() for file, value in expected.items())
    result = {
        "speedup_of_two": round(found["one"]["seconds"] / found["two"]["seconds"], 2),
        "lost_files": lost,
        "different_files": different,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "images": options.images,
        "plain_seconds": round(plain, 2),
        **found,
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
