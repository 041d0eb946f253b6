"""How long scenes take to be generated: with other views, at two sizes, with cameras of one kind and of many.

Usage: OMP_NUM_THREADS=1 python benchmarks/scenes.py [--scenes 25] [--rounds 5] [--wall]

Processor time of one process is measured, because wall time means little on a machine that does other work. ``--wall``
adds the scenes that two processes make in a second. Each number is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from sfumato.data import Scenes

RESULT = Path(__file__).parent / "results" / "scenes.json"
SIZES = ((96, 128), (192, 256))
VIEWS = {"image": (), "image, right": ("right",), "image, next": ("next",), "image, right, next": ("right", "next")}


def make(first: int, count: int, size: tuple[int, int], views: tuple[str, ...], varied: bool) -> float:
    """Processor seconds of ``count`` scenes."""
    torch.set_num_threads(1)
    scenes = Scenes(first + count, size, views=views, varied=varied)
    start = time.process_time()
    for i in range(first, first + count):
        scenes[i]
    return time.process_time() - start


def measured(job: partial[float], scenes: int, rounds: int, pool: ProcessPoolExecutor | None) -> dict[str, float]:
    """The median and the smallest time of the rounds."""
    job(0, 3)  # imports and caches
    cpu = [1000 * job(number * scenes, scenes) / scenes for number in range(rounds)]
    found = {"cpu_ms": round(statistics.median(cpu), 1), "cpu_ms_smallest": round(min(cpu), 1)}
    if pool is not None:
        list(pool.map(job, (0, 0), (3, 3)))
        rates = []
        for number in range(rounds):
            start = time.perf_counter()
            list(pool.map(job, (number * scenes, (number + 1) * scenes), (scenes, scenes)))
            rates.append(2 * scenes / (time.perf_counter() - start))
        found["scenes_per_second_2_processes"] = round(statistics.median(rates), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=25, help="number of scenes in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="measure two processes too; nothing else may be running")
    arguments = parser.parse_args()
    result: dict[str, object] = {}
    with ProcessPoolExecutor(2) as pool:
        for varied in (False, True):
            for height, width in SIZES:
                for name, views in VIEWS.items():
                    job = partial(make, size=(height, width), views=views, varied=varied)
                    key = f"{'varied-scenes' if varied else 'scenes'}, {height} × {width}, {name}"
                    result[key] = measured(job, arguments.scenes, arguments.rounds, pool if arguments.wall else None)
                    print(key, result[key], flush=True)
    load = Path("/proc/loadavg").read_text().split()[0]
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, load {load}"
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
