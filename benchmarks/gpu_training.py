"""How long does a step of training take on a GPU, with and without CUDA graphs?

    python benchmarks/gpu_training.py --camvid DIR --runs DIR --out FILE

`efficient-unet`, batches of 8 crops of 256 × 320. First the forward and backward pass alone: started from Python or
replayed from a CUDA graph, with two layouts of memory, in bfloat16 and in float32 with TF32. Then steps of
`sfumato fit` with all that belongs to them, one training alone and several at the same time: the median time between
two steps. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import camvid
import torch
from jobs import absolute
from torch import Tensor

from sfumato.models import EfficientUNet
from sfumato.training.cuda_graph import CudaGraph
from sfumato.training.member import channels_last

BATCH, CROP, CLASSES = 8, (256, 320), 11


def pass_time(mixed: bool, last: bool, graph: bool, steps: int = 20) -> float:
    """Milliseconds of a forward and backward pass: median over steps."""
    network = EfficientUNet(CLASSES).cuda().train()
    images = torch.rand(BATCH, 3, *CROP, device="cuda")
    if last:
        channels_last(network)
    times = []
    with torch.autocast("cuda", torch.bfloat16, mixed):
        if graph:
            CudaGraph(network).record((images,))
        for _ in range(steps + 5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            output: Tensor = network(images)
            output.float().square().mean().backward()
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
            for parameter in network.parameters():
                parameter.grad = None
    return median(times[5:])


def fit_once(options: argparse.Namespace) -> None:
    """Train, and print the median milliseconds between two steps."""
    from sfumato.cli import main as command_line
    from sfumato.training.module import TrainingModule

    times: list[float] = []
    before = TrainingModule.on_train_batch_start

    def noted(self: TrainingModule, batch: object, batch_idx: int) -> None:
        times.append(time.perf_counter())
        before(self, batch, batch_idx)

    TrainingModule.on_train_batch_start = noted
    sys.argv = ["sfumato", "fit", *camvid.FIT, "--likelihood=categorical", f"--root={options.camvid}", "--epochs=3",
                f"--out={options.out}", "--workers=0", "--logger=csv", "--quiet", *options.also.split()]  # fmt: skip
    command_line()
    each = [1e3 * (second - first) for first, second in itertools.pairwise(times)]
    print(json.dumps(median(each[len(each) // 3 :])))


def fit_times(options: argparse.Namespace, also: str, count: int) -> list[float] | str:
    """Several trainings at the same time."""
    command = [sys.executable, __file__, f"--camvid={options.camvid}", f"--runs={options.runs}", f"--also={also}",
               "--once"]  # fmt: skip
    started = [
        subprocess.Popen([*command, f"--out={options.runs / f'step-{number}-{count}-{len(also)}'}"], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        for number in range(count)
    ]  # fmt: skip
    found = [process.communicate() for process in started]
    try:
        return [json.loads(out.strip().splitlines()[-1]) for out, _ in found]
    except (IndexError, ValueError):
        return found[0][1][-800:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=absolute, required=True)
    parser.add_argument("--runs", type=absolute, required=True)
    parser.add_argument("--out", type=absolute, required=True)
    parser.add_argument("--once", action="store_true", help="train once and print the time of a step only")
    parser.add_argument("--also", default="", help="further arguments of that training")
    options = parser.parse_args()
    if options.once:
        fit_once(options)
        return
    options.runs.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for mixed in (True, False):
        for last in (True, False):
            for graph in (True, False):
                name = f"{'bf16' if mixed else 'tf32'} {'channels last' if last else 'contiguous'}"
                found[f"pass ms, {name}{', graph' if graph else ''}"] = pass_time(mixed, last, graph)
                print(found, flush=True)
    torch.cuda.empty_cache()
    for count, also in ((1, "--cuda-graph"), (1, ""), (4, "--cuda-graph")):
        found[f"step ms, {count} at a time{', graph' if also else ''}"] = fit_times(options, also, count)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(found, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
