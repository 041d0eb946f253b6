"""How many scenes are generated in a second: one and two processes, with and without the other views, at 96 × 128.

Usage: OMP_NUM_THREADS=1 python benchmarks/scenes.py [--scenes 50] [--rounds 5]

Both processor time and wall time are measured, because wall time means little on a machine that does other work. Each
number is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from sfumato.data import Scenes

RESULT = Path(__file__).parent / "results" / "scenes.json"


def make(first: int, count: int, views: bool) -> float:
    """Processor seconds of ``count`` scenes."""
    torch.set_num_threads(1)
    scenes = Scenes(first + count, views=views)
    start = time.process_time()
    for i in range(first, first + count):
        scenes[i]
    return time.process_time() - start


def rates(views: bool, scenes: int, rounds: int) -> dict[str, float]:
    """Medians over rounds for one and two processes."""
    one, two, cpu = [], [], []
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(make, (0, 0), (5, 5), (views, views)))  # imports and caches
        for number in range(rounds):
            start = time.perf_counter()
            cpu.append(pool.submit(make, number * scenes, scenes, views).result())
            one.append(scenes / (time.perf_counter() - start))
            start = time.perf_counter()
            list(pool.map(make, (number * scenes, (number + 1) * scenes), (scenes, scenes), (views, views)))
            two.append(2 * scenes / (time.perf_counter() - start))
    return {
        "scenes_per_second_1_process": round(statistics.median(one), 1),
        "scenes_per_second_2_processes": round(statistics.median(two), 1),
        "cpu_milliseconds_per_scene": round(1000 * statistics.median(cpu) / scenes, 2),
        "cpu_milliseconds_per_scene_best": round(1000 * min(cpu) / scenes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50, help="number of scenes for each process and round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    result = {
        name: rates(views, arguments.scenes, arguments.rounds) for name, views in (("views", True), ("image", False))
    }
    result |= {
        "scenes_per_second": result["image"]["scenes_per_second_2_processes"],
        "scenes_per_second_with_views": result["views"]["scenes_per_second_2_processes"],
        "size": [96, 128],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {Path('/proc/loadavg').read_text().split()[0]}",
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
